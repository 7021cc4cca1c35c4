"""Templates as few numbers: their angular Fourier series, compressed along the radius.

A comparison over all in-plane angles is, for each angular frequency q, a sum over shells.
Structures are compact, so at each q the templates of all views span far fewer dimensions than there
are shells: an orthonormal basis of what they span, found once, makes the sum several times shorter
and leaves out no more than rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cryolike.grids import PolarGrid

__all__ = ["Band", "RadialBasis", "TemplateTerms", "angular_spectrum"]

_TOLERANCE = {torch.complex64: 1e-11, torch.complex128: 0.0}
"""Share of the templates' power that a basis may leave out, which is an amplitude of 3e-6.

In double precision nothing is: covariances do not tell amplitudes below 1e-8.
"""

_BYTES_AT_ONCE = 2**28


def angular_spectrum(polar_images: Tensor) -> Tensor:
    """Angular Fourier series of polar images of real images.

    Parameters
    ----------
    polar_images
        (..., n_shells, Q), complex.

    Returns
    -------
    Tensor
        (..., n_rows, Q // 2 + 1): Σ_θ F(k, θ) exp(−iqθ) for q ≥ 0. The real part of a product of
        two images, summed over angles, needs no more. Where the number of angles Q is odd, opposite
        angles are not both on the grid: there are twice as many rows, the second half from −q, and
        all are divided by √2.
    """
    n_angles = polar_images.shape[-1]
    series: Tensor = torch.fft.fft(polar_images, dim=-1)
    positive: Tensor = series[..., : n_angles // 2 + 1]
    if n_angles % 2 == 0:
        return positive
    negative = series[..., (-torch.arange(n_angles // 2 + 1)) % n_angles].conj()
    return torch.cat([positive, negative], dim=-2) / math.sqrt(2)


@dataclass(frozen=True)
class Band:
    """Shells and angular frequencies that a comparison is limited to.

    Parameters
    ----------
    n_shells
        The innermost so many.
    n_angles
        In-plane angles to compare at; angular frequencies are below half of it, but for
        `n_frequencies` of a whole grid, which has that one too.
    n_frequencies
        Angular frequencies q = 0, 1, ...
    """

    n_shells: int
    n_angles: int
    n_frequencies: int

    @classmethod
    def whole(cls, polar: PolarGrid) -> Self:
        """All of a grid."""
        return cls(polar.n_shells, polar.n_inplanes, polar.n_inplanes // 2 + 1)

    def with_angles(self, n_angles: int, polar: PolarGrid) -> Self:
        """Compare at other angles, of which the grid has as many at least."""
        return replace(self, n_angles=min(_smooth(n_angles), polar.n_inplanes))

    @classmethod
    def limited(
        cls, templates: Tensor, polar: PolarGrid, fraction: float, loss: float = 1e-3
    ) -> Self:
        """Take shells up to a fraction of the largest radius, and the angles that they need.

        Parameters
        ----------
        templates
            (n_views, n_shells, n_inplanes): some of them.
        polar
            Their grid.
        fraction
            Of the largest radius.
        loss
            Share of the templates' power on these shells that higher angular frequencies may hold.
        """
        n_shells = max(2, int((polar.radius_shells <= fraction * polar.radius_max).sum()))
        weight = torch.tensor(polar.weight_shells[:n_shells], device=templates.device)
        spectrum = angular_spectrum(templates[:, :n_shells])[:, :n_shells]
        power = (spectrum.abs().square().sum(dim=0) * weight[:, None]).sum(dim=0)
        share = power.flip(0).cumsum(0).flip(0) / power.sum()
        n_frequencies = max(2, int((share > loss).sum()))
        n_angles = _smooth(2 * n_frequencies)
        if n_angles >= polar.n_inplanes:
            return replace(cls.whole(polar), n_shells=n_shells)
        return cls(n_shells, n_angles, n_frequencies)


def _smooth(n: int) -> int:
    """Find the next even number that transforms quickly."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


@dataclass(frozen=True, eq=False)
class RadialBasis:
    """Orthonormal functions of the shell for each angular frequency; their terms lie in a row.

    Parameters
    ----------
    n_angles
        In-plane angles Q.
    first_term
        (n_angles // 2 + 2,): the terms of frequency q are first_term[q] to first_term[q + 1].
    rows
        Real, (n_terms, n_rows): each function times the square root of a point's weight in an
        integral, so that products of terms sum to integrals.
    """

    n_angles: int
    first_term: np.ndarray
    rows: Tensor

    @property
    def n_terms(self) -> int:
        """Number of terms of all frequencies."""
        return int(self.first_term[-1])

    @cached_property
    def terms(self) -> list[slice]:
        """The terms of each frequency."""
        edges = self.first_term.tolist()
        return [slice(*pair) for pair in pairwise(edges)]

    def compress(self, spectrum: Tensor, n_frequencies: int | None = None) -> Tensor:
        """Express angular spectra in terms of the basis.

        Parameters
        ----------
        spectrum
            As `angular_spectrum` gives it, (n, n_rows, n_frequencies).
        n_frequencies
            Take the lowest frequencies only.

        Returns
        -------
        Tensor
            (n, n_terms of these frequencies).
        """
        parts = [
            spectrum[:, :, q] @ self.rows[terms].T.to(spectrum.dtype)
            for q, terms in enumerate(self.terms[:n_frequencies])
            if terms.stop > terms.start
        ]
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False)
class TemplateTerms:
    """What a search needs of the templates of one structure.

    Parameters
    ----------
    basis
        What the terms are of.
    terms
        Complex, (n_views, n_terms).
    power
        Complex, (n_frequencies, n_rows, n_views): angular Fourier series of weight·|T|², at every
        `power_step`-th frequency.
    power_step
        2 where opposite angles are on the grid, since |T|² is the same there; else 1.
    """

    basis: RadialBasis
    terms: Tensor
    power: Tensor
    power_step: int

    @classmethod
    def of_templates(
        cls,
        templates: Tensor,
        polar: PolarGrid,
        band: Band | None = None,
        tolerance: float | None = None,
    ) -> Self:
        """Compress templates.

        Parameters
        ----------
        templates
            (n_views, n_shells, n_inplanes), complex.
        polar
            Their grid.
        band
            Compare only these shells and angular frequencies.
        tolerance
            Share of the templates' power that may be left out; by default no more than rounding
            does.

        Returns
        -------
        TemplateTerms
            On the device of the templates.
        """
        band = band or Band.whole(polar)
        weight = torch.tensor(polar.point_weight_shells[: band.n_shells], device=templates.device)
        # Fewer angles stand for more of the circle each
        weight = weight * (band.n_angles / polar.n_inplanes)
        basis = _basis(templates, weight, band, tolerance)
        step = 2 if polar.n_inplanes % 2 == 0 else 1
        terms, power = [], []
        for few in _batches(templates[:, : band.n_shells]):
            terms.append(basis.compress(angular_spectrum(few)))
            series = torch.fft.rfft(few.abs().square(), dim=-1)[..., : band.n_frequencies : step]
            weighted = series * weight.to(few.real.dtype)[:, None]
            power.append(weighted.permute(0, 2, 1).contiguous())
        # In memory view by view, so that some of them are taken quickly
        return cls(basis, torch.cat(terms), torch.cat(power).permute(1, 2, 0), step)


