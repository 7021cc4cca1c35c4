"""Search in two passes: everywhere at low resolution, then in full where an image may be.

The first pass compares innermost shells only, with fewer views and displacements, at the angles
that these need. The second compares in full, on the whole grid, near all that the first found
likely; what was left out is estimated from how much more likely the second pass found views than
the first, and images for which it matters are compared with everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch

from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import ComparedGrid, Comparison, ImageMoments, ViewScores
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.template_terms import Band, TemplateTerms
from cryolike.templates import TemplateSet

__all__ = ["BestPoses", "FastSearch", "best_poses"]

_COARSER = 2.0
"""Spacing of views in the first pass, as a multiple of the templates'."""

_N_VIEWS_KEPT = 8
"""Views of the first pass near which the second looks at least."""

_NATS_KEPT = 8.0
"""What poses of the first pass may lack to the best so that the second looks there too."""

_LARGEST_SHARE = 0.2
"""Of all views and displacements: if the second pass had to look at more, everything is."""

_N_DISPLACEMENTS_A_RESOLUTION = 2.5
"""Displacements of the first pass in the finest spacing that it sees."""

_LARGEST_RADIUS = 0.6
"""Of the grid's: more shells would not make the first pass quick."""

_LEFT_OUT_NATS = 0.03
"""Images whose integral may lack more are compared with everything."""

