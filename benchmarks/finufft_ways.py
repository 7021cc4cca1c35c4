"""The same transform by finufft: as one would first call it, and at its best."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import finufft
import numpy as np

from cryolike.descriptor import ImageDescriptor

__all__ = ["PackedFinufft", "Settings", "best_settings", "one_by_one"]

ERROR_LIMIT = 1e-5
"""Relative L2 error that settings must keep within."""

_FFTW_MEASURE, _FFTW_ESTIMATE = 0, 64
"""Whether FFTW times its plans or chooses one by rule, which is finufft's default."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of finufft, and how the work is shared out.

    `n_workers` threads of ours, each with a plan of its own that uses `n_threads`, give finufft
    `n_trans` transforms at a time. An `upsampfac` of 0 is finufft's own choice.
    """

    n_workers: int
    n_threads: int
    n_trans: int
    upsampfac: float
    eps: float
    fftw: int

    def __str__(self) -> str:
        """Say all of them in a few words."""
        return (
            f"{self.n_workers} × {self.n_threads} threads, n_trans {self.n_trans}, "
            f"upsampfac {self.upsampfac or 'auto'}, eps {self.eps:g}, "
            f"{'FFTW_MEASURE' if self.fftw == _FFTW_MEASURE else 'FFTW_ESTIMATE'}"
        )


def _points(descriptor: ImageDescriptor, n_angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Radians per pixel along y and x at the first angles of each shell, (n_shells, n_angles)."""
    polar = descriptor.polar_grid
    frequency = 4 * np.pi / descriptor.cartesian_grid.side_px * polar.radius_shells[:, None]
    theta = polar.theta_shell[:n_angles]
    return frequency * np.sin(theta), frequency * np.cos(theta)


def one_by_one(descriptor: ImageDescriptor, images: np.ndarray) -> np.ndarray:
    """Transform one image per call, to complex128, as accurately as that can be."""
    polar = descriptor.polar_grid
    y, x = (along.ravel() for along in _points(descriptor, polar.n_inplanes))
    scale = 4 * np.pi / descriptor.cartesian_grid.side_px
    out = np.empty((len(images), polar.n_shells, polar.n_inplanes), dtype=np.complex128)
    for image, polar_image in zip(images, out, strict=True):
        pixels = image.astype(np.complex128) * scale
        finufft.nufft2d2(y, x, pixels, out=polar_image.reshape(-1), isign=-1, eps=1e-12)
    return out


class PackedFinufft:
    """Two real images a, b in one complex transform, by plans that are made once.

    Z, the transform of a + ib, gives both: A(k) = (Z(k) + Z*(−k))/2 and B(k) = (Z(k) − Z*(−k))/2i.
    The points are half a circle and their opposites; the other half of A and B is the conjugate.
    The number of angles must be even.
    """

    def __init__(self, descriptor: ImageDescriptor, settings: Settings) -> None:
        n, polar = descriptor.cartesian_grid.side_px, descriptor.polar_grid
        self._scale = np.float32(2 * np.pi / n)
        self._settings = settings
        half = _points(descriptor, polar.n_inplanes // 2)
        y, x = (np.stack([along, -along]).ravel().astype(np.float32) for along in half)
        self._plans = []
        for _ in range(settings.n_workers):
            plan = finufft.Plan(
                2,
                (n, n),
                settings.n_trans,
                settings.eps,
                isign=-1,
                dtype="complex64",
                nthreads=settings.n_threads,
                upsampfac=settings.upsampfac,
                fftw=settings.fftw,
                showwarn=0,
            )
            plan.setpts(y, x)
            pixels = np.zeros((settings.n_trans, n, n), dtype=np.complex64)
            values = np.empty((settings.n_trans, 2, *half[0].shape), dtype=np.complex64)
            self._plans.append((plan, pixels, values))

    def __call__(self, images: np.ndarray, out: np.ndarray) -> None:
        """Transform an even number of float32 images to complex64."""
        n_at_once = 2 * self._settings.n_trans
        parts = [slice(i, i + n_at_once) for i in range(0, len(images), n_at_once)]
        n_workers = self._settings.n_workers

        def share_of(worker: int) -> None:
            for part in parts[worker::n_workers]:
                self._transform(worker, images[part], out[part])

        with ThreadPoolExecutor(n_workers) as workers:
            list(workers.map(share_of, range(n_workers)))

    def _transform(self, worker: int, images: np.ndarray, out: np.ndarray) -> None:
        plan, pixels, values = self._plans[worker]
        n_pairs = len(images) // 2
        np.multiply(images[0::2], self._scale, out=pixels[:n_pairs].real)
        np.multiply(images[1::2], self._scale, out=pixels[:n_pairs].imag)
        plan.execute(pixels.squeeze(), values.reshape(self._settings.n_trans, -1).squeeze())
        for pair in range(n_pairs):
            _unpack(values[pair], out[2 * pair : 2 * pair + 2])


def _unpack(values: np.ndarray, out: np.ndarray) -> None:
    (near, far), half = values, values.shape[-1]
    a, b = out[:, :, :half]
    np.add(near.real, far.real, out=a.real)
    np.subtract(near.imag, far.imag, out=a.imag)
    np.add(near.imag, far.imag, out=b.real)
    np.subtract(far.real, near.real, out=b.imag)
    np.conjugate(out[:, :, :half], out=out[:, :, half:])


def _accurate_settings(descriptor: ImageDescriptor, images: np.ndarray) -> Iterator[Settings]:
    """Print the error of all settings, and give those that keep it small enough."""
    exact = one_by_one(descriptor, images[:2])
    out = np.empty(exact.shape, dtype=np.complex64)
    for upsampfac, eps in itertools.product((0.0, 1.25, 1.5, 1.75, 2.0), (1e-5, 3e-6)):
        one = Settings(
            n_workers=1, n_threads=1, n_trans=1, upsampfac=upsampfac, eps=eps, fftw=_FFTW_ESTIMATE
        )
        PackedFinufft(descriptor, one)(images[:2], out)
        error = np.linalg.norm(out - exact) / np.linalg.norm(exact)
        print(f"  upsampfac {upsampfac:g}, eps {eps:g}: relative error {error:.2g}")
        if error > ERROR_LIMIT:
            continue
        for (n_workers, n_threads), n_trans, fftw in itertools.product(
            ((1, 2), (2, 1)), (1, 4, 8, 16), (_FFTW_ESTIMATE, _FFTW_MEASURE)
        ):
            yield Settings(
                n_workers=n_workers,
                n_threads=n_threads,
                n_trans=n_trans,
                upsampfac=upsampfac,
                eps=eps,
                fftw=fftw,
            )


def best_settings(descriptor: ImageDescriptor, images: np.ndarray) -> Settings:
    """Try all settings on some images; the fastest that is accurate enough."""
    polar = descriptor.polar_grid
    out = np.empty((len(images), polar.n_shells, polar.n_inplanes), dtype=np.complex64)
    fastest: tuple[float, Settings] | None = None
    for settings in _accurate_settings(descriptor, images):
        transform = PackedFinufft(descriptor, settings)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            transform(images, out)
            seconds.append(time.perf_counter() - started)
        print(f"  {settings}: {len(images) / min(seconds):,.0f} images/s")
        if fastest is None or min(seconds) < fastest[0]:
            fastest = min(seconds), settings
    if fastest is None:
        raise SystemExit("finufft is accurate enough with none of the settings")
    return fastest[1]
