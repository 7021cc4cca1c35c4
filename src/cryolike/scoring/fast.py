"""Search in two passes: everywhere at low resolution, then in full where an image may be.

The first pass compares innermost shells only, with fewer views and displacements, at the angles
that these need. The second compares in full near all that the first found likely, and again near
all that may hide a pose as good as the best found so far. How much of a correlation the first pass
sees at least is known from searching for the templates themselves; so what was left out can be
estimated, and images for which it matters, or that may be nearly anywhere, are compared with
everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import (
    ComparedGrid,
    Comparison,
    ImageMoments,
    ViewScores,
    displaced,
)
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

_NATS_HIDDEN = 4.0
"""What a pose may lack to the best so that it is worth looking for where it may hide."""

_LARGEST_SHARE = 0.2
"""Of all views and displacements: if the second pass had to look at more, everything is."""

_N_DISPLACEMENTS_A_RESOLUTION = 2.5
"""Displacements of the first pass in the finest spacing that it sees."""

_LARGEST_RADIUS = 0.6
"""Of the grid's: more shells would not make the first pass quick."""

_LEFT_OUT_NATS = 0.03
"""Images whose integral may lack more are compared with everything."""

_N_CALIBRATED = 128
"""Templates that are searched for to see how much of them the first pass sees."""

_UNSEEN = 0.05
"""Share of them of which it may see less than is reckoned with."""

_BETWEEN_GRIDS = 0.9
"""What the first pass sees of images, as a multiple: their poses lie between those of the grids."""

_NOISE = 0.5
"""Standard deviations by which noise may hide a pose from the first pass."""