def _batches(templates: Tensor) -> Iterator[Tensor]:
    n_at_once = max(1, _BYTES_AT_ONCE // (templates[0].numel() * templates.element_size()))
    for start in range(0, len(templates), n_at_once):
        yield templates[start : start + n_at_once]


def _basis(templates: Tensor, weight: Tensor, band: Band, tolerance: float | None) -> RadialBasis:
    """Find what templates span at each angular frequency, up to rounding.

    The covariance over views is real but for how views are sampled: the mirror image of a
    projection is the projection from the opposite side, and its series is the complex conjugate. So
    the basis of its real part is as small, and real.
    """
    has_opposites = templates.shape[-1] % 2 == 0
    root = weight.repeat(1 if has_opposites else 2).sqrt()
    covariance = root.new_zeros(band.n_frequencies, len(root), len(root))
    for few in _batches(templates[:, : band.n_shells]):
        spectrum = angular_spectrum(few)[:, :, : band.n_frequencies]
        rows = torch.view_as_real(spectrum.permute(2, 1, 0)).flatten(-2)
        rows = rows.to(torch.float64) * root[:, None]
        covariance.baddbmm_(rows, rows.mT)
    power, functions = torch.linalg.eigh(covariance)
    if tolerance is None:
        tolerance = _TOLERANCE[templates.dtype]
    kept = _strongest(power.clamp_min(0), tolerance)
    n_terms = np.zeros(band.n_angles // 2 + 1, dtype=np.int64)
    n_terms[: band.n_frequencies] = kept.sum(dim=1).cpu().numpy()
    return RadialBasis(
        n_angles=band.n_angles,
        first_term=np.concatenate([[0], np.cumsum(n_terms)]),
        rows=(functions.mT[kept] * root).to(templates.real.dtype),
    )


def _strongest(power: Tensor, tolerance: float) -> Tensor:
    """Choose all but the weakest, which together have a share of at most `tolerance`."""
    weakest = power.ravel().sort()
    kept = torch.ones(power.numel(), dtype=torch.bool, device=power.device)
    kept[weakest.indices[weakest.values.cumsum(0) < tolerance * power.sum()]] = False
    return kept.reshape(power.shape)
