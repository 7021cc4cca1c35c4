"""Comparison of images with views on a processor, by compiled code, in single precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from cryolike.physics.compiled import _compiled
from cryolike.scoring.comparison import (
    BestOfViews,
    ChosenPoses,
    ComparedGrid,
    Found,
    ImageMoments,
    ViewScores,
)
from cryolike.scoring.compiled import (
    DisplacedImage,
    Integration,
    TemplateViews,
    ViewScales,
    score_views,
)
from cryolike.scoring.few_poses import (
    LARGEST_MEAN,
    FewPoses,
    ImageArrays,
    fill_bounds,
    limits_of_sums,
)
from cryolike.scoring.image_terms import ImageTerms
from cryolike.scoring.lanes import RealLanePlan
from cryolike.scoring.template_terms import TemplateTerms
from cryolike.scoring.turned_power import TurnedPower
from cryolike.scoring.vectors import N_LANES
from cryolike.threads import n_usable_cores, single_threaded_workers

__all__ = ["CompiledComparison"]

_LEFT_OUT_OF_ONES = 1e-2
"""Bound of what the angular frequencies that are left out of u could add to it.

What they do add is a tenth of that or less, since their phases differ.
"""

_TYPICAL_POWER = 0.3
"""I_xx of a template of unit norm, about half of which its CTF leaves."""

_NEGLIGIBLE_POWER = 1e-6
"""Bound of what angular frequencies of CTF² that are left out could add to I_xx, relative to it."""

_NEGLIGIBLE_COARSE_POWER = 1e-3
"""The same where only the best cells are looked for."""


class CompiledComparison:
    """Compares images with the templates of one structure; see `comparison.Comparison`.

    Parameters
    ----------
    terms
        Of the templates, complex64, with an even number of angles.
    grid
        What images and templates are compared on.
    memory_bytes
        What a comparison may take.
    n_threads
        Threads to share images among; all cores that the process may use where None.
    """

    def __init__(
        self,
        terms: TemplateTerms,
        grid: ComparedGrid,
        memory_bytes: float,
        n_threads: int | None = None,
    ) -> None:
        self._terms, self._grid, self._memory_bytes = terms, grid, memory_bytes
        self._n_threads = n_usable_cores() if n_threads is None else n_threads
        of_views = terms.terms.numpy()
        self._first_term = terms.basis.first_term.astype(np.int64)
        self._views = TemplateViews(
            real=np.ascontiguousarray(of_views.real),
            imaginary=np.ascontiguousarray(of_views.imag),
            first_term=self._first_term,
            plan=RealLanePlan.of_length(terms.basis.n_angles),
        )
        self._power = TurnedPower(terms.power, terms.basis.n_angles, terms.power_step)
        self._strength = self._norms(of_views).max(axis=0)
        self._terms_of_images = ImageTerms(terms.basis, grid, grid.box_size_A)
        self._ones = grid.ones.numpy().astype(np.complex64)
        self._terms_of_ones = self._terms_of_low_ones()
        self._few_poses = FewPoses(
            self._views,
            self._power,
            self._terms_of_images,
            self._terms_of_ones,
            self._strength,
            grid,
        )

    def best_of_views(
        self, moments: ImageMoments, delta_A: np.ndarray, log_prior: np.ndarray
    ) -> ViewScores:
        """Compare images with all views at the same displacements."""
        n_lanes = -(-len(delta_A) // N_LANES) * N_LANES
        # Terms of the image and of ones, real and imaginary; scales of all views
        n_scales = 4 * len(self._views.real) * self._terms.basis.n_angles
        image_bytes = 4 * (4 * n_lanes * self._terms.basis.n_terms + n_scales)
        n_at_once = int(np.clip(self._memory_bytes / 2 // image_bytes, 1, len(moments)))
        parts = [
            self._best_of_few(moments.take(slice(first, first + n_at_once)), delta_A, log_prior)
            for first in range(0, len(moments), n_at_once)
        ]
        columns = (field.name for field in fields(ViewScores))
        return ViewScores(**{k: torch.cat([getattr(part, k) for part in parts]) for k in columns})

    def _best_of_few(
        self, moments: ImageMoments, delta_A: np.ndarray, log_prior: np.ndarray
    ) -> ViewScores:
        n = len(moments)
        views = np.arange(len(self._views.real))
        # With fewer images than threads each image is shared
        n_parts = -(-self._n_threads // n)
        parts = np.array_split(views, min(n_parts, len(views)))
        scales, arrays = self._scales(moments, views), self.arrays(moments)
        references = [np.full(1, -np.inf) for _ in range(n)]
        prepared = self._in_threads(
            lambda i: self._displaced(arrays, i, delta_A, log_prior), range(n)
        )

        def compare(job: tuple[int, np.ndarray]) -> BestOfViews:
            i, part = job
            image, bound = prepared[i]
            return self._compare(part, _of_views(scales[i], part), image, bound, references[i])

        found = self._in_threads(compare, [(i, part) for i in range(n) for part in parts])
        return _joined(found, n)

    def arrays(self, moments: ImageMoments) -> ImageArrays:
        """Prepare images; see `comparison.Comparison`."""
        return ImageArrays.of_moments(moments, len(self._grid.radius_shells))

    def each(self, work: Callable[[int], Found], n: int) -> list[Found]:
        """Do something for each number below n, in threads."""
        return self._in_threads(work, range(n))

    def largest_of_chosen(
        self, arrays: ImageArrays, chosen: ChosenPoses, delta_A: np.ndarray
    ) -> list[np.ndarray]:
        """Find the largest cross-correlations over angles; see `comparison.Comparison`."""
        return self._few_poses.largest_correlations(
            arrays, chosen, delta_A, _NEGLIGIBLE_COARSE_POWER
        )

    def best_of_chosen(
        self,
        arrays: ImageArrays,
        chosen: ChosenPoses,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
    ) -> list[BestOfViews]:
        """Compare images with some of the views; see `comparison.Comparison`."""
        return self._few_poses.score(arrays, chosen, delta_A, log_prior, _NEGLIGIBLE_POWER)

    def terms_of_displaced(self, moments: ImageMoments, delta_A: np.ndarray) -> np.ndarray:
        """Terms of one image; see `comparison.Comparison`."""
        parts = self._terms_of_images(moments.images[0].numpy(), moments.ctf[0].numpy(), delta_A)
        n_blocks, n_terms, _ = parts[0].shape
        terms = np.empty((n_blocks, N_LANES, n_terms), np.complex64)
        terms.real, terms.imag = (part.swapaxes(1, 2) for part in parts)
        return terms.reshape(-1, n_terms)[: len(delta_A)]

    def _in_threads(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if self._n_threads == 1:
            return [work(item) for item in items]
        with single_threaded_workers(self._n_threads) as workers:
            return list(workers.map(work, items))

    def _compare(
        self,
        views: np.ndarray,
        scales: ViewScales,
        image: DisplacedImage,
        ones_bound: float,
        reference: np.ndarray,
    ) -> BestOfViews:
        n_poses = len(self._views.real) * image.log_prior.size * self._terms.basis.n_angles
        bound, cutoff = limits_of_sums.py_func(ones_bound, scales.half_log_power.min(), n_poses)
        integration = Integration(
            exponent=self._grid.n_compared / 2 - 2, ones_bound=bound, cutoff=cutoff
        )
        return score_views(image, self._views, views, scales, integration, reference)

    def _displaced(
        self,
        arrays: ImageArrays,
        i: int,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
    ) -> tuple[DisplacedImage, float]:
        """Displace an image and ones; bound u times the norm of the template."""
        ctf, unit = arrays.ctf[i], np.float32(1 / math.sqrt(self._grid.i_ss))
        image = arrays.images[i].view(np.complex64)
        real, imaginary = self._terms_of_images(image, ctf, delta_A, arrays.inverse_norm[i])
        has_mean = abs(arrays.mean[i]) > LARGEST_MEAN
        terms_of_ones = self._terms_of_images if has_mean else self._terms_of_ones
        ones = terms_of_ones(self._ones, ctf, delta_A, unit)
        padded = np.full(len(real) * N_LANES, -np.inf)
        padded[: len(delta_A)] = log_prior
        displaced = DisplacedImage(
            real=real,
            imaginary=imaginary,
            log_prior=padded,
            ones_real=ones[0],
            ones_imaginary=ones[1],
            mean=float(arrays.mean[i]),
        )
        return displaced, float(self._bounds_of_products(ones).sum())

    def _scales(self, moments: ImageMoments, views: np.ndarray) -> list[ViewScales]:
        """Find what products with views are scaled by, for each image."""
        typical = moments.ctf_series[:, :, 0].real.mean(dim=1).min() / moments.ctf.shape[2]
        tolerance = _NEGLIGIBLE_POWER * float(typical)
        i_xx, _ = self._power(moments.ctf_series, tolerance, views)
        return [self._scales_of_power(power) for power in i_xx.numpy()]

    def _scales_of_power(self, i_xx: np.ndarray) -> ViewScales:
        turns = 1, self._terms.power_step
        inverse = np.tile(1 / np.sqrt(i_xx), turns)
        half_log = np.tile(np.float32(0.5) * np.log(i_xx), turns)
        return ViewScales(inverse_norm=inverse, ones_scale=inverse, half_log_power=half_log)

    def _norms(self, of_views: np.ndarray) -> np.ndarray:
        """Norms of the terms of each angular frequency, (n_views, n_frequencies)."""
        power = np.square(of_views.real) + np.square(of_views.imag)
        cumulative = np.cumsum(power, axis=1, dtype=np.float64)
        edges = np.concatenate([np.zeros((len(power), 1)), cumulative], axis=1)[:, self._first_term]
        norms: np.ndarray = np.sqrt(np.maximum(np.diff(edges, axis=1), 0))
        return norms

    def _bounds_of_products(self, ones: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Bound what each angular frequency adds to a product of any view with terms of ones."""
        bounds = np.empty(len(self._strength))
        n_angles = self._terms.basis.n_angles
        _fill_bounds(*ones, self._first_term, self._strength, n_angles, bounds)
        return bounds

    def _terms_of_low_ones(self) -> ImageTerms:
        """Choose angular frequencies and shells that u needs: others hold little of ones."""
        basis, strength = self._terms.basis, math.sqrt(_TYPICAL_POWER)
        unit = np.full(self._ones.shape, 1 / math.sqrt(self._grid.i_ss), np.float32)
        ones = self._terms_of_images(self._ones, unit, np.zeros((1, 2)))
        n_frequencies = _n_needed(self._bounds_of_products(ones) / strength)
        weight = self._grid.weight_shells
        of_ones = weight * np.square(np.abs(self._ones)).sum(axis=1) / self._grid.i_ss
        of_views = self._terms.power[0].real.amax(dim=1).to(torch.float64).numpy()
        tails = [power[::-1].cumsum()[::-1] for power in (of_ones, of_views)]
        n_shells = max(1, int((np.sqrt(tails[0] * tails[1]) > _LEFT_OUT_OF_ONES * strength).sum()))
        inner = replace(basis, rows=basis.rows[:, :n_shells].contiguous())
        return ImageTerms(inner, self._grid, self._grid.box_size_A, n_frequencies=n_frequencies)


