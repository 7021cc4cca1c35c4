"""Images to polar Fourier images: a non-uniform Fourier transform built once for a grid.

All images of a set share one polar grid, so everything that depends on the grid is computed once:
the image is divided by the Fourier transform of an interpolation kernel, padded to 1.5 times its
size and transformed by FFT; from the padded transform it is interpolated at the polar points of
half the circle. The other half is the complex conjugate, because images are real.

Axes: x is the fast axis (columns), y the slow axis (rows), θ runs from +x towards +y.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryolike.descriptor import ImageDescriptor, Precision
from cryolike.errors import UsageError
from cryolike.grids import CartesianGrid2D, PolarGrid
from cryolike.physics import compiled
from cryolike.physics.compiled import KERNEL_WIDTH
from cryolike.physics.gridding import KaiserBessel, PolarPoints, padded_side
from cryolike.physics.preprocess import Normalisation
from cryolike.threads import n_usable_cores, single_threaded_workers

__all__ = ["PolarTransform"]

_CACHE_BYTES = 2**19
"""Padded transforms that are interpolated at once: what a core's own cache holds."""

_N_CACHES = 4
"""How many times as many are padded and transformed at once: a call costs as much as some rows."""


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
        if polar.radius_max > pixels.side_px / 4 * (1 + 1e-9):
            msg = f"radius_max is {polar.radius_max:g}; Nyquist is at {pixels.side_px / 4:g}."
            raise UsageError(msg)
        width = KERNEL_WIDTH[32 if self.precision is Precision.SINGLE else 64]
        n, side = pixels.side_px, padded_side(pixels.side_px, width)
        kernel = KaiserBessel(width, side / n)
        self._points = PolarPoints.of_grid(polar, n, side, kernel)
        # 4π/N over the transform of the kernel, so that interpolation is exact for each pixel
        along_axis = kernel.transform(pixels.offsets_px / side)
        weight = 4 * np.pi / n / np.outer(along_axis, along_axis)
        self._preweight = torch.from_numpy(weight).to(self.device, self.real_dtype)
        make = _OnProcessor if self.device.type == "cpu" else _OnDevice
        self._steps: _OnProcessor | _OnDevice = make(self._points, self._preweight, polar)

    def __reduce__(self) -> tuple[Any, ...]:
        """Build it anew where it arrives: that is quicker than sending its tables."""
        return PolarTransform, (self.pixels, self.polar, self.precision, self.device)

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
        *,
        n_threads: int | None = None,
    ) -> Complex[Tensor, "n_images n_shells n_inplanes"]:
        """Transform images.

        Parameters
        ----------
        images
            Rows are y, columns are x; (n_images, N, N), of `real_dtype`, on `device`.
        out
            Where to put the result; contiguous.
        n_threads
            Threads to share the work among, on a processor; all cores that the process may use
            where it is not given. With 1 all is done in the calling thread.

        Returns
        -------
        Tensor
            (n_images, n_shells, n_inplanes) of `complex_dtype`.
        """
        return self._in_parts(images, out, None, None, n_threads)

    def with_unit_power(
        self,
        images: Float[Tensor, "n_images side side"],
        out: Complex[Tensor, "n_images n_shells n_inplanes"] | None = None,
        *,
        normalisation: Normalisation | None = None,
        n_threads: int | None = None,
    ) -> tuple[Complex[Tensor, "n_images n_shells n_inplanes"], Float[Tensor, " n_images"]]:
        """Transform images and divide each polar image by its norm over the polar grid.

        Parameters
        ----------
        images, out, n_threads
            As for a call.
        normalisation
            Applied to the images first, on the way.

        Returns
        -------
        tuple of Tensor
            Polar images of which the integral of |F|² is 1, and those integrals before, float64,
            (n_images,).
        """
        power = torch.empty(images.shape[0], dtype=torch.float64, device=self.device)
        return self._in_parts(images, out, normalisation, power, n_threads), power

    def _in_parts(
        self,
        images: Tensor,
        out: Tensor | None,
        normalisation: Normalisation | None,
        power: Tensor | None,
        n_threads: int | None,
    ) -> Tensor:
        """Work on as many images at once as suits the device, on as many threads as asked for."""
        side = self.pixels.side_px
        shape = (images.shape[0], self.polar.n_shells, self.polar.n_inplanes)
        if out is None:
            out = torch.empty(shape, dtype=self.complex_dtype, device=self.device)
        # Compiled code does not look where it reads and writes
        if images.shape[1:] != (side, side) or images.dtype != self.real_dtype:
            msg = f"images must be {self.real_dtype} of {side}×{side} pixels"
            raise UsageError(msg)
        if out.shape != shape or out.dtype != self.complex_dtype or not out.is_contiguous():
            msg = f"out must be contiguous {self.complex_dtype} of shape {shape}"
            raise UsageError(msg)
        transform_part = self._steps.of_images(images, out, normalisation, power)
        if n_threads is None:
            n_threads = n_usable_cores() if self.device.type == "cpu" else 1
        n_at_once = min(self._steps.n_at_once, max(1, -(-len(images) // n_threads)))
        parts = [slice(i, i + n_at_once) for i in range(0, len(images), n_at_once)]
        if min(n_threads, len(parts)) <= 1:
            for part in parts:
                transform_part(part)
        else:
            with single_threaded_workers(n_threads) as workers:
                list(workers.map(transform_part, parts))
        return out


class _OnProcessor:
    """Padding and interpolation by loops compiled for the processor."""

    def __init__(self, points: PolarPoints, preweight: Tensor, polar: PolarGrid) -> None:
        self._preweight, self._side = preweight.numpy(), points.side
        real = self._preweight.dtype
        # Compiled code counts real numbers
        first = (points.first[0] * points.shape[1] + points.first[1]) * 2
        table = (
            first.astype(np.uint32),
            points.weight_y.astype(real),
            np.repeat(points.weight_x, 2, axis=1).astype(real),
            np.where(points.is_conjugate, -1, 1).astype(real),
        )
        self._sources, self._margin, self._table = points.sources, points.margin, table
        n_angles = len(points.is_conjugate)
        self._weights = polar.point_weight_shells * (polar.n_inplanes / n_angles)
        n_values = points.shape[0] * 2 * points.shape[1]
        n_in_cache = max(1, _CACHE_BYTES // (real.itemsize * n_values))
        self._shapes = (
            (n_in_cache, points.shape[0], 2 * points.shape[1]),
            (n_in_cache, polar.n_shells, 2 * n_angles),
        )
        self.n_at_once = _N_CACHES * n_in_cache
        self._idle: deque[list[np.ndarray]] = deque()

    def of_images(
        self,
        images: Tensor,
        out: Tensor,
        normalisation: Normalisation | None,
        power: Tensor | None,
    ) -> Callable[[slice], None]:
        """Make the function that transforms a part of the images."""
        pixels, values = images.numpy(), _real_values(out)
        how = None if normalisation is None else normalisation.centre_and_factor
        weights = None if power is None else self._weights
        powers = np.empty(len(out)) if power is None else power.numpy()

        def transform_part(part: slice) -> None:
            few, few_out = pixels[part], values[part]
            centre, factor = (None, None) if how is None else (how[0][part], how[1][part])
            padded, grid, polar = workspace = self._workspace()
            compiled.pad(few, centre, factor, self._preweight, padded[: len(few)])
            half = torch.fft.rfft2(torch.from_numpy(padded[: len(few)]))
            given = _real_values(half), self._sources, self._margin, grid, self._table
            compiled.polar_images(*given, weights, polar, powers[part], few_out)
            self._idle.append(workspace)

        return transform_part

    def _workspace(self) -> list[np.ndarray]:
        """Memory for one thread, zero at first: new memory each time would cost more than work."""
        try:
            return self._idle.pop()
        except IndexError:
            padded = (self.n_at_once, self._side, self._side)
            return [np.zeros(shape, self._preweight.dtype) for shape in (padded, *self._shapes)]


def _real_values(values: Tensor) -> np.ndarray:
    """View of complex numbers whose last axis alternates real and imaginary parts."""
    array = values.numpy()
    return array.view(array.real.dtype)


class _OnDevice:
    """The same on any device, interpolation being one sparse matrix."""

    n_at_once = 512

    def __init__(self, points: PolarPoints, preweight: Tensor, polar: PolarGrid) -> None:
        self._points, self._preweight = points, preweight
        device = preweight.device
        self._weights = torch.as_tensor(polar.point_weight_shells, device=device)
        self._sources = [torch.from_numpy(indices).to(device) for indices in points.sources]
        self._is_conjugate = torch.from_numpy(points.is_conjugate).to(device)
        near = np.arange(points.weight_x.shape[1])
        (y, x), (n_rows, n_columns) = points.first[:, :, None] + near, points.shape
        columns = y[:, :, None] * n_columns + x[:, None, :]
        values = points.weight_y[:, :, None] * points.weight_x[:, None, :]
        self._matrix = _sparse_rows(
            columns.reshape(len(x), -1),
            torch.from_numpy(values.reshape(len(x), -1)).to(preweight.dtype),
            n_columns=n_rows * n_columns,
        ).to(device)

    def of_images(
        self,
        images: Tensor,
        out: Tensor,
        normalisation: Normalisation | None,
        power: Tensor | None,
    ) -> Callable[[slice], None]:
        """Make the function that transforms a part of the images."""

        def transform_part(part: slice) -> None:
            few = images[part]
            if normalisation is not None:
                few = normalisation.take(part).apply(few)
            self._interpolate(torch.fft.rfft2(self._pad(few)), out[part])
            if power is not None:
                power[part] = self._to_unit_power(out[part])

        return transform_part

    def _pad(self, images: Tensor) -> Tensor:
        n, side = images.shape[-1], self._points.side
        padded = torch.nn.functional.pad(images * self._preweight, (0, side - n, 0, side - n))
        return padded.roll((-(n // 2), -(n // 2)), dims=(1, 2))

    def _interpolate(self, half: Tensor, out: Tensor) -> None:
        row_direct, row_conjugate, column = self._sources
        margin, n_angles = self._points.margin, len(self._is_conjugate)
        left, right = (
            half[:, :, column[end]][:, row_conjugate].conj()
            for end in (slice(margin), slice(-margin, None))
        )
        parts = [left, half[:, row_direct], right]
        grid = torch.cat(parts, dim=2).permute(1, 2, 0).contiguous()
        flat = torch.view_as_real(grid).reshape(-1, 2 * len(half))
        values = torch.view_as_complex((self._matrix @ flat).reshape(-1, n_angles, len(half), 2))
        values = torch.where(self._is_conjugate[:, None], values.conj(), values)
        out[:, :, :n_angles] = values.permute(2, 0, 1)
        if self._points.has_opposites:
            out[:, :, n_angles:] = out[:, :, :n_angles].conj()

    def _to_unit_power(self, polar_images: Tensor) -> Tensor:
        values = torch.view_as_real(polar_images)
        shell_norms = torch.linalg.vector_norm(values.flatten(-2), dim=-1).to(torch.float64)
        power: Tensor = shell_norms.square() @ self._weights
        values *= power.rsqrt().to(values.dtype)[:, None, None, None]
        return power


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
