"""What a particle set holds, in figures that can be printed or written as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryolike.conversion.plan import Survey, survey
from cryolike.errors import Notice, UsageError
from cryolike.io.cryosparc_job import read_job
from cryolike.io.pairs import read_pairs
from cryolike.io.read import read_particles
from cryolike.io.star import read_star_without_names
from cryolike.io.star_blocks import read_star_blocks
from cryolike.units import deg_from_rad

__all__ = ["OpticsSummary", "SetSummary", "inspect_particles", "summarise"]


@dataclass(frozen=True, kw_only=True)
class OpticsSummary:
    """Rows that share their optics.

    Parameters
    ----------
    label
        Optics or exposure group as the metadata writes it; empty where it has none.
    n_rows
        Number of rows.
    voltage_kV, spherical_aberration_mm, amplitude_contrast
        Of these rows.
    """

    label: str
    n_rows: int
    voltage_kV: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, kw_only=True)
class SetSummary:
    """A particle set before it is converted.

    Parameters
    ----------
    kind
        'star', 'cryosparc', 'job' or 'paired'.
    metadata_files
        Files that were read.
    n_rows
        Particles.
    n_files, n_files_found
        Stacks that are named, and those that exist and can be read.
    n_images_in_files
        Images in the stacks found.
    boxes_px
        Rows for each box size.
    modes
        Stacks for each MRC mode.
    pixel_sizes_A
        Pixel sizes of the metadata.
    pixel_size_source
        Field they come from.
    header_pixel_sizes_A
        Pixel sizes that stack headers give.
    optics
        One entry for each distinct optics.
    defocus_A, astigmatism_A, phase_shift_deg
        Smallest and largest value over all rows.
    contrast_signs
        Rows for each recorded contrast sign; empty where none is recorded.
    has_poses
        Whether rows carry viewing directions that are not all zero.
    classes
        Rows for each class.
    warnings, notes
        What should be known.
    problems
        Everything wrong.
    """

    kind: str
    metadata_files: tuple[str, ...]
    n_rows: int
    n_files: int
    n_files_found: int
    n_images_in_files: int
    boxes_px: dict[int, int]
    modes: dict[int, int]
    pixel_sizes_A: tuple[float, ...]
    pixel_size_source: str
    header_pixel_sizes_A: tuple[float, ...]
    optics: tuple[OpticsSummary, ...]
    defocus_A: tuple[float, float] | None
    astigmatism_A: tuple[float, float] | None
    phase_shift_deg: tuple[float, float] | None
    contrast_signs: dict[int, int]
    has_poses: bool
    classes: dict[str, int]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return asdict(self)


def inspect_particles(
    path: str | Path,
    *,
    passthrough: Sequence[str | Path] = (),
    mrc: str | Path | None = None,
    job: int | None = None,
    folder: str = "",
) -> SetSummary:
    """Read everything that metadata and headers of a set tell, and what is wrong with it.

    Parameters
    ----------
    path
        STAR, ``.cs`` or ``.csg`` file; with `job`, a cryoSPARC project folder.
    passthrough
        Further ``.cs`` files to join by uid.
    mrc
        Stack whose images the rows of the STAR file describe in order.
    job
        Number of a cryoSPARC restack or downsample job.
    folder
        Where the stacks are; empty to use the paths in the metadata.

    Returns
    -------
    SetSummary
        Also of sets with faults, as long as the metadata can be read.

    Raises
    ------
    MetadataError, MissingFileError
        Where the metadata as a whole cannot be read.
    """
    if Path(path).is_dir() and job is None:
        msg = f"{path} is a folder. Give the number of a cryoSPARC job in it (--job), or a file."
        raise UsageError(msg)
    if job is not None:
        return summarise(survey(read_job(path, job), folder))
    if mrc is not None:
        return summarise(survey(read_pairs([path], [mrc]), folder))
    if _names_no_images(Path(path)):
        table = read_star_without_names(path)
        advice = Notice(
            "The rows name no images: they describe the images of a stack in order. Give it with "
            "--mrc; convert with `cryolike convert paired`."
        )
        return summarise(
            Survey(
                table=table,
                image_paths=("",),
                headers=(None,),
                problems=table.problems,
                notices=(*table.notices, advice),
            )
        )
    return summarise(survey(read_particles(path, passthrough=passthrough), folder))


def _names_no_images(path: Path) -> bool:
    """Whether this is a STAR file of particles without image names."""
    if path.suffix.lower() in (".cs", ".csg"):
        return False
    columns = [set(block.columns) for block in read_star_blocks(path)]
    return any("DefocusU" in c for c in columns) and not any("ImageName" in c for c in columns)


@np.errstate(all="ignore")  # what is not finite is left out of the figures
def summarise(surveyed: Survey) -> SetSummary:
    """Put what a survey found into figures.

    Parameters
    ----------
    surveyed
        From `cryolike.conversion.survey`.

    Returns
    -------
    SetSummary
        NaN counts as absent.
    """
    table = surveyed.table
    found = [header for header in surveyed.headers if header]
    u, v = table.defocus_u_A, table.defocus_v_A
    sizes = np.unique(table.pixel_size_A[np.isfinite(table.pixel_size_A)])
    header_sizes = surveyed.header_pixel_size_A
    signs = table.contrast_sign
    return SetSummary(
        kind=table.kind,
        metadata_files=table.metadata_files,
        n_rows=len(table),
        n_files=sum(bool(name) for name in table.image_files),
        n_files_found=len(found),
        n_images_in_files=sum(header.n_images for header in found),
        boxes_px=_counts(surveyed.box_of_row[surveyed.box_of_row > 0]),
        modes=dict(Counter(header.mode for header in found)),
        pixel_sizes_A=tuple(float(f"{size:.6g}") for size in sizes),
        pixel_size_source=table.pixel_size_source,
        header_pixel_sizes_A=tuple(
            float(f"{size:.6g}") for size in np.unique(header_sizes[np.isfinite(header_sizes)])
        ),
        optics=_optics(surveyed),
        defocus_A=_range(np.concatenate([u, v])),
        astigmatism_A=_range(np.abs(u - v)),
        phase_shift_deg=_range(deg_from_rad(table.phase_shift_rad)),
        contrast_signs={} if signs is None else _counts(signs[np.abs(signs) == 1].astype(int)),
        has_poses=table.has_poses,
        classes={} if table.class_label is None else _counts(table.class_label),
        warnings=tuple(n.message for n in surveyed.notices if n.level == "warning"),
        notes=tuple(n.message for n in surveyed.notices if n.level == "note"),
        problems=tuple(map(str, surveyed.problems)),
    )


def _optics(surveyed: Survey) -> tuple[OpticsSummary, ...]:
    table = surveyed.table
    labels = table.optics_group
    names, codes = (
        (np.array([""]), np.zeros(len(table), dtype=np.int64))
        if labels is None
        else np.unique(labels, return_inverse=True)
    )
    columns = (table.voltage_kV, table.spherical_aberration_mm, table.amplitude_contrast)
    values = np.stack([codes, *columns], axis=1)
    is_known = np.isfinite(values).all(axis=1)
    for problem in table.problems:  # such as rows of an optics group that is not defined
        if problem.rows is not None:
            is_known[problem.rows] = False
    distinct, counts = np.unique(values[is_known], axis=0, return_counts=True)
    return tuple(
        OpticsSummary(
            label=str(names[int(code)]),
            n_rows=int(count),
            voltage_kV=float(voltage),
            spherical_aberration_mm=float(cs),
            amplitude_contrast=float(contrast),
        )
        for (code, voltage, cs, contrast), count in zip(distinct, counts, strict=True)
    )


def _counts(values: np.ndarray) -> dict[Any, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _range(values: np.ndarray) -> tuple[float, float] | None:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else None