_N_ROUNDS = 2
"""The second looks where poses may hide that are as good as the best of the first."""


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

    def take(self, rows: slice) -> Self:
        """Take only the poses of some images."""
        return type(self)(**{k: column[rows] for k, column in vars(self).items()})

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
class _Region:
    """Where an image is compared in full.

    Parameters
    ----------
    is_likely, is_covered
        Cells of the first pass to look at, and all that are looked at with them,
        (n_coarse_views, n_coarse_displacements).
    views, delta
        Numbers of views and displacements.
    """

    is_likely: np.ndarray
    is_covered: np.ndarray
    views: np.ndarray
    delta: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseViews:
    """Views of the first pass: some of the templates'.

    Parameters
    ----------
    chosen
        Numbers of the views, (n_coarse,).
    weights
        What part of the sphere each stands for.
    is_near
        (n_coarse, n_views): views whose poses each may have found.
    """

    chosen: np.ndarray
    weights: np.ndarray
    is_near: np.ndarray

    @classmethod
    def of_views(cls, views: ViewingDirections, spacing: float) -> _CoarseViews:
        """Take the views that are nearest to coarsely spaced ones."""
        directions = views.unit_vectors
        coarse = ViewingDirections.of_spacing(_COARSER * spacing).unit_vectors
        chosen = np.unique((coarse @ directions.T).argmax(axis=1))
        cosine = directions[chosen] @ directions.T
        owner = cosine.argmax(axis=0)
        is_owned = owner == np.arange(len(chosen))[:, None]
        return cls(
            chosen=chosen,
            weights=np.bincount(owner, weights=views.weights, minlength=len(chosen)),
            is_near=(cosine > math.cos(_COARSER * spacing)) | is_owned,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseDisplacements:
    """Displacements of the first pass.

    Parameters
    ----------
    delta_A
        δx and δy, Å, (n_coarse, 2).
    is_near
        (n_coarse, n_displacements): those of the search up to the next ones of the first pass, any
        of which it may have found.
    """

    delta_A: np.ndarray
    is_near: np.ndarray

    @classmethod
    def of_displacements(cls, delta_A: np.ndarray, step_A: float) -> _CoarseDisplacements:
        """Take every so-manieth along each axis."""
        axes = [_thinned(np.unique(column.round(9)), step_A) for column in delta_A.T]
        x, y = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        reach = [np.diff(axis).max(initial=0) + 1e-6 for axis in axes]
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
        polar, spacing = templates.descriptor.polar_grid, templates.views.spacing_rad
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
        power = templates.images[::4].abs().square().sum(dim=(0, 2)).to(torch.float64).cpu().numpy()
        self._power_of_shells = power * grid.weight_shells
        self._band = Band.limited(coarse[::4], polar, k_max / polar.radius_max)
        terms = TemplateTerms.of_templates(coarse, polar, self._band)
        self._coarse = compare_with(terms, grid.limited(self._band.n_shells))

        self._agreement = self._calibrate(templates, grid)

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
        # What the first pass sees of the correlation that the second would find
        seen = self._agreement * self._share_of_band(moments.ctf)
        regions = {i: self._region(self._likely(x[i])) for i in range(len(moments))}
        done: dict[int, BestPoses] = {}
        for _ in range(_N_ROUNDS):
            few = [i for i, region in regions.items() if self._is_small(region)]
            scores = self._compare(moments, few, regions)
            before, regions = regions, {}
            for i, found in zip(few, scores, strict=True):
                largest = float(found.cross_correlation.max())
                hidden = self._may_hide(x[i], seen[i], largest) & ~before[i].is_covered
                if hidden.any():
                    regions[i] = self._region(hidden | before[i].is_likely)
                else:
                    done[i] = self._reduced(found, before[i], x[i] / seen[i])
        good = np.array([i for i, best in done.items() if best.left_out[0] <= _LEFT_OUT_NATS], int)
        parts = [done[i] for i in good.tolist()]
        again = np.setdiff1d(np.arange(len(moments)), good)
        if len(again):
            of_all = self._fine.best_of_views(moments.take(again), self._delta_A, self._log_prior)
            parts.append(best_poses(of_all, self._log_weights))
        return BestPoses.joined(parts, np.argsort(np.concatenate([good, again])))

    def _calibrate(self, templates: TemplateSet, grid: ComparedGrid) -> float:
        """Find how much of a template's correlation the first pass sees at least.

        Templates themselves, turned and displaced, are searched for as if they were images; what
        the first pass sees of them depends on how far they are from its views, displacements and
        angles.
        """
        rng = np.random.default_rng(0)
        n_angles = templates.images.shape[-1]
        view = rng.integers(len(templates), size=_N_CALIBRATED)
        delta = rng.integers(len(self._delta_A), size=_N_CALIBRATED)
        turn = torch.from_numpy(rng.integers(n_angles, size=_N_CALIBRATED))
        angle = (torch.arange(n_angles) - turn[:, None]) % n_angles
        turned = templates.images[view].take_along_dim(
            angle[:, None].to(templates.images.device), -1
        )
        shift = displaced(self._delta_A[delta], grid).to(turned.device, turned.dtype)
        ctf = torch.ones_like(turned.real)
        moments = ImageMoments.of_images(turned * shift, ctf, grid)
        of_band = moments.limited(self._band.n_shells)
        limited = grid.limited(self._band.n_shells)
        share = (limited.sum(of_band.images, of_band.images) / moments.i_yy).sqrt().cpu().numpy()
        x = self._coarse.best_of_cells(of_band, self._displacements.delta_A).cpu().numpy()
        is_near = self._views.is_near[:, view].T[:, :, None]
        is_near = is_near & self._displacements.is_near[:, delta].T[:, None, :]
        seen = np.where(is_near, x, 0).max(axis=(1, 2)) / share
        return _BETWEEN_GRIDS * float(np.quantile(seen, _UNSEEN))

    def _share_of_band(self, ctf: Tensor) -> np.ndarray:
        """Find the share of a template's norm that its inner shells have under each CTF."""
        of_ctf: np.ndarray = ctf.square().mean(dim=-1).to(torch.float64).cpu().numpy()
        power = of_ctf * self._power_of_shells
        inner = power[:, : self._band.n_shells].sum(axis=1)
        share: np.ndarray = np.sqrt(inner / power.sum(axis=1))
        return share

    def _gain(self, x: np.ndarray) -> np.ndarray:
        """Log-likelihood above that of no correlation, nats; of positive correlations."""
        square = np.square(np.clip(x, 0, 1 - 1e-9).astype(np.float64))
        return np.asarray(-self._exponent * np.log1p(-square))

    def _likely(self, x: np.ndarray) -> np.ndarray:
        """Choose cells to look at first; `x` is (n_coarse_views, n_coarse_displacements)."""
        gain = self._gain(x)
        best = np.argsort(-gain.max(axis=1))[:_N_VIEWS_KEPT]
        likely = np.asarray(gain > gain.max() - _NATS_KEPT)
        likely[best, gain[best].argmax(axis=1)] = True
        return likely

    def _may_hide(self, x: np.ndarray, seen: float, largest: float) -> np.ndarray:
        """Which cells may hide a pose nearly as good as the best so far."""
        noise = _NOISE / math.sqrt(2 * self._exponent)
        at_most = (x + noise) / seen
        may_hide: np.ndarray = self._gain(at_most) > self._gain(np.array(largest)) - _NATS_HIDDEN
        return may_hide

    def _region(self, is_likely: np.ndarray) -> _Region:
        views = np.asarray(is_likely.any(axis=1))
        displacements = np.asarray(is_likely.any(axis=0))
        return _Region(
            is_likely=is_likely,
            is_covered=views[:, None] & displacements,
            views=np.flatnonzero(self._views.is_near[views].any(axis=0)),
            delta=np.flatnonzero(self._displacements.is_near[displacements].any(axis=0)),
        )

    def _is_small(self, region: _Region) -> bool:
        everything = len(self._log_weights) * len(self._delta_A)
        return len(region.views) * len(region.delta) < _LARGEST_SHARE * everything

    def _compare(
        self, moments: ImageMoments, rows: list[int], regions: dict[int, _Region]
    ) -> list[ViewScores]:
        if not rows:
            return []
        chosen = [regions[i] for i in rows]
        return self._fine.best_of_chosen(
            moments.take(np.array(rows)),
            [self._delta_A[region.delta] for region in chosen],
            [self._log_prior[region.delta] for region in chosen],
            [region.views for region in chosen],
        )

    def _reduced(self, scores: ViewScores, region: _Region, at_most: np.ndarray) -> BestPoses:
        """Reduce what was found for an image, and estimate what was left out.

        A pose that was not looked at has at most the correlation that its cell would hide, and
        stands for as much of the integral below its likelihood as those that were.
        """
        best = best_poses(scores, self._log_weights[region.views], region.views)
        x = scores.cross_correlation[0].cpu().numpy()
        of_views = scores.log_likelihood_integrated[0].cpu().numpy()
        counted = np.isfinite(of_views)
        below = np.median(of_views[counted] - self._gain(x[counted]))
        rest = self._gain(at_most) + below + np.log(self._views.weights)[:, None]
        rest[region.is_covered] = -np.inf
        excess = _log_of_sum(rest) - float(best.integrated[0])
        return replace(
            best,
            displacement=region.delta[best.displacement],
            left_out=np.array([math.log1p(math.exp(min(excess, 500.0)))]),
        )


def _log_of_sum(logarithms: np.ndarray) -> float:
    """Sum numbers whose logarithms are given; quicker than scipy's function for few."""
    largest = float(logarithms.max())
    if not math.isfinite(largest):
        return largest
    return largest + math.log(float(np.exp(logarithms - largest).sum()))
