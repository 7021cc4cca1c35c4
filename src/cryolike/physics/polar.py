"""Images to polar Fourier images: a non-uniform Fourier transform built once for a grid.

All images of a set share one polar grid, so everything that depends on the grid is computed once:
the image is divided by the Fourier transform of an interpolation kernel, padded to twice its size
and transformed by FFT; one sparse matrix then interpolates the padded transform at the polar
points of half the circle, for a batch of images at once. The other half is the complex conjugate,
because images are real.

Axes: x is the fast axis (columns), y the slow axis (rows), θ runs from +x towards +y.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from scipy.special import i0e
from torch import Tensor

from cryolike.descriptor import ImageDescriptor, Precision
from cryolike.grids import CartesianGrid2D, PolarGrid

__all__ = ["PolarTransform", "integrated_power"]

_PADDING = 2.0
_KERNEL_WIDTH = {Precision.SINGLE: 7, Precision.DOUBLE: 14}
"""Points of the padded grid that the kernel spans along an axis: errors of 8e-7 and 1e-13."""

_IMAGES_AT_ONCE = 32
"""Images in one sparse product; more fall out of the processor's cache."""


@dataclass(frozen=True)
class _Kernel:
    """Kaiser–Bessel interpolation kernel.

    The shape parameter is that of Beatty, Nishimura and Pauly (2005), IEEE Trans. Med. Imaging
    24, 799.
    """

    width: int

    @property
    def _beta(self) -> float:
        ratio = self.width / _PADDING * (_PADDING - 0.5)
        return float(np.pi * np.sqrt(ratio**2 - 0.8))

    def values(self, distance: np.ndarray) -> np.ndarray:
        """Kernel at distances in points of the padded grid; 0 outside its width."""
        inside = 1 - (2 * distance / self.width) ** 2
        root = np.sqrt(np.maximum(inside, 0))
        # i0e(x) = exp(-x) I0(x) keeps the ratio to the peak finite
        ratio = i0e(self._beta * root) / i0e(self._beta) * np.exp(self._beta * (root - 1))
        return np.where(inside > 0, ratio, 0.0)

    def transform(self, position: np.ndarray) -> np.ndarray:
        """Fourier transform of the kernel at positions in units of the padded box."""
        nodes, weights = np.polynomial.legendre.leggauss(20 + 6 * self.width)
        distance = nodes * self.width / 2
        weighted = self.values(distance) * weights * self.width / 2
        return weighted @ np.cos(2 * np.pi * np.outer(distance, position))


