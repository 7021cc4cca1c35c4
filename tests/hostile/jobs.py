"""Folders of cryoSPARC jobs: damaged, incomplete and odd ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Accepted,
    Make,
    Rejected,
    Source,
    job_source,
)
from tests.hostile.cryosparc_sets import (
    only,
    records,
    save,
    single,
)

from cryolike.errors import MissingFileError, StackError


def job(
    build: SetBuilder,
    counts: Sequence[int] = (3, 2),
    folder: str = "restack",
    rows: int = 5,
    **values: Any,
) -> Path:
    """Write a job of stacks of so many images; return its folder."""
    suffix = "restacked" if folder == "restack" else "downsample"
    for i, count in enumerate(counts):
        build.stack(f"J4/{folder}/batch_{i:06d}_{suffix}.mrc", build.noise(count, seed=i))
    build.cryosparc(["x"] * rows, [0] * rows, "J4/J4_passthrough_particles.cs", **values)
    return build.folder / "J4"


def changed_job(change: Callable[[Path, SetBuilder], object], **keywords: Any) -> Make:
    """Make a job and change something in its folder."""

    def make(build: SetBuilder) -> Source:
        change(job(build, **keywords), build)
        return job_source(build.folder)

    return make


def job_without_ctf(build: SetBuilder) -> Source:
    """Make a job no file of which has the CTF."""
    path = job(build) / "J4_passthrough_particles.cs"
    save(path, only(records(path), ["uid", "blob/psize_A"]))
    return job_source(build.folder)


def cut(path: Path, n_bytes: int = 100) -> None:
    """Take some bytes off the end of a file."""
    path.write_bytes(path.read_bytes()[:-n_bytes])


def cut_both(folder: Path, _build: SetBuilder) -> None:
    """Cut one stack and empty the other."""
    cut(folder / "restack/batch_000000_restacked.mrc")
    (folder / "restack/batch_000001_restacked.mrc").write_bytes(b"")


def gap_and_number_twice(folder: Path, build: SetBuilder) -> None:
    """Remove the first stack and write another with the number of the second."""
    (folder / "restack/batch_000000_restacked.mrc").unlink()
    build.stack("J4/restack/batch_1_restacked.mrc", build.noise(1))


REJECTED = [
    Rejected(
        id="job-missing",
        make=lambda build: job_source(build.folder, 7),
        error=MissingFileError,
        says=("project/J7", "there is no such job folder"),
        remedy="Give the folder of the project",
    ),
    Rejected(
        id="9-passthrough-missing",
        make=changed_job(lambda folder, _: (folder / "J4_passthrough_particles.cs").unlink()),
        error=MissingFileError,
        says=("J4_passthrough_particles.cs", "no .cs file"),
        remedy="Wait until the job has finished",
    ),
    Rejected(
        id="9-no-stacks",
        make=changed_job(lambda folder, _: (folder / "restack").rename(folder / "else")),
        error=MissingFileError,
        says=("project/J4", "there is no folder restack or downsample"),
        remedy="Give a finished restack or downsample job",
    ),
    Rejected(
        id="9-folder-of-other-stacks",
        make=changed_job(lambda folder, _: (folder / "restack").rename(folder / "downsample")),
        error=MissingFileError,
        says=("J4/downsample", "no batch_*.mrc stacks"),
        remedy="Give a finished restack or downsample job",
    ),
    Rejected(
        id="9-gap-in-the-numbers",
        make=changed_job(
            lambda folder, _: (folder / "restack/batch_000001_restacked.mrc").unlink(),
            counts=(2, 2, 1),
        ),
        says=("J4/restack", "number 1 is missing", "there: batch_000002_restacked.mrc"),
        remedy="Copy the missing stacks",
    ),
    Rejected(
        id="9-gap-and-a-number-twice",
        make=changed_job(gap_and_number_twice),
        says=(
            "2 stacks have the number 1: batch_000001_restacked.mrc, batch_1_",
            "number 0 is missing",
        ),
        remedy="Leave only the right one",
        n_problems=2,
    ),
    Rejected(
        id="9-rows-and-images-differ",
        make=lambda build: job_source(job(build, rows=7).parent),
        says=("particles.cs: 7 rows, but the 2 stacks in", "hold 5 images", ".mrc: 3 images"),
        remedy="of one finished job",
    ),
    Rejected(
        id="76-stacks-damaged",
        make=changed_job(cut_both),
        error=StackError,
        says=("batch_000000_restacked.mrc: is cut off", "batch_000001_restacked.mrc: is empty"),
        remedy="Copy or write the file again.",
        n_problems=2,
    ),
    Rejected(
        id="9-no-ctf-anywhere",
        make=job_without_ctf,
        says=("J4_passthrough_particles.cs", "ctf/df1_A, ctf/df2_A", "fields present: uid"),
        remedy="Copy the job's other .cs files",
    ),
    Rejected(
        id="62-nan-in-a-job",
        make=lambda build: job_source(
            job(build, ctf__cs_mm=single([2.7, 2.7, np.nan, 2.7, 2.7])).parent
        ),
        says=("J4_passthrough_particles.cs: ctf/cs_mm", "1 of 5 rows", "row 2"),
        remedy="--on-bad-row skip",
    ),
]


def plain_job(build: SetBuilder) -> Source:
    """Make the job."""
    return job_source(job(build).parent)


def both_folders(folder: Path, build: SetBuilder) -> None:
    """Add stacks of another kind, which do not count."""
    build.stack("J4/downsample/batch_000000_downsample.mrc", build.noise(4))


def unpadded(folder: Path, _build: SetBuilder) -> None:
    """Write the numbers of the stacks without zeros in front."""
    for i in range(2):
        path = folder / f"restack/batch_{i:06d}_restacked.mrc"
        path.rename(path.with_name(f"batch_{i}_restacked.mrc"))


def odd_job(id: str, make: Make, *, warns: Sequence[str] = ()) -> Accepted:
    """Odd job whose images are those of the plain one."""
    return Accepted(id=id, make=make, warns=tuple(warns), same_as=plain_job)


ACCEPTED = [
    odd_job("control", plain_job),
    odd_job("9-downsample", lambda build: job_source(job(build, folder="downsample").parent)),
    odd_job("9-numbers-not-padded", changed_job(unpadded)),
    odd_job(
        "9-both-folders",
        changed_job(both_folders),
        warns=["J4 has both restack and downsample: restack used"],
    ),
    odd_job(
        "9-rows-that-name-other-images",
        lambda build: job_source(
            job(build, blob__idx=np.array([9, 9, 9, 9, 9], dtype=np.uint32)).parent
        ),
    ),
]
