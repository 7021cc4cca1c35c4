"""The image descriptor: how images are to be interpreted, and the file it is kept in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from cryolike.errors import (
    CryoLikeError,
    MissingFileError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from cryolike.grids import CartesianGrid2D, PolarGrid

__all__ = ["ImageDescriptor", "Precision", "load_descriptor", "one_pixel_size"]

PIXEL_SIZE_TOLERANCE = 1e-3
"""Pixel sizes that differ by a smaller fraction are equal."""

_ATOM_SHAPES = ("gaussian", "hard-sphere")

_MAX_FILE_BYTES = 2**20
"""A descriptor's file holds a few kilobytes; one that claims more is not read."""


class Precision(StrEnum):
    """Of the arithmetic and of the images written."""

    SINGLE = "single"
    DOUBLE = "double"


@dataclass(frozen=True)
class ImageDescriptor:
    """Grids and precision of a set of images, and the settings of templates to compare them with.

    Make one with `from_individual_values` or `load`.

    Parameters
    ----------
    cartesian_grid
        Pixels, after any downsampling.
    polar_grid
        Points in Fourier space.
    precision
        'single' or 'double'.
    viewing_distance
        Spacing of viewing directions on the unit sphere. Carried for templates.
    atom_radii
        One radius for all atoms, Å, or None for each residue's own. Carried for templates.
    atom_selection
        Which atoms of a model count. Carried for templates.
    use_protein_residue_model
        Whether each residue is one bead with its own radius. Carried for templates.
    atom_shape
        'gaussian' or 'hard-sphere'. Carried for templates.
    """

    cartesian_grid: CartesianGrid2D
    polar_grid: PolarGrid
    precision: Precision
    viewing_distance: float
    atom_radii: float | None = None
    atom_selection: str = "name CA"
    use_protein_residue_model: bool = True
    atom_shape: str = "gaussian"

    @classmethod
    def from_individual_values(
        cls,
        n_pixels: int | Sequence[int],
        pixel_size: float | Sequence[float],
        precision: str | Precision = "single",
        resolution_factor: float = 1.0,
        viewing_distance: float | None = None,
        n_inplanes: int | None = None,
        atom_radii: float | None = None,
        atom_selection: str = "name CA",
        use_protein_residue_model: bool = True,
        atom_shape: str = "gaussian",
    ) -> Self:
        """Make a descriptor from plain values.

        Parameters
        ----------
        n_pixels
            Box size N in pixels, after any downsampling; two equal numbers are accepted.
        pixel_size
            Pixel size in Å, after any downsampling; two equal numbers are accepted.
        precision
            'single' or 'double'.
        resolution_factor
            Largest frequency as a fraction of Nyquist, above 0 to 1.
        viewing_distance
            Spacing of viewing directions; 1/(4π·resolution_factor) if None.
        n_inplanes
            Number of in-plane angles; 2N if None.
        atom_radii, atom_selection, use_protein_residue_model, atom_shape
            Settings of templates, only carried here.

        Returns
        -------
        ImageDescriptor
            Checked.

        Raises
        ------
        UsageError
            Where a value is out of range; the message lists all of them.
        """
        side_px = _one_number("n_pixels", n_pixels)
        if side_px % 1 or (n_inplanes or 0) % 1:
            msg = f"n_pixels is {n_pixels} and n_inplanes {n_inplanes}; both must be whole numbers."
            raise UsageError(msg)
        if not (0 < resolution_factor <= 1):
            msg = f"resolution_factor is {resolution_factor}; it must be above 0 and at most 1."
            raise UsageError(msg)
        grid = CartesianGrid2D(int(side_px), float(_one_number("pixel_size", pixel_size)))
        return cls(
            cartesian_grid=grid,
            polar_grid=PolarGrid(
                radius_max=resolution_factor * grid.side_px / 4,
                dist_radii=0.25,
                n_inplanes=2 * grid.side_px if n_inplanes is None else int(n_inplanes),
            ),
            precision=_parse_precision(precision),
            viewing_distance=(
                1 / (4 * np.pi * resolution_factor)
                if viewing_distance is None
                else float(viewing_distance)
            ),
            atom_radii=None if atom_radii is None else float(atom_radii),
            atom_selection=atom_selection,
            use_protein_residue_model=bool(use_protein_residue_model),
            atom_shape=atom_shape,
        )

    def __post_init__(self) -> None:
        nyquist = self.cartesian_grid.side_px / 4
        faults = []
        if self.polar_grid.radius_max > nyquist * (1 + 1e-9):
            faults.append(
                f"radius_max is {self.polar_grid.radius_max}, beyond Nyquist ({nyquist} for "
                f"{self.cartesian_grid.side_px} pixels)."
            )
        if not (math.isfinite(self.viewing_distance) and self.viewing_distance > 0):
            faults.append(f"viewing_distance is {self.viewing_distance}; it must be positive.")
        if self.atom_radii is not None and not self.atom_radii > 0:
            faults.append(f"atom_radii is {self.atom_radii}; it must be a positive number of Å.")
        if self.atom_shape not in _ATOM_SHAPES:
            faults.append(
                f"atom_shape is {self.atom_shape!r}; it must be {' or '.join(_ATOM_SHAPES)}."
            )
        if faults:
            raise UsageError("\n".join(faults))

    @property
    def resolution_A(self) -> float:
        """Finest spacing that the polar grid reaches, Å."""
        return self.cartesian_grid.box_size_A / (2 * self.polar_grid.radius_max)

    @property
    def polar_image_bytes(self) -> int:
        """Bytes of one polar image."""
        itemsize = 8 if self.precision is Precision.SINGLE else 16
        return self.polar_grid.n_shells * self.polar_grid.n_inplanes * itemsize

    def with_precision(self, precision: str | Precision) -> ImageDescriptor:
        """Copy with another precision."""
        return replace(self, precision=_parse_precision(precision))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Collect published keys and plain arrays, as descriptor and stack files hold them.

        Returns
        -------
        dict of str to ndarray
            No object arrays; an absent value is an array of size 0.
        """
        return {
            "n_pixels": self.cartesian_grid.n_pixels,
            "pixel_size": self.cartesian_grid.pixel_size,
            "radius_max": np.array(self.polar_grid.radius_max),
            "dist_radii": np.array(self.polar_grid.dist_radii),
            "n_inplanes": np.array(self.polar_grid.n_inplanes),
            "precision": np.array(str(self.precision)),
            "viewing_distance": np.array(self.viewing_distance),
            "atom_radii": np.array([] if self.atom_radii is None else self.atom_radii),
            "atom_selection": np.array(self.atom_selection),
            "use_protein_residue_model": np.array(self.use_protein_residue_model),
            "atom_shape": np.array(self.atom_shape),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Inverse of `to_arrays`; further keys are ignored.

        Raises
        ------
        UsageError
            Where a key is missing or a value is out of range.
        """
        required = ("n_pixels", "pixel_size", "radius_max", "dist_radii", "n_inplanes")
        missing = [key for key in required if key not in arrays]
        if missing:
            msg = f"not an image descriptor: no {', '.join(missing)}."
            raise UsageError(msg)
        radius = _optional(arrays, "atom_radii", None)
        resolution_factor = (
            float(arrays["radius_max"]) * 4 / _one_number("n_pixels", arrays["n_pixels"])
        )
        return cls(
            cartesian_grid=CartesianGrid2D(
                int(_one_number("n_pixels", arrays["n_pixels"])),
                _one_number("pixel_size", arrays["pixel_size"]),
            ),
            polar_grid=PolarGrid(
                float(arrays["radius_max"]),
                float(arrays["dist_radii"]),
                int(arrays["n_inplanes"]),
            ),
            precision=_parse_precision(str(_optional(arrays, "precision", "single"))),
            viewing_distance=float(
                _optional(arrays, "viewing_distance", 1 / (4 * np.pi * resolution_factor))
            ),
            atom_radii=None if radius is None else float(radius),
            atom_selection=str(_optional(arrays, "atom_selection", "name CA")),
            use_protein_residue_model=bool(_optional(arrays, "use_protein_residue_model", True)),
            atom_shape=str(_optional(arrays, "atom_shape", "gaussian")),
        )

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the descriptor to a ``.npz`` file.

        Parameters
        ----------
        path
            File to write; ``.npz`` is appended where it is missing.
        overwrite
            Whether an existing file may be replaced.

        Raises
        ------
        OutputExistsError
            Where the file exists and `overwrite` is false.
        OutputError
            Where it cannot be written.
        """
        path = _with_suffix(path)
        if path.exists() and not overwrite:
            msg = f"{path} exists. Choose another name, or overwrite it (--overwrite)."
            raise OutputExistsError(msg)
        try:
            np.savez(path, **self.to_arrays())  # type: ignore[arg-type]
        except OSError as error:
            msg = f"{path} cannot be written ({error.strerror})."
            raise OutputError(msg) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a descriptor that `save` wrote.

        Raises
        ------
        MissingFileError
            Where there is no such file.
        UsageError
            Where the file is no descriptor.
        """
        file = Path(path) if Path(path).exists() else _with_suffix(path)
        if not file.exists():
            msg = f"{path}: no such descriptor file. Make one with `cryolike describe`."
            raise MissingFileError(msg)
        try:
            return cls.from_arrays(_read_arrays(file))
        except CryoLikeError as error:
            msg = f"{file}: {error}"
            raise UsageError(msg) from error
        except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged files
            msg = (
                f"{file} is no image descriptor ({error}). Make one with `cryolike describe`; "
                "a file that holds Python objects is never opened."
            )
            raise UsageError(msg) from error

    def describe(self) -> str:
        """Say in a few lines what the descriptor holds."""
        radii = "each residue's own" if self.atom_radii is None else f"{self.atom_radii:g} Å"
        return "\n".join(
            [
                self.describe_grids(),
                f"templates    viewing distance {self.viewing_distance:.4g}, atoms "
                f"'{self.atom_selection}', radius {radii}, {self.atom_shape}"
                f"{', one bead per residue' if self.use_protein_residue_model else ''}",
            ]
        )

    def describe_grids(self) -> str:
        """Say in three lines what images become."""
        grid, polar = self.cartesian_grid, self.polar_grid
        return "\n".join(
            [
                f"pixels       {grid.side_px} × {grid.side_px} of {grid.pixel_size_A:g} Å "
                f"(box {grid.box_size_A:g} Å)",
                f"polar grid   {polar.n_shells} shells to {self.resolution_A:.3g} Å, "
                f"{polar.n_inplanes} angles",
                f"precision    {self.precision} ({self.polar_image_bytes / 1000:.0f} kB an image)",
            ]
        )

    def print(self) -> None:
        """Print `describe`."""
        import sys

        sys.stdout.write(self.describe() + "\n")