class PolarTransform:
    """Polar Fourier transform of real images on fixed grids; several threads may share one.

    F(k, θ) = (4π/N) Σ_xy I[y, x] exp(−2πi (2k/N) (x cos θ + y sin θ)), with x and y counted from
    the origin pixel floor(N/2).

    Parameters
    ----------
    pixels
        Grid of the images.
    polar
        Points to transform to, within Nyquist.
    precision
        'single' (relative L2 error below 2e-6) or 'double' (below 1e-11).
    device
        Where the transform runs.
    """

    def __init__(
        self,
        pixels: CartesianGrid2D,
        polar: PolarGrid,
        precision: Precision | str = Precision.SINGLE,
        device: str | torch.device = "cpu",
    ) -> None:
        self.pixels, self.polar, self.precision = pixels, polar, Precision(precision)
        self.device = torch.device(device)
        self._kernel = _Kernel(_KERNEL_WIDTH[self.precision])
        self._margin = self._kernel.width // 2 + 1
        self._side = _padded_side(pixels.side_px, 2 * self._margin + 2)
        # The grid below holds ky ≥ 0 only: an angle beyond π is read at θ − π and conjugated.
        # Where θ + π is on the grid too, half of the angles are enough.
        self._has_opposites = polar.n_inplanes % 2 == 0
        self._n_angles = polar.n_inplanes // 2 if self._has_opposites else polar.n_inplanes
        self._negated_columns = torch.from_numpy(-np.arange(self._side) % self._side).to(device)
        self._preweight = self._make_preweight()
        self._matrix = self._make_matrix()

    @classmethod
    def of_descriptor(
        cls, descriptor: ImageDescriptor, device: str | torch.device = "cpu"
    ) -> PolarTransform:
        """Transform of images that a descriptor describes."""
        return cls(descriptor.cartesian_grid, descriptor.polar_grid, descriptor.precision, device)

    @property
    def real_dtype(self) -> torch.dtype:
        """Type of the images: float32 or float64."""
        return torch.float32 if self.precision is Precision.SINGLE else torch.float64

    @property
    def complex_dtype(self) -> torch.dtype:
        """Type of the polar images: complex64 or complex128."""
        return torch.complex64 if self.precision is Precision.SINGLE else torch.complex128

    def __call__(
        self,
        images: Float[Tensor, "n_images side side"],
        out: Complex[Tensor, "n_images n_shells n_inplanes"] | None = None,
    ) -> Complex[Tensor, "n_images n_shells n_inplanes"]:
        """Transform images.

        Parameters
        ----------
        images
            Rows are y, columns are x; (n_images, N, N), of `real_dtype`, on `device`.
        out
            Where to put the result.

        Returns
        -------
        Tensor
            (n_images, n_shells, n_inplanes) of `complex_dtype`.
        """
        shape = (images.shape[0], self.polar.n_shells, self.polar.n_inplanes)
        if out is None:
            out = torch.empty(shape, dtype=self.complex_dtype, device=self.device)
        for start in range(0, images.shape[0], _IMAGES_AT_ONCE):
            chosen = slice(start, start + _IMAGES_AT_ONCE)
            self._transform_few(images[chosen], out[chosen])
        return out

    def _transform_few(self, images: Tensor, out: Tensor) -> None:
        n_images = images.shape[0]
        padded = self._padded_transform(images)
        flat = torch.view_as_real(padded).reshape(-1, 2 * n_images)
        values = (self._matrix @ flat).reshape(self.polar.n_shells, self._n_angles, n_images, 2)
        out[:, :, : self._n_angles] = torch.view_as_complex(values).permute(2, 0, 1)
        n_upper = (self.polar.n_inplanes + 1) // 2
        source = out[:, :, : self._n_angles] if self._has_opposites else out[:, :, n_upper:]
        torch.conj_physical(source, out=out[:, :, n_upper:])

    def _padded_transform(self, images: Tensor) -> Tensor:
        """FFT of the padded images at ky ≥ 0 and a margin around: (rows, side, n_images)."""
        side, n, origin = self._side, self.pixels.side_px, self.pixels.side_px // 2
        prepared = (images * self._preweight).permute(1, 2, 0)
        columns = torch.zeros((side, n, images.shape[0]), dtype=self.real_dtype, device=self.device)
        columns[: n - origin], columns[side - origin :] = prepared[origin:], prepared[:origin]
        partial = torch.fft.rfft(columns, dim=0)
        n_half = partial.shape[0]
        rows = torch.zeros(
            (n_half, side, images.shape[0]), dtype=self.complex_dtype, device=self.device
        )
        rows[:, : n - origin], rows[:, side - origin :] = partial[:, origin:], partial[:, :origin]
        full = torch.fft.fft(rows, dim=1)
        margin, flip = self._margin, self._negated_columns
        below = full[1 : margin + 1].flip(0)[:, flip].conj()
        above = full[n_half - 1 - margin : n_half - 1].flip(0)[:, flip].conj()
        return torch.cat([below, full, above])

    def _make_preweight(self) -> Tensor:
        """4π/N over the transform of the kernel, so that interpolation is exact for each pixel."""
        transform = self._kernel.transform(self.pixels.offsets_px / self._side)
        weight = 4 * np.pi / self.pixels.side_px / np.outer(transform, transform)
        return torch.from_numpy(weight).to(device=self.device, dtype=self.real_dtype)

    def _make_matrix(self) -> Tensor:
        """Interpolation from the padded transform to the polar points, sparse."""
        theta = self.polar.theta_shell[: self._n_angles] % np.pi
        scale = 2 * self.polar.radius_shells[:, None] * self._side / self.pixels.side_px
        (x, weight_x), (y, weight_y) = (
            self._neighbours((scale * direction).ravel())
            for direction in (np.cos(theta), np.sin(theta))
        )
        columns = (y + self._margin)[:, :, None] * self._side + (x % self._side)[:, None, :]
        values = weight_y[:, :, None] * weight_x[:, None, :]
        return _sparse_rows(
            columns.reshape(len(x), -1),
            torch.from_numpy(values.reshape(len(x), -1)).to(self.real_dtype),
            n_columns=(self._side // 2 + 1 + 2 * self._margin) * self._side,
        ).to(self.device)

    def _neighbours(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of the padded grid near each position, and the kernel there: (n, width) each."""
        width = self._kernel.width
        first = np.ceil(position - width / 2).astype(np.int64)
        near = first[:, None] + np.arange(width)
        return near, self._kernel.values(near - position[:, None])


def _padded_side(side_px: int, smallest: int) -> int:
    """Even size of the padded image that is quick to transform."""
    side = max(int(np.ceil(side_px * _PADDING)), smallest)
    while side % 2 or next_fast_len(side, real=True) != side:
        side += 1
    return side


def _sparse_rows(columns: np.ndarray, values: Tensor, n_columns: int) -> Tensor:
    """Sparse matrix with equally many entries in each row."""
    n_rows, n_entries = columns.shape
    order = np.argsort(columns, axis=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.arange(0, n_rows * n_entries + 1, n_entries, dtype=torch.int32),
            torch.from_numpy(np.take_along_axis(columns, order, axis=1).astype(np.int32).ravel()),
            torch.take_along_dim(values, torch.from_numpy(order), dim=1).ravel(),
            size=(n_rows, n_columns),
            check_invariants=True,
        )


def integrated_power(
    polar_images: Complex[Tensor, "n_images n_shells n_inplanes"], polar: PolarGrid
) -> Float[Tensor, " n_images"]:
    """Integral of |F|² over the polar grid, by its quadrature, in float64.

    Parameters
    ----------
    polar_images
        (n_images, n_shells, n_inplanes).
    polar
        Their grid.

    Returns
    -------
    Tensor
        float64, (n_images,).
    """
    parts = torch.view_as_real(polar_images).flatten(-2)
    shell_norms = torch.linalg.vector_norm(parts, dim=-1).to(torch.float64)
    weights = torch.as_tensor(polar.point_weight_shells, device=polar_images.device)
    power: Tensor = shell_norms.square() @ weights
    return power
