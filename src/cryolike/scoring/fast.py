"""Search in three passes: everywhere at low resolution, then in full where an image may be.

The first pass compares innermost shells only, with fewer views and displacements, each of which
stands for a cell, at the angles that these need. The second compares the same shells, in the cells
that the first found likely, with the views and displacements of the search. The third compares in
full all that may be as good as the best, by what the second saw of it. How much of a correlation
the first pass sees at least is known from searching for the templates themselves; so what was left
out can be estimated, and images for which it matters, or that may be nearly anywhere, are compared
with everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Self, no_type_check

import numpy as np
import torch

from cryolike.physics.compiled import _compiled, _inner
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import (
    BestOfViews,
    ChosenPoses,
    ComparedGrid,
    Comparison,
    ImageMoments,
    ViewScores,
    displaced,
)
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.template_terms import Band, TemplateTerms
from cryolike.templates import TemplateSet
from cryolike.threads import n_usable_cores

__all__ = ["BestPoses", "FastSearch", "best_pose", "best_poses"]

_COARSER = 3.0
"""Spacing of views in the first pass, as a multiple of the templates'."""

_FINER_ANGLES = 1.5
"""In-plane angles of the second pass, as a multiple of those of the first."""

_TOLERANCES = 1e-4, 1e-5
"""Share of the templates' power that the first and the second pass leave out."""

_N_DISPLACEMENTS_A_RESOLUTION = 3.0
"""Displacements of the first pass in the finest spacing that it sees."""

_REACH = 0.6
"""How far from a view or displacement of the first pass it may find poses, in their spacings."""

_LARGEST_RADIUS = 0.6
"""Of the grid's: more shells would not make the first passes quick."""

_NATS_KEPT = 10.0
"""What poses may lack to the best so that they are compared in full."""

_NATS_HIDDEN = 4.0
"""What a pose may lack to the best so that it is worth looking for where it may hide."""

_NOISE_KEPT, _NOISE_HIDDEN = 3.0, 2.0
"""Standard deviations by which noise may hide the former and the latter."""

_IMAGES_AT_ONCE = 8
"""Images that a thread looks at together: the cache holds what is found of so many."""

_LARGEST_SHARE = 0.2
"""Of all views and displacements: if the third pass had to look at more, everything is."""

_N_ROUNDS = 3
"""How often later passes may look at more, where poses may hide that are as good as the best."""

_LEFT_OUT_NATS = 0.03
"""Images whose integral may lack more are compared with everything."""

_NEGLIGIBLE_NATS = 30.0
"""What poses may lack to the best so that the estimate of what was left out counts them."""

_N_CALIBRATED = 128
"""Templates that are searched for to see how much of them the first pass sees."""

_UNSEEN = 0.05
"""Share of them of which it may see less than is reckoned with."""

_BETWEEN_GRIDS = 0.9
"""What the first pass sees of images, as a multiple: their poses lie between those of the grids."""


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
    def none_of(cls, n_images: int) -> Self:
        """Make room for the poses of so many images: views are −1."""
        numbers = np.full((3, n_images), -1)
        return cls(
            view=numbers[0],
            inplane=numbers[1],
            displacement=numbers[2],
            integrated=np.full(n_images, -np.inf),
            left_out=np.zeros(n_images),
            centre_A=np.zeros((n_images, 2)),
        )

    def put(self, rows: np.ndarray, poses: Self) -> None:
        """Set the poses of some images."""
        for name, column in vars(self).items():
            column[rows] = getattr(poses, name)

    @classmethod
    def joined(cls, parts: list[BestPoses], order: np.ndarray) -> Self:
        """Put the images of all parts, one after another, into an order."""
        names = (column.name for column in fields(cls))
        return cls(**{k: np.concatenate([getattr(p, k) for p in parts])[order] for k in names})


def best_poses(scores: ViewScores, log_weights: np.ndarray) -> BestPoses:
    """Reduce what a comparison of images with all views found.

    Parameters
    ----------
    scores
        Of images and views.
    log_weights
        Of the views.

    Returns
    -------
    BestPoses
        With nothing left out.
    """
    columns = {name: column.cpu().numpy() for name, column in vars(scores).items()}
    return _best(**columns, log_weights=log_weights)


