"""Power of templates under the contrast transfer functions of images, at all in-plane angles."""

from __future__ import annotations

from functools import cached_property
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryolike.physics.compiled import _inner

__all__ = ["TurnedPower", "fill_power", "series_of_squares"]

_U = np.uint64
"""Indices are unsigned, since numba would wrap signed ones, as Python does."""

_ALL = slice(None)


def series_of_squares(
    ctf: Float[Tensor, "n_images n_shells n_inplanes"],
) -> Complex[Tensor, "n_images n_shells n_frequencies"]:
    """Make the angular Fourier series of CTF², at every second frequency where others are zero.

    Parameters
    ----------
    ctf
        Of images, the same at opposite angles where these are on the grid.

    Returns
    -------
    Tensor
        Σ_θ C² exp(−iqθ).
    """
    n_angles = ctf.shape[-1]
    step = 2 if n_angles % 2 == 0 else 1
    series: Tensor = torch.fft.rfft(ctf[..., : n_angles // step].square(), dim=-1) * step
    return series


@_inner
@no_type_check
def _count_frequencies(series, largest, factor, tolerance):
    """Count the frequencies that must be kept so that others add at most `tolerance`."""
    n_known, left_out = largest.shape[0], 0.0
    for q in range(series.shape[1] - 1, 0, -1):
        # No frequency of |T|² has more power than the lowest
        of_q = largest[q] if q < n_known else largest[0]
        for k in range(of_q.size):
            value = series[k, q]
            left_out += factor * np.sqrt(value.real**2 + value.imag**2) * of_q[k]
        if left_out > tolerance:
            return min(q + 1, n_known)
    return 1


@_inner
@no_type_check
def fill_power(series, tables, views, tolerance, room, out):
    """Sum the power of views under the CTF of one image, at the first `period` angles.

    Parameters
    ----------
    series
        Of CTF², complex64, (n_shells or more, n_frequencies).
    tables
        Of `TurnedPower`.
    views
        Their numbers.
    tolerance
        What may be left out.
    room
        (2, n_frequencies, 2 · n_shells), float32.
    out
        (number of `views`, period or more), float32: gets the result.
    """
    power, largest, waves, factor = tables
    n_kept, n_both = _U(_count_frequencies(series, largest, factor, tolerance)), _U(power.shape[2])
    period = _U(waves.shape[2])
    for q in range(n_kept):
        for k in range(n_both // _U(2)):
            value = series[k, q]
            # Products of parts with these sum to the real and the imaginary part
            room[0, q, _U(2) * k], room[0, q, _U(2) * k + _U(1)] = value.real, value.imag
            room[1, q, _U(2) * k], room[1, q, _U(2) * k + _U(1)] = -value.imag, value.real
    for i in range(_U(views.size)):
        line, of_view = out[i], power[views[i]]
        for j in range(period):
            line[j] = 0
        for q in range(n_kept):
            terms, real_factors, imaginary_factors = of_view[q], room[0, q], room[1, q]
            real = imaginary = np.float32(0)
            for k in range(n_both):
                real += terms[k] * real_factors[k]
                imaginary += terms[k] * imaginary_factors[k]
            cosine, sine = waves[q, 0], waves[q, 1]
            for j in range(period):
                line[j] += real * cosine[j] + imaginary * sine[j]


class TurnedPower:
    """Computes the power ⟨C R_γ T, C R_γ T⟩ of turned templates under CTFs.

    Parameters
    ----------
    power
        Angular Fourier series of weight·|T|², complex, (n_frequencies, n_shells, n_views): every
        `step`-th frequency.
    n_angles
        In-plane angles γ_j = 2πj / n_angles to compute it at.
    step
        2 where |T|² and CTF² are the same at opposite angles of the grid, else 1.
    """

    def __init__(
        self,
        power: Complex[Tensor, "n_frequencies n_shells n_views"],
        n_angles: int,
        step: int,
    ) -> None:
        self._power, self._step = power, step
        self.n_angles, self.period = n_angles, n_angles // step
        self._largest = power.abs().amax(dim=2).contiguous()
        q = torch.arange(len(power), dtype=torch.float64)[:, None, None]
        turns = q * torch.arange(self.period) / self.period
        waves = torch.cat([(2 * torch.pi * turns).cos(), (2 * torch.pi * turns).sin()], dim=1)
        # −q has the conjugate, but for those that are their own opposites
        waves[(2 * q[:, 0, 0]) % self.period != 0] *= 2
        self._waves = (waves / n_angles).to(power.device, power.real.dtype)

    def __call__(
        self,
        series: Complex[Tensor, "n_images n_shells n_frequencies"],
        tolerance: float = 0.0,
        views: slice | np.ndarray = _ALL,
    ) -> tuple[Float[Tensor, "n_images n_views period"], Float[Tensor, " n_images"]]:
        """Compute it for in-plane angles.

        Parameters
        ----------
        series
            `series_of_squares` of the CTFs; further shells than those of the templates do not
            count.
        tolerance
            What may be left out of it; templates have unit power.
        views
            Which templates; all where it is not given.

        Returns
        -------
        tuple of Tensor
            The power at the first `period` angles, after which it repeats; and for each image a
            bound of what was left out.
        """
        series = series[:, : self._power.shape[1]]
        left_out = self._left_out(series.abs())
        n_needed = int((left_out > tolerance).any(dim=0).sum())
        n_kept = min(max(n_needed, 1), len(self._power))
        coefficients = series[:, :, :n_kept].permute(2, 0, 1).conj()
        products = torch.view_as_real(torch.bmm(coefficients, self._power[:n_kept, :, views]))
        parts = products.permute(1, 2, 0, 3).flatten(2)
        return parts @ self._waves[:n_kept].flatten(0, 1), left_out[:, n_kept]

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """What `fill_power` takes, in single precision on a processor."""
        # Of the memory that `TemplateTerms` makes, and so without a copy
        power = np.ascontiguousarray(self._power.permute(2, 0, 1).numpy()).view(np.float32)
        factor = 2 / (self.period * self._step)
        return power, self._largest.numpy(), self._waves.numpy(), factor

    def _left_out(self, amplitude: Tensor) -> Tensor:
        """Bound what frequencies from the m-th on contribute, (n_images, all of them + 1)."""
        n_frequencies = amplitude.shape[2]
        n_known = min(n_frequencies, len(self._largest))
        # No frequency of |T|² has more power than the lowest
        largest = self._largest[[*range(n_known), *[0] * (n_frequencies - n_known)]]
        bound = 2 / (self.period * self._step) * (amplitude * largest.T).sum(dim=1)
        tail = bound.flip(1).cumsum(1).flip(1)
        return torch.cat([tail, torch.zeros_like(tail[:, :1])], dim=1)
