"""Power of templates under the contrast transfer functions of images, at all in-plane angles."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["TurnedPower"]

_ALL = slice(None)


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
        self.period = n_angles // step
        self._largest = power.abs().amax(dim=2)
        q = torch.arange(len(power), dtype=torch.float64)[:, None, None]
        turns = q * torch.arange(self.period) / self.period
        waves = torch.cat([(2 * torch.pi * turns).cos(), (2 * torch.pi * turns).sin()], dim=1)
        # −q has the conjugate, but for those that are their own opposites
        waves[(2 * q[:, 0, 0]) % self.period != 0] *= 2
        self._waves = (waves / n_angles).to(power.device, power.real.dtype)

    @property
    def real_dtype(self) -> torch.dtype:
        """Type that CTFs must have."""
        return self._power.real.dtype

    def __call__(
        self,
        ctf: Float[Tensor, "n_images n_shells n_inplanes"],
        tolerance: float = 0.0,
        views: slice | np.ndarray = _ALL,
    ) -> tuple[Float[Tensor, "n_images n_views period"], Float[Tensor, " n_images"]]:
        """Compute it for in-plane angles.

        Parameters
        ----------
        ctf
            Of images; further shells than those of the templates do not count.
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
        n_shells, n_distinct = self._power.shape[1], ctf.shape[-1] // self._step
        series = torch.fft.rfft(ctf[:, :n_shells, :n_distinct].square(), dim=-1) * self._step
        left_out = self._left_out(series.abs())
        n_needed = int((left_out > tolerance).any(dim=0).sum())
        n_kept = min(max(n_needed, 1), len(self._power))
        coefficients = series[:, :, :n_kept].permute(2, 0, 1).conj()
        products = torch.view_as_real(torch.bmm(coefficients, self._power[:n_kept, :, views]))
        parts = products.permute(1, 2, 0, 3).flatten(2)
        return parts @ self._waves[:n_kept].flatten(0, 1), left_out[:, n_kept]

    def _left_out(self, amplitude: Tensor) -> Tensor:
        """Bound what frequencies from the m-th on contribute, (n_images, all of them + 1)."""
        n_frequencies = amplitude.shape[2]
        n_known = min(n_frequencies, len(self._largest))
        # No frequency of |T|² has more power than the lowest
        largest = self._largest[[*range(n_known), *[0] * (n_frequencies - n_known)]]
        bound = 2 / (self.period * self._step) * torch.einsum("nkq,qk->nq", amplitude, largest)
        tail = bound.flip(1).cumsum(1).flip(1)
        return torch.cat([tail, torch.zeros_like(tail[:, :1])], dim=1)
