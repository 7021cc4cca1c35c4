"""What a STAR file says that is wrong, contradictory, or that the CTF model leaves out."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from cryolike.errors import Notice, Problem
from cryolike.io.columns import row_problem
from cryolike.io.star_tables import JoinedTables, StarTable, place_of

__all__ = [
    "CTF_APPLIED",
    "MAG_MAT",
    "ZERNIKE",
    "corrected_images",
    "differences",
    "ignored_physics",
    "image_name_problems",
    "volume_faults",
]

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
MAG_MAT = ("MagMat00", "MagMat01", "MagMat10", "MagMat11")
CTF_APPLIED = {
    "CtfDataArePhaseFlipped": "phase-flipped",
    "CtfDataAreCtfPremultiplied": "CTF-premultiplied",
}
ZERNIKE = ("OddZernike", "EvenZernike")


def image_name_problems(joined: JoinedTables) -> list[Problem]:
    """Find image names that cannot be read."""
    particles, names = joined.particles, joined.particles.names
    if names is None:
        return []
    problem = partial(
        row_problem,
        file=str(particles.block.path),
        place=place_of(particles),
        text=lambda row: particles.text(row, "ImageName"),
    )
    label = particles.written("ImageName")
    return [
        *problem(
            names.zero,
            f"{label} has image number 0",
            "RELION counts images from 1: correct the program that wrote the file.",
        ),
        *problem(
            names.bad,
            f"{label} is not of the form NUMBER@STACK",
            "Correct the file, or leave these rows out with --on-bad-row skip.",
        ),
    ]


def differences(joined: JoinedTables) -> list[Notice]:
    """Note fields that both tables have, with different values."""
    found: list[Notice] = []
    if joined.optics is None or joined.optics_row is None:
        return found
    for label, values in joined.particles.numbers.items():
        if label in joined.optics.numbers:
            other = joined.optics.numbers[label][joined.optics_row]
            if n := int((values != other).sum()):
                message = (
                    f"{joined.particles.written(label)} differs between particles and optics "
                    f"groups in {n:,} of {values.size:,} rows: the particles' values are used."
                )
                found.append(Notice(message, "note"))
    return found


def corrected_images(joined: JoinedTables, *, accept: bool) -> tuple[list[Problem], list[Notice]]:
    """Refuse images whose CTF was corrected, or warn of them where they are accepted."""
    problems: list[Problem] = []
    notices: list[Notice] = []
    for label, what in CTF_APPLIED.items():
        problem, notice = _corrected_as(joined, label, what, accept=accept)
        problems += problem
        notices += notice
    return problems, notices


def _corrected_as(
    joined: JoinedTables, label: str, what: str, *, accept: bool
) -> tuple[list[Problem], list[Notice]]:
    flags = joined.labels(label)
    if flags is None:
        return [], []
    bad = flags.in_rows(lambda value: value.lower() not in ("0", "false", "no"))
    if accept and bad.any():
        message = (
            f"The images of {int(bad.sum()):,} of {bad.size:,} rows are {what} (rln{label}), "
            "which the CTF model does not take into account; accepted on request."
        )
        return [], [Notice(message)]
    return row_problem(
        bad,
        f"the images are {what} (rln{label}), but raw images are needed",
        "Extract the particles without CTF correction, or accept them as they are with "
        "--accept-ctf-applied (accept_ctf_applied=True).",
        file=str(joined.particles.block.path),
        place=place_of(joined.particles),
    ), []


def ignored_physics(joined: JoinedTables) -> list[Notice]:
    """Warn of aberrations that the file records and that are not applied."""
    found: list[Notice] = []
    tilts = [c for c in (joined.column("BeamTiltX"), joined.column("BeamTiltY")) if c is not None]
    if tilts:
        size = np.nan_to_num(np.sqrt(sum(c.values**2 for c in tilts)))
        if n := int((size > 0).sum()):
            found.append(_not_applied("beam tilt", f"up to {size.max():.3g} mrad", n))
    for label in ZERNIKE:
        vectors = joined.labels(label)
        if vectors is not None:
            sizes = np.array([*map(_largest, vectors.values), 0.0])[vectors.codes]
            if n := int((sizes > 0).sum()):
                size_text = f"coefficients up to {sizes.max():.3g}"
                found.append(_not_applied(f"rln{label} (aberrations)", size_text, n))
    return found + _anisotropic_magnification(joined)


def _anisotropic_magnification(joined: JoinedTables) -> list[Notice]:
    entries = [joined.column(label) for label in MAG_MAT]
    present = [c.values for c in entries if c is not None]
    if len(present) != len(MAG_MAT):
        return []
    matrix = np.stack(present, axis=1)
    zero = np.all(matrix == 0, axis=1)
    deviation = np.nan_to_num(np.abs(matrix - [1, 0, 0, 1]).max(axis=1))
    deviation[zero] = 0
    found: list[Notice] = []
    if n := int((deviation > 0).sum()):
        size = f"up to {100 * deviation.max():.3g} %"
        found.append(_not_applied("anisotropic magnification (rlnMagMat)", size, n))
    if n := int(zero.sum()):
        found.append(Notice(f"rlnMagMat is all zero in {n:,} rows: taken as the identity."))
    return found


def _not_applied(what: str, size: str, n_rows: int) -> Notice:
    return Notice(f"The file records {what}, {size}, in {n_rows:,} rows: this is not applied.")


def _largest(vector: str) -> float:
    return max((abs(float(number)) for number in _NUMBER.findall(vector)), default=0.0)


def volume_faults(table: StarTable) -> list[Problem]:
    """Refuse particles that are volumes."""
    label = "ImageDimensionality"
    if label not in table.numbers or not np.any(table.numbers[label] == 3):
        return []
    message = f"{table.written(label)} is 3: these particles are volumes (subtomograms)"
    file = str(table.block.path)
    return [Problem(message=message, remedy="Export single-particle data.", file=file)]
