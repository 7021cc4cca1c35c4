"""Particles of RELION STAR files.

::

    read_star_blocks -> choice of blocks -> join_optics -> quantities and checks -> ParticleTable
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from cryolike.errors import Notice, Problem, raise_problems
from cryolike.io.columns import build_table
from cryolike.io.star_blocks import StarBlock, read_star_blocks
from cryolike.io.star_checks import (
    CTF_APPLIED,
    MAG_MAT,
    ZERNIKE,
    corrected_images,
    differences,
    ignored_physics,
    image_name_problems,
    volume_faults,
)
from cryolike.io.star_quantities import (
    CTF_LABELS,
    NAMES,
    PIXEL_SIZES,
    POSES,
    box_sizes,
    ctf_columns,
    pixel_size_column,
    pose_columns,
    unit_doubts,
)
from cryolike.io.star_tables import (
    ImageNames,
    JoinedTables,
    join_optics,
    optics_faults,
    place_of,
    read_table,
)
from cryolike.particles import ParticleTable, with_unusable_rows

__all__ = ["particle_block", "read_star", "read_star_without_names"]

_NUMBERS = (
    *CTF_LABELS.values(),
    "DefocusAngle",
    "PhaseShift",
    "ImageSize",
    "ImageDimensionality",
    "BeamTiltX",
    "BeamTiltY",
    *MAG_MAT,
)
_TEXTS = ("OpticsGroup", "ClassNumber", *ZERNIKE, *CTF_APPLIED)
_TOMO_STACKS = ("TomoSubTomosAre2DStacks", "TomoVisibleFrames")
_TOMO = ("TomoName", "TomoParticleName", "TomoParticleId", "CtfImage")


@np.errstate(all="ignore")  # what is not finite is reported by row
def read_star(path: str | Path, *, accept_ctf_applied: bool = False) -> ParticleTable:
    """Read a STAR file whose rows name their images.

    Single tables (RELION 3.0 and earlier) and tables with optics groups (RELION 3.1 and later) are
    read; labels may have the prefix `rln`, `_rln` or none. A row's optics group gives what the row
    itself does not.

    Parameters
    ----------
    path
        STAR file.
    accept_ctf_applied
        Read data flagged as phase-flipped or CTF-premultiplied, with a warning.

    Returns
    -------
    ParticleTable
        Of kind 'star', rows in order of the file. What is wrong with rows is in its `problems`.
        An image name without '@' means the only image of that file; its `image_index` is −1 until
        the stack is known to hold one image. A name that cannot be read is listed in `problems`,
        and stands as a whole, with the index −2, for the stack; so does a row with a wrong number
        of values, whose other columns mean nothing.

    Raises
    ------
    MetadataError
        Where the structure of the file, or what it is, does not allow reading any row; lists all
        such faults.
    MissingFileError
        Where there is no such file.
    """
    joined = _open_source(Path(path), indexed=True)
    names = cast("ImageNames", joined.particles.names)
    in_degrees = {"angle_in_degrees": True, "phase_in_degrees": True}
    columns = ctf_columns(joined, **in_degrees)
    pixel_size, of_pixels = pixel_size_column(joined)
    poses, of_poses = pose_columns(joined, pixel_size)
    if pixel_size is not None:
        columns["pixel_size_A"] = pixel_size
    notices = [*unit_doubts(joined, **in_degrees), *of_pixels, *of_poses]
    table = build_table(
        kind="star",
        columns=columns | poses,
        pixel_size_source="" if pixel_size is None else pixel_size.label,
        image_files=names.files,
        image_file_index=names.file_index,
        image_index=names.image_index,
        reader_arguments={
            "path": str(Path(path).absolute()),
            "accept_ctf_applied": accept_ctf_applied,
        },
        **_shared_arguments(joined, notices, accept_ctf_applied=accept_ctf_applied),
    )
    return _with_malformed_rows(table, joined.particles.block)


@np.errstate(all="ignore")
def read_star_without_names(
    path: str | Path,
    *,
    defocus_angle_is_degree: bool = True,
    phase_shift_is_degree: bool = True,
    accept_ctf_applied: bool = False,
) -> ParticleTable:
    """Read a STAR file whose rows describe the images of one stack, in sequence.

    Poses, pixel sizes and image names are ignored even where the file has them.

    Parameters
    ----------
    path
        STAR file.
    defocus_angle_is_degree, phase_shift_is_degree
        Whether the file has these angles in degrees; else they are in radians.
    accept_ctf_applied
        Read data flagged as phase-flipped or CTF-premultiplied, with a warning.

    Returns
    -------
    ParticleTable
        Of kind 'paired', rows in order of the file; its only stack name is empty, for the caller
        to fill in. What is wrong with rows is in its `problems`.

    Raises
    ------
    MetadataError
        Where the structure of the file, or what it is, does not allow reading any row; lists all
        such faults.
    MissingFileError
        Where there is no such file.
    """
    joined = _open_source(Path(path), indexed=False)
    in_degrees = {
        "angle_in_degrees": defocus_angle_is_degree,
        "phase_in_degrees": phase_shift_is_degree,
    }
    n_rows = joined.particles.block.n_rows
    table = build_table(
        kind="paired",
        columns=ctf_columns(joined, **in_degrees),
        image_files=("",),
        image_file_index=np.zeros(n_rows, dtype=np.int64),
        image_index=np.arange(n_rows, dtype=np.int64),
        **_shared_arguments(
            joined, unit_doubts(joined, **in_degrees), accept_ctf_applied=accept_ctf_applied
        ),
    )
    return _with_malformed_rows(table, joined.particles.block)


def _with_malformed_rows(table: ParticleTable, block: StarBlock) -> ParticleTable:
    """Put rows that could not be read in their places, where each is a fault of its own."""
    names = [block.malformed_text(i) for i in range(len(block.malformed))]
    return with_unusable_rows(table, block.malformed_rows, names, block.malformed_faults())


def _shared_arguments(
    joined: JoinedTables, notices: Iterable[Notice], *, accept_ctf_applied: bool
) -> dict[str, Any]:
    """Give all arguments of `build_table` that both kinds of table share.

    Parameters
    ----------
    joined
        What was read.
    notices
        Found so far.
    accept_ctf_applied
        Whether corrected images are accepted.
    """
    particles, optics = joined.particles, joined.optics
    block = particles.block
    box_px, of_box = box_sizes(joined)
    corrected, accepted = corrected_images(joined, accept=accept_ctf_applied)
    problems = [*joined.problems, *image_name_problems(joined), *corrected]
    notices = [
        *joined.notices,
        *notices,
        *of_box,
        *differences(joined),
        *ignored_physics(joined),
        *accepted,
    ]
    written = (*block.labels, *(() if optics is None else optics.block.labels))
    classes, groups = joined.labels("ClassNumber"), particles.texts.get("OpticsGroup")
    return {
        "metadata_file": str(block.path),
        "n_rows": block.n_rows,
        "place": place_of(particles),
        "names": NAMES,
        "fields_present": list(dict.fromkeys(label.removeprefix("_") for label in written)),
        "missing_remedy": "Give the particles STAR of a job that came after CTF estimation, "
        "with its data_optics table.",
        "problems": problems,
        "notices": notices,
        "class_label": None if classes is None else classes.of_rows(),
        "optics_group": None if groups is None else groups.of_rows(),
        "box_px": box_px,
    }


# Choice of blocks


def _open_source(path: Path, *, indexed: bool) -> JoinedTables:
    """Choose the blocks, read what is needed of them, and join them."""
    blocks = read_star_blocks(path)
    particles, faults = _choose_particles(path, blocks, indexed=indexed)
    optics = [block for block in blocks if block.name == "optics"]
    if len(optics) > 1:
        faults.append(_ambiguous(path, "data_optics occurs more than once", optics))
    faults += [fault for block in (*particles, *optics) for fault in block.faults]
    faults += [fault for block in optics for fault in block.malformed_faults()]
    numbers = (*_NUMBERS, *((*PIXEL_SIZES, *POSES) if indexed else ()))
    groups = None
    if len(optics) == 1 and not (optics[0].faults or len(optics[0].malformed)):
        groups = read_table(optics[0], numbers, _TEXTS, with_names=False)
        faults += volume_faults(groups)
        if len(particles) == 1:
            faults += optics_faults(groups, particles[0])
    malformed = [fault for block in particles for fault in block.malformed_faults()]
    if faults or not particles[0].n_rows:
        raise_problems([*faults, *malformed])

    table = read_table(particles[0], numbers, _TEXTS, with_names=indexed)
    raise_problems(volume_faults(table))
    return join_optics(table, groups, _ignored_blocks(blocks, [*particles, *optics]))


def particle_block(path: str | Path) -> tuple[StarBlock, list[StarBlock]]:
    """Find the table of particles that `read_star` reads.

    Parameters
    ----------
    path
        STAR file.

    Returns
    -------
    particles : StarBlock
        The table.
    blocks : list of StarBlock
        All blocks of the file.

    Raises
    ------
    MetadataError
        Where there is none, or several.
    MissingFileError
        Where there is no such file.
    """
    blocks = read_star_blocks(path)
    particles, faults = _choose_particles(Path(path), blocks, indexed=True)
    raise_problems([*faults, *(fault for block in particles for fault in block.faults)])
    return particles[0], blocks


def _choose_particles(
    path: Path, blocks: list[StarBlock], *, indexed: bool
) -> tuple[list[StarBlock], list[Problem]]:
    """Find the particle table: by its name, or else by what only it can have."""
    named = [block for block in blocks if block.name == "particles"]
    if len(named) > 1:
        return named, [_ambiguous(path, "data_particles occurs more than once", named)]
    key = {"ImageName"} if indexed else {"DefocusU", "DefocusV"}
    candidates = named or [block for block in blocks if block.name not in ("optics", "micrographs")]
    if indexed or not named:
        candidates = [block for block in candidates if not key.isdisjoint(block.columns)]
    if not candidates:
        return [], [_no_particles(path, blocks, named, indexed=indexed)]
    if len(candidates) > 1:
        what = "several blocks could hold the particles"
        return candidates, [_ambiguous(path, what, candidates)]
    return candidates, _tomography(path, candidates[0], blocks, indexed=indexed)


def _ambiguous(path: Path, message: str, blocks: list[StarBlock]) -> Problem:
    return Problem(
        message=f"{message}: {', '.join(map(str, blocks))}",
        remedy="Keep the right one, as data_particles or data_optics, and remove the others.",
        file=str(path),
    )


def _no_particles(
    path: Path, blocks: list[StarBlock], named: list[StarBlock], *, indexed: bool
) -> Problem:
    """Say what the file is instead of a particle set."""
    labels = [label for block in blocks for label in block.labels]
    columns = {label for block in blocks for label in block.columns}
    problem = partial(
        Problem,
        file=str(path),
        places=[f"{block}: {', '.join(block.labels) or 'no labels'}" for block in blocks],
    )
    if any(label.lower().startswith("_cistem") for label in labels):
        return problem(
            message="no RELION labels (_rln…) found; cisTEM STAR is not supported",
            remedy="Export the particles from cisTEM in RELION's format.",
        )
    known = {*_NUMBERS, *PIXEL_SIZES, *POSES, *_TEXTS, "ImageName", "MicrographName"}
    if columns.isdisjoint(known) and not any(label.startswith("_rln") for label in labels):
        return problem(
            message="no RELION labels (_rln…) found",
            remedy="Give a STAR file of particles as RELION writes it.",
        )
    remedy = "Give the particles.star of an extraction or refinement job."
    if any(b.name == "micrographs" for b in blocks) or (
        "MicrographName" in columns and "CoordinateX" not in columns
    ):
        message = "this is a micrographs STAR (no rlnImageName); need a particles STAR"
        return problem(message=message, remedy=remedy)
    which = f"{named[0]} has no" if named else "no block has"
    if not indexed:
        return problem(message=f"{which} rlnDefocusU", remedy=remedy)
    remedy += (
        " If its rows describe the images of one stack in sequence, use `cryolike convert paired`."
    )
    return problem(message=f"{which} rlnImageName", remedy=remedy)


def _tomography(
    path: Path, particles: StarBlock, blocks: list[StarBlock], *, indexed: bool
) -> list[Problem]:
    """Refuse subtomograms, whose images are volumes or stacks of tilts."""
    labels = {label for b in blocks for label in b.columns if b is particles or b.name == "optics"}
    found = [label for label in _TOMO_STACKS if label in labels]
    # Single-particle data cut out of tilt series can carry the name of the tomogram.
    of_tomograms = [label for label in _TOMO if label in labels]
    if indexed and of_tomograms and particles.n_rows and not particles.faults:
        name = particles.value(0, particles.columns["ImageName"])
        found += of_tomograms if "@" not in name else []
    return [
        Problem(
            message=f"this is a RELION subtomogram STAR (rln{label}): not supported",
            remedy="Export single-particle data.",
            file=str(path),
        )
        for label in found[:1]
    ]


def _ignored_blocks(blocks: list[StarBlock], used: list[StarBlock]) -> list[Notice]:
    names = [f"data_{block.name}" for block in blocks if block not in used]
    if not names:
        return []
    return [Notice(f"Blocks that were not needed are ignored: {', '.join(names)}.", "note")]