def one_pixel_size(pixel_size: float | Sequence[float]) -> float:
    """Take the pixel size in Å from one number, or from equal ones along x and y."""
    return _one_number("pixel_size", pixel_size)


def load_descriptor(params: ImageDescriptor | str | Path) -> ImageDescriptor:
    """Take a descriptor as it is, or load it from its file."""
    return params if isinstance(params, ImageDescriptor) else ImageDescriptor.load(params)


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        n_bytes = sum(entry.file_size for entry in data.zip.infolist())
        if n_bytes > _MAX_FILE_BYTES:
            msg = f"it holds {n_bytes:,} bytes, far more than a descriptor"
            raise ValueError(msg)
        return {key: data[key] for key in data.files}


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def _one_number(name: str, value: Any) -> float:
    """Take one number from a number or from equal numbers along x and y."""
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.array([])
    if numbers.ndim != 1 or numbers.size not in (1, 2):
        msg = f"{name} is {value!r}; it must be one number, or two for x and y."
        raise UsageError(msg)
    spread = abs(numbers[0] - numbers[-1])
    if not spread <= PIXEL_SIZE_TOLERANCE * abs(numbers[0]):
        msg = f"{name} is {value!r}; only square images and pixels are supported."
        raise UsageError(msg)
    return float(numbers[0])


def _parse_precision(precision: str | Precision) -> Precision:
    try:
        return Precision(precision)
    except ValueError:
        msg = f"precision is {precision!r}; it must be 'single' or 'double'."
        raise UsageError(msg) from None


def _optional(arrays: Mapping[str, Any], key: str, default: Any) -> Any:
    """Value of a key; the default where it is missing or empty."""
    value = np.asarray(arrays[key]) if key in arrays else np.array([])
    return default if value.size == 0 else value.ravel()[0].item()
