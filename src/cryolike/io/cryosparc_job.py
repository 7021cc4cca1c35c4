"""cryoSPARC job folders whose rows describe the images of the job's stacks, in sequence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryolike.errors import (
    CryoLikeError,
    MetadataError,
    MissingFileError,
    Notice,
    Problem,
    raise_problems,
)
from cryolike.io.cryosparc import build_particles
from cryolike.io.cs_file import (
    FIELDS,
    REQUIRED_CTF,
    CsRecords,
    join_found,
    last_iteration,
    load_cs,
    missing_fields,
    search_files,
)
from cryolike.io.mrc_header import read_stack_header
from cryolike.particles import ParticleTable

__all__ = ["read_job"]

_STACK_NAMES = {
    "restack": re.compile(r"batch_(\d+)_restacked\.mrcs?"),
    "downsample": re.compile(r"batch_(\d+)_downsample\.mrcs?"),
}


def read_job(folder_project: str | os.PathLike[str], job_number: int) -> ParticleTable:
    """Read a restack or downsample job whose rows describe its stacks in sequence.

    Parameters
    ----------
    folder_project
        Folder of the cryoSPARC project, that holds ``J1``, ``J2``, ….
    job_number
        Which job: 4 for ``J4``.

    Returns
    -------
    ParticleTable
        Rows of ``J{n}/J{n}_passthrough_particles.cs``, applied in order to the images of
        ``J{n}/restack/batch_*_restacked.mrc`` or, where that folder does not exist, of
        ``J{n}/downsample/batch_*_downsample.mrc``. What the rows say about image files is not
        used. CTF fields, pixel size and sign that they lack come from the job's other .cs files.

    Raises
    ------
    MissingFileError
        Where the job, its passthrough file or its stacks do not exist.
    MetadataError
        Where rows and images differ in number, stacks are missing between others, or the fields
        cannot be found.
    StackError
        Where a stack's header cannot be read.
    """
    folder = Path(folder_project) / f"J{job_number}"
    if not folder.is_dir():
        problem = Problem(
            message="there is no such job folder",
            remedy="Give the folder of the project, which holds the job's, and the job's number.",
            file=str(folder),
            kind="missing",
        )
        raise MissingFileError(problem)
    file = _passthrough_file(folder)
    records = load_cs(file)
    others = sorted(f for f in folder.glob("*.cs") if f != file)
    rejected: list[str] = []
    if missing := missing_fields(records, REQUIRED_CTF):
        fits, rejected = search_files(records, others, missing)
        if fits:
            records = join_found(records, fits, missing, level="note")
    records = _with_image_scale(records, others)
    stacks, notices = _job_stacks(folder)
    n_images = _count_images(stacks)
    if sum(n_images) != records.n_rows:
        raise _count_mismatch(records, stacks, n_images)
    counts = np.array(n_images, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    return build_particles(
        replace(records, notices=(*records.notices, *notices)),
        kind="job",
        rejected=rejected,
        reader_arguments={
            "folder_project": str(Path(folder_project).absolute()),
            "job_number": job_number,
        },
        image_files=tuple(map(str, stacks)),
        image_file_index=np.repeat(np.arange(len(stacks), dtype=np.int64), counts),
        image_index=np.arange(records.n_rows, dtype=np.int64) - np.repeat(starts, counts),
    )


def _passthrough_file(folder: Path) -> Path:
    """Find ``J4_passthrough_particles.cs``, which old versions call ``P1_J4_…``."""
    name = f"{folder.name}_passthrough_particles.cs"
    older = sorted(folder.glob(f"P*_{name}"))
    file = folder / name
    if not file.exists() and len(older) == 1:
        file = older[0]
    if not file.exists():
        there = ", ".join(sorted(f.name for f in folder.glob("*.cs"))) or "no .cs file"
        problem = Problem(
            message="there is no such file",
            remedy=f"In the job's folder: {there}. Wait until the job has finished; a .cs file "
            "that says where its images are is read with `cryolike convert cryosparc`.",
            file=str(file),
            kind="missing",
        )
        raise MissingFileError(problem)
    return file


def _with_image_scale(records: CsRecords, others: Sequence[Path]) -> CsRecords:
    """Join the file that holds pixel size and sign, where the rows lack them and one does."""
    missing = missing_fields(records, (FIELDS["pixel_size_A"], FIELDS["contrast_sign"]))
    if not missing:
        return records
    fits, _ = search_files(records, others, missing)
    if fits and last_iteration(fits) is None:
        notice = Notice(
            f"{', '.join(missing)} missing in {records.name}; {len(fits)} files beside it have "
            f"them ({', '.join(file.name for file in fits)}), so none is used."
        )
        return replace(records, notices=(*records.notices, notice))
    return join_found(records, fits, missing, level="note") if fits else records


def _job_stacks(folder: Path) -> tuple[list[Path], list[Notice]]:
    """List the job's stacks in order of their numbers."""
    there = [name for name in _STACK_NAMES if (folder / name).is_dir()]
    if not there:
        raise _no_stacks(folder, f"there is no folder {' or '.join(_STACK_NAMES)}")
    chosen, pattern = there[0], _STACK_NAMES[there[0]]
    by_number: dict[int, list[Path]] = {}
    for file in sorted((folder / chosen).iterdir()):
        if match := pattern.fullmatch(file.name):
            by_number.setdefault(int(match.group(1)), []).append(file)
    if not by_number:
        other = f" (there are both folders; {chosen} counts)" if len(there) > 1 else ""
        raise _no_stacks(folder / chosen, f"there are no batch_*.mrc stacks{other}")
    raise_problems(_numbering_problems(folder / chosen, by_number))
    notices = []
    if len(there) > 1:
        notices.append(Notice(f"{folder.name} has both {' and '.join(there)}: {chosen} used."))
    return [by_number[number][0] for number in sorted(by_number)], notices