def _n_needed(bounds: np.ndarray) -> int:
    """Count the first numbers after which all others sum to little."""
    return max(1, int((bounds[::-1].cumsum()[::-1] > _LEFT_OUT_OF_ONES).sum()))


@_compiled
@no_type_check
def _fill_bounds(real, imaginary, first_term, strength, n_angles, bounds):
    fill_bounds(real, imaginary, first_term, strength, n_angles, bounds)


def _of_views(scales: ViewScales, views: np.ndarray) -> ViewScales:
    """Take the scales of consecutive views."""
    chosen = slice(views[0], views[-1] + 1)
    return ViewScales(
        inverse_norm=scales.inverse_norm[chosen],
        ones_scale=scales.ones_scale[chosen],
        half_log_power=scales.half_log_power[chosen],
    )


def _joined(found: list[BestOfViews], n_images: int) -> ViewScores:
    """Join what was found for the parts of each image in turn."""

    def column(name: str, dtype: torch.dtype) -> Tensor:
        parts = np.concatenate([getattr(part, name) for part in found])
        return torch.from_numpy(parts.reshape(n_images, -1)).to(dtype)

    return ViewScores(
        cross_correlation=column("cross_correlation", torch.float32),
        inplane=column("inplane", torch.int64),
        displacement=column("displacement", torch.int64),
        log_likelihood_integrated=column("log_likelihood_integrated", torch.float64),
    )