def best_pose(
    found: BestOfViews,
    log_weights: np.ndarray,
    views: np.ndarray,
    centre_A: np.ndarray | None = None,
) -> BestPoses:
    """Reduce what a comparison of one image found.

    Parameters
    ----------
    found
        For each view.
    log_weights, views
        Of the views, and their numbers.
    centre_A
        What was added to the displacements, (2,); 0 where None.

    Returns
    -------
    BestPoses
        Of one image, with nothing left out.
    """
    columns = {name: column[None] for name, column in vars(found).items()}
    best = _best(**columns, log_weights=log_weights)
    centres = best.centre_A if centre_A is None else centre_A[None]
    return replace(best, view=views[best.view], centre_A=centres)


def _best(
    *,
    cross_correlation: np.ndarray,
    inplane: np.ndarray,
    displacement: np.ndarray,
    log_likelihood_integrated: np.ndarray,
    log_weights: np.ndarray,
) -> BestPoses:
    """Reduce columns of `ViewScores`."""
    view = cross_correlation.argmax(axis=1)
    image = np.arange(len(view))
    return BestPoses(
        view=view,
        inplane=inplane[image, view].astype(np.int64),
        displacement=displacement[image, view].astype(np.int64),
        integrated=_log_of_sums(log_likelihood_integrated + log_weights),
        left_out=np.zeros(len(view)),
        centre_A=np.zeros((len(view), 2)),
    )


def _log_of_sums(logarithms: np.ndarray) -> np.ndarray:
    """Sum rows of numbers whose logarithms are given."""
    largest = logarithms.max(axis=1)
    sums = np.exp(logarithms - largest[:, None]).sum(axis=1)
    totals: np.ndarray = largest + np.log(sums)
    return totals


_quick = partial(_compiled, nogil=False)
"""For functions that take less time than it takes to get Python's lock back."""


@_quick
@no_type_check
def _find_largest(x, of_rows, of_columns):
    """Find the largest number in each row and in each column of a matrix."""
    of_rows[:] = x[:, 0]
    of_columns[:] = x[0]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            of_rows[i] = max(of_rows[i], x[i, j])
            of_columns[j] = max(of_columns[j], x[i, j])


@_quick
@no_type_check
def _find_rest(x, rows, columns, rest):
    """Find the largest number in each row outside of chosen rows and columns, 0 at least."""
    for i in range(x.shape[0]):
        rest[i] = 0
        for j in range(x.shape[1]):
            if not (rows[i] and columns[j]):
                rest[i] = max(rest[i], x[i, j])


@_quick
@no_type_check
def _unite(sets, chosen, united):
    """Find what is in any of the chosen sets; `sets` is (n_sets, n)."""
    united[:] = False
    for i in range(chosen.size):
        if chosen[i]:
            for j in range(united.size):
                united[j] |= sets[i, j]


@_inner
@no_type_check
def _gain(x, exponent):
    """Log-likelihood of a correlation above that of none, nats; of positive correlations."""
    return -exponent * math.log1p(-(min(max(x, 0.0), 1 - 1e-9) ** 2))


@_inner
@no_type_check
def _lower(x, nats, exponent):
    """Find the correlation whose log-likelihood is so many nats below that of x; 0 at least."""
    log = math.log1p(-(min(max(x, 0.0), 1 - 1e-9) ** 2)) + nats / exponent
    return math.sqrt(-math.expm1(log)) if log < 0 else 0.0


@partial(_quick, fastmath=False)  # there are infinite numbers
@no_type_check
def _reduce(x, integrated, lacking, log_weights, exponent, share, of_coarse, of_medium):
    """Find the best view, the integral over all, and what that lacks.

    A pose that was not compared in full has at most the correlation that is predicted, and stands
    for as much of the integral below its likelihood as those that were.

    Parameters
    ----------
    x, integrated, lacking, log_weights
        Of the views that were compared in full: correlations, and logarithms; the third says how
        much larger the prior of another displacement can be.
    exponent
        Of the likelihood.
    share
        What correlations of inner shells are divided by to predict those of all.
    of_coarse, of_medium
        Largest correlations that the first and the second pass found besides, and logarithms of
        weights.

    Returns
    -------
    tuple
        Number of the view; logarithm of the integral, nats; estimate of what it lacks, nats.
    """
    largest, total = (integrated + log_weights).max(), 0.0
    for i in range(x.size):
        total += math.exp(integrated[i] + log_weights[i] - largest)
    log_total, best = largest + math.log(total), x.argmax()
    below = np.empty(x.size)
    n_counted = 0
    for i in range(x.size):
        if integrated[i] > -np.inf:
            below[n_counted] = integrated[i] + lacking[i] - _gain(x[i], exponent)
            n_counted += 1
    typical = np.median(below[:n_counted]) - log_total
    least = _lower(x[best], _NEGLIGIBLE_NATS + lacking.max(), exponent)
    rest = math.exp(-_NEGLIGIBLE_NATS)
    for at_most, weights in (of_coarse, of_medium):
        for i in range(at_most.size):
            predicted = at_most[i] / share
            if predicted > least:
                rest += math.exp(min(_gain(predicted, exponent) + weights[i] + typical, 500.0))
    return best, log_total, math.log1p(rest)