def _no_stacks(folder: Path, message: str) -> MissingFileError:
    problem = Problem(
        message=message,
        remedy="Give a finished restack or downsample job; a .cs file that says where its images "
        "are is read with `cryolike convert cryosparc`.",
        file=str(folder),
        kind="missing",
    )
    return MissingFileError(problem)


def _numbering_problems(folder: Path, by_number: Mapping[int, Sequence[Path]]) -> list[Problem]:
    """Find stacks that are there twice, or missing between others."""
    problems = [
        Problem(
            message=f"{len(files)} stacks have the number {number}: "
            f"{', '.join(file.name for file in files)}",
            remedy="Leave only the right one in the folder.",
            file=str(folder),
        )
        for number, files in sorted(by_number.items())
        if len(files) > 1
    ]
    last = max(by_number)
    n_absent = last + 1 - len(by_number)
    if n_absent:
        first_absent = next(i for i in range(last) if i not in by_number)
        after = [by_number[number][0].name for number in sorted(by_number) if number > first_absent]
        absent = f"number {first_absent} is missing"
        if n_absent > 1:
            absent = f"number {first_absent} and {n_absent - 1:,} more are missing"
        problems.append(
            Problem(
                message=f"stacks must be numbered from 0 without a gap, but {absent}",
                remedy="Copy the missing stacks, or run the job again: rows apply to images in "
                "sequence.",
                file=str(folder),
                places=[f"there: {name}" for name in after],
            )
        )
    return problems


def _count_images(stacks: Sequence[Path]) -> list[int]:
    """Images of each stack, from the headers; all unreadable ones in one error."""
    counts: list[int] = []
    problems: list[Problem] = []
    for stack in stacks:
        try:
            counts.append(read_stack_header(stack).n_images)
        except CryoLikeError as error:
            problems += error.problems
    raise_problems(problems)
    return counts


def _count_mismatch(
    records: CsRecords, stacks: Sequence[Path], n_images: Sequence[int]
) -> MetadataError:
    problem = Problem(
        message=f"{records.n_rows:,} rows, but the {len(stacks):,} stacks in {stacks[0].parent} "
        f"hold {sum(n_images):,} images",
        remedy="Rows apply to images in sequence: the files must be of one finished job.",
        file=records.path,
        places=[f"{stack.name}: {n:,} images" for stack, n in zip(stacks, n_images, strict=True)],
    )
    return MetadataError(problem)
