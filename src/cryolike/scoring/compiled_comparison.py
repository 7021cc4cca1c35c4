"""Comparison of images with views on a processor, by compiled code, in single precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryolike.scoring.comparison import ComparedGrid, ImageMoments, ViewScores
from cryolike.scoring.compiled import (
    BestOfViews,
    DisplacedImage,
    Integration,
    TemplateViews,
    ViewScales,
    score_views,
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

_LARGEST_MEAN = 5e-3
"""Correlation with an image of ones above which u must be exact: log L depends on their product."""

_LARGEST_BOUND = 0.9
"""Of |u|; where it may be larger, all poses are summed."""

_TYPICAL_POWER = 0.3
"""I_xx of a template of unit norm, about half of which its CTF leaves."""

_NEGLIGIBLE_POWER = 1e-6
"""Bound of what angular frequencies of CTF² that are left out could add to I_xx, relative to it."""

_NEGLIGIBLE_COARSE_POWER = 1e-3
"""The same where only the best cells are looked for."""

_IMAGES_AT_ONCE = 32
"""Whose template powers are computed together."""

_NEGLIGIBLE_NATS = 12.0
"""What poses may lack that are left out, even if all poses together were of their kind."""


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
        self._terms_of_ones = ImageTerms(
            terms.basis, grid, grid.box_size_A, n_frequencies=self._n_frequencies_of_ones()
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
        scales = self._scales(moments, views)
        references = [np.full(1, -np.inf) for _ in range(n)]
        prepared = self._in_threads(
            lambda i: self._displaced(moments, i, delta_A, log_prior, True), range(n)
        )

        def compare(job: tuple[int, np.ndarray]) -> BestOfViews:
            i, part = job
            image, bound = prepared[i]
            return self._compare(part, _of_views(scales[i], part), image, bound, references[i])

        found = self._in_threads(compare, [(i, part) for i in range(n) for part in parts])
        return _joined(found, n)

    def best_of_cells(self, moments: ImageMoments, delta_A: np.ndarray) -> Tensor:
        """Find the largest cross-correlation over angles of each view and displacement."""
        views = np.arange(len(self._views.real))
        best = np.empty((len(moments), len(views), len(delta_A)), np.float32)

        def compare(i: int) -> None:
            image, _ = self._displaced(moments, i, delta_A, np.zeros(len(delta_A)), False)
            scale = scales[i - first]
            found = score_views(image, self._views, views, scale, also=("of_displacements",))
            best[i] = found.of_displacements[:, : len(delta_A)]

        for first in range(0, len(moments), _IMAGES_AT_ONCE):
            few = range(first, min(first + _IMAGES_AT_ONCE, len(moments)))
            part = moments.take(slice(few.start, few.stop))
            scales = self._scales(part, views, _NEGLIGIBLE_COARSE_POWER)
            self._in_threads(compare, few)
        return torch.from_numpy(best)

    def best_of_chosen(
        self,
        moments: ImageMoments,
        delta_A: list[np.ndarray],
        log_prior: list[np.ndarray],
        views: list[np.ndarray],
    ) -> list[ViewScores]:
        """Compare each image with views and displacements of its own."""

        def compare(i: int) -> ViewScores:
            prepared = self._displaced(moments, i, delta_A[i], log_prior[i], True)
            reference = np.full(1, -np.inf)
            (scale,) = self._scales(moments.take(slice(i, i + 1)), views[i])
            return _joined([self._compare(views[i], scale, *prepared, reference)], 1)

        return self._in_threads(compare, range(len(moments)))

    def terms_of_displaced(self, moments: ImageMoments, delta_A: np.ndarray) -> np.ndarray:
        """Terms of one image; see `comparison.Comparison`."""
        parts = self._terms_of_images(moments.images[0].numpy(), moments.ctf[0].numpy(), delta_A)
        lanes = [part.swapaxes(1, 2).reshape(-1, part.shape[1])[: len(delta_A)] for part in parts]
        return lanes[0] + 1j * lanes[1]

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
        bound = ones_bound * math.exp(-scales.half_log_power.min())
        is_useful = bound < _LARGEST_BOUND
        integration = Integration(
            exponent=self._grid.n_compared / 2 - 2,
            ones_bound=bound if is_useful else _LARGEST_BOUND,
            cutoff=math.log(n_poses) + _NEGLIGIBLE_NATS if is_useful else math.inf,
        )
        return score_views(image, self._views, views, scales, integration, reference)

    def _displaced(
        self,
        moments: ImageMoments,
        i: int,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
        has_ones: bool,
    ) -> tuple[DisplacedImage, float]:
        """Terms of a displaced image, and a bound of u times the norm of the template."""
        ctf = moments.ctf[i].numpy()
        factor = np.float32(1 / math.sqrt(float(moments.i_yy[i])))
        real, imaginary = self._terms_of_images(moments.images[i].numpy(), ctf * factor, delta_A)
        padded = np.full(len(real) * N_LANES, -np.inf)
        padded[: len(delta_A)] = log_prior
        ones = np.empty((2, len(real), 0, N_LANES), np.float32)
        bound = 0.0
        if has_ones:
            unit = np.float32(1 / math.sqrt(self._grid.i_ss))
            has_mean = abs(float(moments.v[i])) > _LARGEST_MEAN
            terms_of_ones = self._terms_of_images if has_mean else self._terms_of_ones
            ones = np.stack(terms_of_ones(self._ones, ctf * unit, delta_A))
            bound = self._largest_product(ones)
        image = DisplacedImage(
            real=real,
            imaginary=imaginary,
            log_prior=padded,
            ones_real=ones[0],
            ones_imaginary=ones[1],
            mean=float(moments.v[i]),
        )
        return image, bound

    def _scales(
        self, moments: ImageMoments, views: np.ndarray, tolerance: float = _NEGLIGIBLE_POWER
    ) -> list[ViewScales]:
        """Find what products with views are scaled by, for each image."""
        typical = float(moments.ctf.square().mean(dim=(1, 2)).min())
        i_xx, _ = self._power(moments.ctf, tolerance * typical, views)
        turns = 1, self._terms.power_step
        return [
            ViewScales(inverse_norm=inverse, ones_scale=inverse, half_log_power=half_log)
            for inverse, half_log in zip(
                np.tile(i_xx.rsqrt().numpy(), (1, *turns)),
                np.tile(i_xx.log().mul_(0.5).numpy(), (1, *turns)),
                strict=True,
            )
        ]

    def _norms(self, of_views: np.ndarray) -> np.ndarray:
        """Norms of the terms of each angular frequency, (n_views, n_frequencies)."""
        power = np.square(of_views.real) + np.square(of_views.imag)
        cumulative = np.cumsum(power, axis=1, dtype=np.float64)
        edges = np.concatenate([np.zeros((len(power), 1)), cumulative], axis=1)[:, self._first_term]
        norms: np.ndarray = np.sqrt(np.maximum(np.diff(edges, axis=1), 0))
        return norms

    def _products_of_ones(self, terms: np.ndarray) -> np.ndarray:
        """Bounds of what each angular frequency adds to a product with the terms of ones."""
        n_frequencies = int(np.searchsorted(self._first_term, terms.shape[-2]))
        power = np.square(terms).sum(axis=0)
        edges = self._first_term[:n_frequencies]
        full = np.flatnonzero(np.diff(np.append(edges, power.shape[1])) > 0)
        of_frequency = np.zeros((len(power), n_frequencies, N_LANES))
        of_frequency[:, full] = np.add.reduceat(power, edges[full], axis=1)
        largest = np.sqrt(of_frequency).max(axis=(0, 2))
        bounds: np.ndarray = (
            2 / self._terms.basis.n_angles * largest * self._strength[:n_frequencies]
        )
        return bounds

    def _largest_product(self, ones: np.ndarray) -> float:
        return float(self._products_of_ones(ones).sum())

    def _n_frequencies_of_ones(self) -> int:
        """Angular frequencies that u needs: higher ones hold little of an image of ones."""
        unit = np.full(self._ones.shape, 1 / math.sqrt(self._grid.i_ss), np.float32)
        ones = np.stack(self._terms_of_images(self._ones, unit, np.zeros((1, 2))))
        bounds = self._products_of_ones(ones) / math.sqrt(_TYPICAL_POWER)
        left_out = bounds[::-1].cumsum()[::-1]
        return max(1, int((left_out > _LEFT_OUT_OF_ONES).sum()))


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
        log_likelihood_integrated=column("log_sum", torch.float64),
    )