class _Cells:
    """What a pass found of an image, and what of it the next pass looks at.

    Parameters
    ----------
    x
        Largest correlation over angles, (n_views, n_displacements).

    Attributes
    ----------
    of_views, of_displacements
        The largest of each.
    rows, columns
        Whether views and displacements are chosen.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.of_views, self.of_displacements = (np.empty(n, x.dtype) for n in x.shape)
        _find_largest(x, self.of_views, self.of_displacements)
        self.largest = float(self.of_displacements.max())
        self.rows, self.columns = (np.zeros(n, bool) for n in x.shape)

    def choose(self, least: float) -> None:
        """Choose views and displacements that have a correlation of at least so much."""
        self.rows |= self.of_views >= least
        self.columns |= self.of_displacements >= least

    def best_first(self) -> tuple[np.ndarray, np.ndarray]:
        """Give what is chosen of views and displacements, those with the largest first."""
        rows, columns = np.flatnonzero(self.rows), np.flatnonzero(self.columns)
        return (
            rows[np.argsort(-self.of_views[rows], kind="stable")],
            columns[np.argsort(-self.of_displacements[columns], kind="stable")],
        )

    @property
    def rest(self) -> np.ndarray:
        """Largest correlation of each view that was not chosen, 0 at least."""
        rest = np.empty(len(self.x), self.x.dtype)
        _find_rest(self.x, self.rows, self.columns, rest)
        return rest


@dataclass(eq=False)
class _OneImage:
    """How far the search for an image is.

    Parameters
    ----------
    number
        Of the image.
    share
        See `_Images`.
    coarse
        What the first pass found.

    Attributes
    ----------
    near_views, near_displacements
        Numbers of what the second pass looked at.
    medium
        What it found.
    worth
        Correlation of inner shells from which on poses are compared in full.
    views, displacements
        Numbers of what the third pass looks at, the most promising first.
    """

    number: int
    share: float
    coarse: _Cells
    near_views: np.ndarray = field(init=False)
    near_displacements: np.ndarray = field(init=False)
    medium: _Cells = field(init=False)
    worth: float = field(init=False)
    views: np.ndarray = field(init=False)
    displacements: np.ndarray = field(init=False)

    def choose(self) -> None:
        """Choose what the third pass looks at."""
        self.medium.choose(self.worth)
        rows, columns = self.medium.best_first()
        self.views, self.displacements = self.near_views[rows], self.near_displacements[columns]

    @property
    def n_cells(self) -> int:
        """What the third pass looks at."""
        return len(self.views) * len(self.displacements)


def _chosen(searches: list[_OneImage], poses: list[tuple[np.ndarray, np.ndarray]]) -> ChosenPoses:
    views, displacements = zip(*poses, strict=True)
    return ChosenPoses(
        images=np.array([one.number for one in searches]),
        views=list(views),
        displacements=list(displacements),
    )


def _chunks(n: int) -> list[np.ndarray]:
    """Split n images into such as are looked at together; several for each thread."""
    size = min(_IMAGES_AT_ONCE, max(1, n // (2 * n_usable_cores())))
    return np.array_split(np.arange(n), -(-n // size))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """Images to search for.

    Parameters
    ----------
    whole, inner
        As comparisons take them; all shells and inner ones.
    share
        Of a template's norm that inner shells have under the CTF of each.
    """

    whole: Any
    inner: Any
    share: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseViews:
    """Views of the first pass: some of the templates'.

    Parameters
    ----------
    chosen
        Numbers of the views, (n_coarse,).
    log_weights
        Logarithm of what part of the sphere each stands for.
    is_near
        (n_coarse, n_views): views whose poses each may have found.
    """

    chosen: np.ndarray
    log_weights: np.ndarray
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
            log_weights=np.log(np.bincount(owner, views.weights, minlength=len(chosen))),
            is_near=(cosine > math.cos(_REACH * _COARSER * spacing)) | is_owned,
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
        """Divide each axis into steps, and take the middle of each."""
        axes, steps_A = zip(*(_thinned(column, step_A) for column in delta_A.T), strict=True)
        x, y = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        coarse = np.stack([x, y], axis=1)
        is_near = (np.abs(coarse[:, None] - delta_A) <= _REACH * np.array(steps_A) + 1e-6).all(
            axis=2
        )
        # Where the displacements fill no rectangle, corners of it have none nearby
        is_used = is_near.any(axis=1)
        return cls(delta_A=coarse[is_used], is_near=is_near[is_used])


def _thinned(values: np.ndarray, step: float) -> tuple[np.ndarray, float]:
    """Divide the range of values into steps of at most `step`; give their middles and the step.

    Where there are no more values than steps, they are left as they are.
    """
    start, extent, distinct = values.min(), np.ptp(values), np.unique(values.round(9))
    n = max(1, math.ceil(extent / step - 1e-6))
    if len(distinct) <= n:
        return distinct, float(np.diff(distinct).max(initial=0))
    return start + (np.arange(n) + 0.5) * extent / n, extent / n


class FastSearch:
    """Finds the best poses of images in three passes; built once for the templates of a structure.

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
        self._n_cells = len(self._log_weights) * len(self._delta_A)
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
        band = Band.limited(coarse[::4], polar, k_max / polar.radius_max)
        self._n_shells, inner = band.n_shells, grid.limited(band.n_shells)
        terms = TemplateTerms.of_templates(coarse, polar, band, _TOLERANCES[0])
        self._coarse = compare_with(terms, inner)
        finer = band.with_angles(int(_FINER_ANGLES * band.n_angles), polar)
        terms = TemplateTerms.of_templates(templates.images, polar, finer, _TOLERANCES[1])
        self._medium = compare_with(terms, inner)
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
        images = _Images(
            whole=self._fine.arrays(moments),
            inner=self._coarse.arrays(moments),
            share=self._shares_of_inner_shells(moments),
        )
        best, chunks = BestPoses.none_of(len(moments)), _chunks(len(moments))
        self._fine.each(lambda n: self._search(images, chunks[n], best), len(chunks))
        again = np.flatnonzero(best.view < 0)
        if len(again):
            of_all = self._fine.best_of_views(moments.take(again), self._delta_A, self._log_prior)
            best.put(again, best_poses(of_all, self._log_weights))
        return best

    def _search(self, images: _Images, numbers: np.ndarray, poses: BestPoses) -> None:
        """Find the best poses of a few images, but of those to be compared with everything."""
        searches = [
            _OneImage(int(i), float(images.share[i]), _Cells(cells))
            for i, cells in zip(numbers, self._coarse_cells(images.inner, numbers), strict=True)
        ]
        # None has positive correlations with images of the opposite contrast
        searches = [one for one in searches if one.coarse.largest > 0]
        for one in searches:
            one.coarse.choose(self._agreement * self._least_worth(one.coarse.largest, one.share))
        self._look_near(images.inner, searches)
        searches = [one for one in searches if one.medium.largest > 0]
        for one in searches:
            one.worth = self._least_worth(one.medium.largest, one.share)
        for _ in range(_N_ROUNDS):
            for one in searches:
                one.choose()
            searches = [one for one in searches if one.n_cells <= _LARGEST_SHARE * self._n_cells]
            if not searches:
                break
            best = self._fine.best_of_chosen(
                images.whole,
                _chosen(searches, [(one.views, one.displacements) for one in searches]),
                self._delta_A,
                self._log_prior,
            )
            again, look = [], []
            for one, of_views in zip(searches, best, strict=True):
                one.worth = min(one.worth, one.share * self._least_hidden(of_views, one.share))
                of_coarse, of_medium = one.coarse.rest / self._agreement, one.medium.rest
                if of_coarse.max() >= one.worth:
                    one.coarse.choose(self._agreement * one.worth)
                    look.append(one)
                if of_coarse.max() >= one.worth or of_medium.max() >= one.worth:
                    again.append(one)
                    continue
                self._finish(one, of_views, of_coarse, of_medium, poses)
            self._look_near(images.inner, look)
            searches = again

    def _finish(
        self,
        one: _OneImage,
        of_views: BestOfViews,
        of_coarse: np.ndarray,
        of_medium: np.ndarray,
        poses: BestPoses,
    ) -> None:
        """Reduce what the last pass found, unless what others found leaves out too much."""
        of_best = self._log_prior[one.displacements[of_views.displacement]]
        view, integrated, left_out = _reduce(
            of_views.cross_correlation,
            of_views.log_likelihood_integrated,
            self._log_prior.max() - of_best,
            self._log_weights[one.views],
            self._exponent,
            one.share,
            (of_coarse, self._views.log_weights),
            (of_medium, self._log_weights[one.near_views]),
        )
        if left_out <= _LEFT_OUT_NATS:
            i = one.number
            poses.view[i], poses.inplane[i] = one.views[view], of_views.inplane[view]
            poses.displacement[i] = one.displacements[of_views.displacement[view]]
            poses.integrated[i], poses.left_out[i] = integrated, left_out

    def _coarse_cells(self, inner: Any, numbers: np.ndarray) -> list[np.ndarray]:
        views, delta_A = self._views.chosen, self._displacements.delta_A
        poses = ChosenPoses(
            images=numbers,
            views=[np.arange(len(views))] * len(numbers),
            displacements=[np.arange(len(delta_A))] * len(numbers),
        )
        return self._coarse.largest_of_chosen(inner, poses, delta_A)

    def _look_near(self, inner: Any, searches: list[_OneImage]) -> None:
        """Compare inner shells near what is chosen of the first pass."""
        if not searches:
            return
        for one in searches:
            one.near_views = _near(self._views.is_near, one.coarse.rows)
            one.near_displacements = _near(self._displacements.is_near, one.coarse.columns)
        poses = _chosen(searches, [(one.near_views, one.near_displacements) for one in searches])
        found = self._medium.largest_of_chosen(inner, poses, self._delta_A)
        for one, cells in zip(searches, found, strict=True):
            one.medium = _Cells(cells)

    def _least_worth(self, largest: float, share: float) -> float:
        """Correlation of inner shells from which on poses are compared in full.

        `largest` is the largest of inner shells; what outer ones add is about as much in
        proportion, but for noise.
        """
        noise = _NOISE_KEPT * self._noise_of_outer_shells(share)
        return share * (self._lower(largest / share, _NATS_KEPT) - noise)

    def _least_hidden(self, found: BestOfViews, share: float) -> float:
        """Predicted correlation from which on poses may be nearly as good as the best found."""
        noise = _NOISE_HIDDEN * self._noise_of_outer_shells(share)
        return self._lower(float(found.cross_correlation.max()), _NATS_HIDDEN) - noise

    def _noise_of_outer_shells(self, share: float) -> float:
        """Find the standard deviation that noise on them gives to correlations."""
        return math.sqrt((1 - share * share) / (2 * self._exponent))

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
        shift = displaced(self._delta_A[delta], grid, turned.dtype, turned.device)
        moments = ImageMoments.of_images(turned * shift, torch.ones_like(turned.real), grid)
        inner, limited = moments.limited(self._n_shells), grid.limited(self._n_shells)
        share = (limited.sum(inner.images, inner.images) / moments.i_yy).sqrt().cpu().numpy()
        arrays = self._coarse.arrays(moments)
        chunks = _chunks(_N_CALIBRATED)
        cells = self._fine.each(lambda n: self._coarse_cells(arrays, chunks[n]), len(chunks))
        x = np.array([of_image for few in cells for of_image in few])
        is_near = self._views.is_near[:, view].T[:, :, None]
        is_near = is_near & self._displacements.is_near[:, delta].T[:, None, :]
        seen = np.where(is_near, x, 0).max(axis=(1, 2)) / share
        return _BETWEEN_GRIDS * float(np.quantile(seen, _UNSEEN))

    def _shares_of_inner_shells(self, moments: ImageMoments) -> np.ndarray:
        """Find the share of a template's norm that its inner shells have under each CTF."""
        power = moments.ctf_series[:, :, 0].cpu().numpy().real * self._power_of_shells
        shares: np.ndarray = np.sqrt(power[:, : self._n_shells].sum(axis=1) / power.sum(axis=1))
        return shares

    def _lower(self, x: float, nats: float) -> float:
        return float(_lower.py_func(x, nats, self._exponent))


def _near(is_near: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Find what is near any of the chosen."""
    united = np.empty(is_near.shape[1], bool)
    _unite(is_near, chosen, united)
    return np.flatnonzero(united)