_HIGH = 0.6
"""Share of the largest gain above which a view tells how the two passes are related."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BestPoses:
    """Best pose of each image, and the integral over all of them; all fields (n_images,).

    Parameters
    ----------
    view, inplane, displacement
        Numbers on the grids, int64.
    integrated
        Log-likelihood integrated over poses, float64, nats, but for what all poses share.
    left_out
        What the integral lacks, estimated, nats.
    centre_A
        What is to be added to the displacement, Å, (n_images, 2).
    """

    view: np.ndarray
    inplane: np.ndarray
    displacement: np.ndarray
    integrated: np.ndarray
    left_out: np.ndarray
    centre_A: np.ndarray

    @classmethod
    def joined(cls, parts: list[BestPoses], order: np.ndarray) -> Self:
        """Put the images of all parts, one after another, into an order."""
        names = (field.name for field in fields(cls))
        return cls(**{k: np.concatenate([getattr(p, k) for p in parts])[order] for k in names})


def best_poses(
    scores: ViewScores,
    log_weights: np.ndarray,
    views: np.ndarray | None = None,
    centre_A: np.ndarray | None = None,
) -> BestPoses:
    """Reduce what a comparison found for each view.

    Parameters
    ----------
    scores
        Of images and views.
    log_weights
        Of the views.
    views
        Their numbers, if they are not all.
    centre_A
        What was added to the displacements, (2,); 0 where None.

    Returns
    -------
    BestPoses
        With nothing left out.
    """
    best = scores.cross_correlation.argmax(dim=1)
    weights = torch.tensor(log_weights, device=best.device)
    integrated = (scores.log_likelihood_integrated + weights).logsumexp(dim=1)
    inplane, displacement = (
        column.gather(1, best[:, None])[:, 0].cpu().numpy()
        for column in (scores.inplane, scores.displacement)
    )
    view = best.cpu().numpy()
    return BestPoses(
        view=view if views is None else views[view],
        inplane=inplane,
        displacement=displacement,
        integrated=integrated.cpu().numpy(),
        left_out=np.zeros(len(view)),
        centre_A=np.zeros((len(view), 2)) + (0 if centre_A is None else centre_A),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chosen:
    """Where to look in full.

    Parameters
    ----------
    views, delta
        Numbers of views and displacements.
    coarse_views, coarse_displacements
        Which of the first pass they are near.
    """

    views: np.ndarray
    delta: np.ndarray
    coarse_views: np.ndarray
    coarse_displacements: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseViews:
    """Views of the first pass: some of the templates'.

    Parameters
    ----------
    chosen
        Numbers of the views, (n_coarse,).
    weights
        What part of the sphere each stands for.
    near
        Views whose poses one of them may have found, of each.
    owned
        Views that are nearest to each.
    """

    chosen: np.ndarray
    weights: np.ndarray
    near: list[np.ndarray]
    owned: list[np.ndarray]

    @classmethod
    def of_views(cls, views: ViewingDirections, spacing: float) -> _CoarseViews:
        """Take the views that are nearest to coarsely spaced ones."""
        directions = views.unit_vectors
        coarse = ViewingDirections.of_spacing(_COARSER * spacing).unit_vectors
        chosen = np.unique((coarse @ directions.T).argmax(axis=1))
        cosine = directions[chosen] @ directions.T
        owner = cosine.argmax(axis=0)
        is_owned = owner == np.arange(len(chosen))[:, None]
        is_near = (cosine > math.cos(_COARSER * spacing)) | is_owned
        return cls(
            chosen=chosen,
            weights=np.bincount(owner, weights=views.weights, minlength=len(chosen)),
            near=[np.flatnonzero(row) for row in is_near],
            owned=[np.flatnonzero(row) for row in is_owned],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseDisplacements:
    """Displacements of the first pass.

    Parameters
    ----------
    delta_A
        δx and δy, Å, (n_coarse, 2).
    is_near
        (n_coarse, n_displacements): those of the search that each stands for.
    """

    delta_A: np.ndarray
    is_near: np.ndarray

    @classmethod
    def of_displacements(cls, delta_A: np.ndarray, step_A: float) -> _CoarseDisplacements:
        """Take every so-manieth along each axis."""
        axes = [_thinned(np.unique(column.round(9)), step_A) for column in delta_A.T]
        x, y = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        reach = [np.diff(axis).max(initial=0) / 2 + 1e-6 for axis in axes]
        coarse = np.stack([x, y], axis=1)
        distance = np.abs(coarse[:, None] - delta_A)
        return cls(delta_A=coarse, is_near=(distance <= reach).all(axis=2))


def _thinned(axis: np.ndarray, step: float) -> np.ndarray:
    """Choose values of an ascending axis, ends included, about a step apart."""
    if len(axis) == 1:
        return axis
    fine = (axis[-1] - axis[0]) / (len(axis) - 1)
    stride = max(1, math.floor(step / fine + 1e-6))
    n_coarse = 1 + math.ceil((len(axis) - 1) / stride)
    places = np.unique(np.linspace(0, len(axis) - 1, n_coarse).round().astype(int))
    thinned: np.ndarray = axis[places]
    return thinned


class FastSearch:
    """Finds the best poses of images in two passes; built once for the templates of a structure.

    Parameters
    ----------
    templates
        Of the structure.
    displacements
        To try.
    grid
        What images and templates are compared on.
    fine
        Compares in full.
    compare_with
        Makes a comparison of terms on a grid.
    """

    def __init__(
        self,
        templates: TemplateSet,
        displacements: Displacements,
        grid: ComparedGrid,
        fine: Comparison,
        compare_with: Callable[[TemplateTerms, ComparedGrid], Comparison],
    ) -> None:
        polar, spacing = templates.descriptor.polar_grid, templates.descriptor.viewing_distance
        self._delta_A = np.stack([displacements.x_A, displacements.y_A], axis=1)
        self._log_prior, self._fine = displacements.log_prior, fine
        self._log_weights = np.log(templates.views.weights)
        self._exponent = grid.n_compared / 2 - 2
        self._views = _CoarseViews.of_views(templates.views, spacing)
        # Details that views this far apart still share
        k_max = min(1 / (2 * spacing), _LARGEST_RADIUS * polar.radius_max)
        resolution_A = grid.box_size_A / (2 * k_max)
        self._displacements = _CoarseDisplacements.of_displacements(
            self._delta_A, resolution_A / _N_DISPLACEMENTS_A_RESOLUTION
        )
        coarse = templates.images[self._views.chosen]
        self._band = Band.limited(coarse[::4], polar, k_max / polar.radius_max)
        terms = TemplateTerms.of_templates(coarse, polar, self._band)
        self._coarse = compare_with(terms, grid.limited(self._band.n_shells))

    def best_poses(self, moments: ImageMoments) -> BestPoses:
        """Find the best pose of each image, and the integral over all poses.

        Parameters
        ----------
        moments
            The images.

        Returns
        -------
        BestPoses
            Of all images; `left_out` is 0 for those that were compared with everything.
        """
        coarse = moments.limited(self._band.n_shells)
        x = self._coarse.best_of_cells(coarse, self._displacements.delta_A).cpu().numpy()
        gains = self._gain(x)
        chosen = [self._choose(gain) for gain in gains]
        everything = len(self._log_weights) * len(self._delta_A)
        is_few = [len(c.views) * len(c.delta) < _LARGEST_SHARE * everything for c in chosen]
        few = np.flatnonzero(is_few)
        compared = self._compare(moments.take(few), [chosen[i] for i in few])
        found = [
            self._found(gains[i], chosen[i], scores)
            for i, scores in zip(few, compared, strict=True)
        ]
        is_good = np.array([part.left_out[0] <= _LEFT_OUT_NATS for part in found], dtype=bool)
        good = few[is_good]
        parts = [part for part, kept in zip(found, is_good, strict=True) if kept]
        again = np.setdiff1d(np.arange(len(moments)), good)
        if len(again):
            of_all = self._fine.best_of_views(moments.take(again), self._delta_A, self._log_prior)
            parts.append(best_poses(of_all, self._log_weights))
        return BestPoses.joined(parts, np.argsort(np.concatenate([good, again])))

    def _gain(self, x: np.ndarray) -> np.ndarray:
        """Log-likelihood above that of no correlation, nats; of positive correlations."""
        square = np.square(np.maximum(x, 0).astype(np.float64))
        gain: np.ndarray = -self._exponent * np.log1p(-np.minimum(square, 1 - 1e-9))
        return gain

    def _choose(self, gain: np.ndarray) -> _Chosen:
        """Choose where to look in full; `gain` is (n_coarse_views, n_coarse_displacements)."""
        of_views = gain.max(axis=1)
        best = np.argsort(-of_views)[:_N_VIEWS_KEPT]
        likely = gain > of_views[best[0]] - _NATS_KEPT
        likely[best, gain[best].argmax(axis=1)] = True
        views, displacements = likely.any(axis=1), likely.any(axis=0)
        near = [self._views.near[i] for i in np.flatnonzero(views)]
        return _Chosen(
            views=np.unique(np.concatenate(near)),
            delta=np.flatnonzero(self._displacements.is_near[displacements].any(axis=0)),
            coarse_views=views,
            coarse_displacements=displacements,
        )

    def _compare(self, moments: ImageMoments, chosen: list[_Chosen]) -> list[ViewScores]:
        return self._fine.best_of_chosen(
            moments,
            [self._delta_A[c.delta] for c in chosen],
            [self._log_prior[c.delta] for c in chosen],
            [c.views for c in chosen],
        )

    def _found(self, gain: np.ndarray, chosen: _Chosen, scores: ViewScores) -> BestPoses:
        """Reduce what was found for an image, and estimate what was left out."""
        best = best_poses(scores, self._log_weights[chosen.views], chosen.views)
        x = scores.cross_correlation[0].cpu().numpy()
        of_views = scores.log_likelihood_integrated[0].cpu().numpy()
        rest = self._rest(gain, chosen, x, of_views) - float(best.integrated[0])
        return replace(
            best,
            displacement=chosen.delta[best.displacement],
            left_out=np.array([math.log1p(math.exp(min(rest, 500.0)))]),
        )

    def _rest(
        self, gain: np.ndarray, chosen: _Chosen, x: np.ndarray, of_views: np.ndarray
    ) -> float:
        """Estimate the integral over poses that were not compared in full.

        Where they were, the largest gain of a view in full is some multiple of that in the first
        pass, and its integral is so much below it.
        """
        fine = np.full(len(self._log_weights), -np.inf)
        fine[chosen.views] = self._gain(x)
        looked_at = np.flatnonzero(chosen.coarse_views)
        of_coarse = gain[looked_at].max(axis=1)
        of_fine = np.array([fine[self._views.owned[i]].max() for i in looked_at])
        is_high = of_coarse > _HIGH * of_coarse.max()
        ratio = of_fine[is_high] / of_coarse[is_high]
        finite = np.isfinite(of_views)
        entropy = np.median(of_views[finite] - self._gain(x)[finite])
        rest = (ratio.mean() + ratio.std()) * gain + entropy + np.log(self._views.weights)[:, None]
        rest[np.ix_(chosen.coarse_views, chosen.coarse_displacements)] = -np.inf
        return _log_of_sum(rest)


def _log_of_sum(logarithms: np.ndarray) -> float:
    """Sum numbers whose logarithms are given; quicker than scipy's function for few."""
    largest = float(logarithms.max())
    if not math.isfinite(largest):
        return largest
    return largest + math.log(float(np.exp(logarithms - largest).sum()))
