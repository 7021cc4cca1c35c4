"""What RELION's labels mean: the quantities of a particle table, in its units."""

from __future__ import annotations

import numpy as np

from cryolike.errors import Notice
from cryolike.io.columns import Column
from cryolike.io.star_tables import JoinedTables
from cryolike.units import A_PER_UM, rad_from_deg

__all__ = [
    "CTF_LABELS",
    "NAMES",
    "PIXEL_SIZES",
    "POSES",
    "box_sizes",
    "ctf_columns",
    "pixel_size_column",
    "pose_columns",
    "unit_doubts",
]

CTF_LABELS = {
    "defocus_u_A": "DefocusU",
    "defocus_v_A": "DefocusV",
    "spherical_aberration_mm": "SphericalAberration",
    "voltage_kV": "Voltage",
    "amplitude_contrast": "AmplitudeContrast",
    "ctf_bfactor_A2": "CtfBfactor",
    "ctf_scale": "CtfScalefactor",
}
NAMES = {
    name: f"rln{label}"
    for name, label in {
        **CTF_LABELS,
        "defocus_angle_rad": "DefocusAngle",
        "phase_shift_rad": "PhaseShift",
    }.items()
}
PIXEL_SIZES = (
    "ImagePixelSize",
    "PixelSize",
    "DetectorPixelSize",
    "Magnification",
    "MicrographPixelSize",
    "MicrographOriginalPixelSize",
)
POSES = (
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "OriginX",
    "OriginY",
)


def ctf_columns(
    joined: JoinedTables, *, angle_in_degrees: bool, phase_in_degrees: bool
) -> dict[str, Column]:
    """Give what the CTF needs, angles in radians."""
    found = {name: joined.column(label) for name, label in CTF_LABELS.items()}
    for name, label, in_degrees in (
        ("defocus_angle_rad", "DefocusAngle", angle_in_degrees),
        ("phase_shift_rad", "PhaseShift", phase_in_degrees),
    ):
        column = joined.column(label)
        found[name] = _in_radians(column) if column is not None and in_degrees else column
    return {name: column for name, column in found.items() if column is not None}


def _in_radians(column: Column) -> Column:
    return Column(label=column.label, values=rad_from_deg(column.values), text=column.text)


def unit_doubts(
    joined: JoinedTables, *, angle_in_degrees: bool, phase_in_degrees: bool
) -> list[Notice]:
    """Warn of angles that look like being in the other unit."""
    found: list[Notice] = []
    for label, in_degrees, looks_like_radians in (
        ("DefocusAngle", angle_in_degrees, _angles_look_like_radians),
        ("PhaseShift", phase_in_degrees, _phases_look_like_radians),
    ):
        column = joined.column(label)
        if column is None:
            continue
        if in_degrees and looks_like_radians(column.values):
            found.append(_unit_doubt(column, "radians", "degrees"))
        elif not in_degrees and np.any(np.abs(column.values) > 4 * np.pi):
            found.append(_unit_doubt(column, "degrees", "radians"))
    return found


def _unit_doubt(column: Column, looks_like: str, read_as: str) -> Notice:
    low, high = np.nanmin(column.values), np.nanmax(column.values)
    return Notice(
        f"The values of {column.label}, {low:g} to {high:g}, look like {looks_like}; they are read "
        f"as {read_as}."
    )


def _angles_look_like_radians(values: np.ndarray) -> bool:
    return bool(values.size >= 20 and np.all(np.abs(values) <= np.pi) and np.any(values != 0))


def _phases_look_like_radians(values: np.ndarray) -> bool:
    if values.size < 10 or not np.all((values > 0) & (values < 3.2)):
        return False
    return not (np.all(values == values[0]) and values[0] == np.round(values[0]))


def pixel_size_column(joined: JoinedTables) -> tuple[Column | None, list[Notice]]:
    """Give the pixel size of the images, from the best field there is."""
    for label in ("ImagePixelSize", "PixelSize"):
        if (column := joined.column(label)) is not None:
            return column, []
    detector, magnification = joined.column("DetectorPixelSize"), joined.column("Magnification")
    if detector is not None and magnification is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = A_PER_UM * detector.values / magnification.values
        column = Column(
            label=f"10000·{detector.label}/{magnification.label}",
            values=values,
            text=lambda row: f"{detector.text(row)} / {magnification.text(row)}",
        )
        return column, []
    for label in ("MicrographPixelSize", "MicrographOriginalPixelSize"):
        if (column := joined.column(label)) is not None:
            message = (
                f"The pixel size is taken from {column.label}, which is that of the "
                "micrographs: wrong if the particles were rescaled."
            )
            return column, [Notice(message)]
    return None, []


def pose_columns(
    joined: JoinedTables, pixel_size: Column | None
) -> tuple[dict[str, Column], list[Notice]]:
    """Give orientations in radians and origins in Å."""
    found: dict[str, Column] = {}
    notices: list[Notice] = []
    for name in ("rot", "tilt", "psi"):
        if (column := joined.column(f"Angle{name.capitalize()}")) is not None:
            found[f"{name}_rad"] = _in_radians(column)
    for axis in ("X", "Y"):
        in_A, in_px = joined.column(f"Origin{axis}Angst"), joined.column(f"Origin{axis}")
        name = f"origin_{axis.lower()}_A"
        if in_A is not None:
            found[name] = in_A
        elif in_px is not None and pixel_size is not None:
            values = in_px.values * pixel_size.values
            found[name] = Column(label=in_px.label, values=values, text=in_px.text)
        elif in_px is not None:
            message = f"{in_px.label} is in pixels, and the file gives no pixel size: ignored."
            notices.append(Notice(message))
    return found, notices


def box_sizes(joined: JoinedTables) -> tuple[np.ndarray | None, list[Notice]]:
    """Give the box size of each image in pixels, 0 where it is none."""
    column = joined.column("ImageSize")
    if column is None:
        return None, []
    v = column.values
    usable = np.isfinite(v) & (v > 0) & (v < 2**31) & (v == np.round(v))
    notices: list[Notice] = []
    if n := int((~usable).sum()):
        message = f"{column.label} is no box size in {n:,} of {v.size:,} rows: ignored there."
        notices = [Notice(message)]
    return np.where(usable, v, 0).astype(np.int64), notices
