"""Comparison of many images with few poses each, in one call and without Python's lock.

A search looks at an image in several short passes. Threads that took turns holding the lock would
wait for each other longer than they compare.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray

from cryolike.errors import UsageError
from cryolike.physics.compiled import _compiled, _inner
from cryolike.scoring.comparison import BestOfViews, ChosenPoses, ComparedGrid, ImageMoments
from cryolike.scoring.compiled import (
    N_SPECTRA,
    TemplateViews,
    empty_best,
    find_largest,
    score_image,
)
from cryolike.scoring.image_terms import ImageTerms, aligned, as_compiled, fill_terms
from cryolike.scoring.lanes import addresses
from cryolike.scoring.turned_power import TurnedPower, fill_power
from cryolike.scoring.vectors import N_LANES, address, inline

__all__ = ["LARGEST_MEAN", "FewPoses", "ImageArrays", "fill_bounds", "limits_of_sums"]

_U = np.uint64

LARGEST_MEAN = 5e-3
"""Correlation with an image of ones above which u must be exact: log L depends on their product."""

_LARGEST_BOUND = 0.9
"""Of |u|; where it may be larger, all poses are summed."""

_NEGLIGIBLE_NATS = 12.0
"""What poses may lack that are left out, even if all poses together were of their kind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArrays:
    """Images as compiled code takes them.

    Attributes
    ----------
    images
        float32, (n_images, n_shells, 2 · n_inplanes): parts of complex numbers in turn.
    ctf, ctf_series
        As in `ImageMoments`.
    inverse_norm, mean
        1/√I_yy, and v, (n_images,).
    power
        Mean of CTF² on the shells that are compared, (n_images,).
    """

    images: np.ndarray
    ctf: np.ndarray
    ctf_series: np.ndarray
    inverse_norm: np.ndarray
    mean: np.ndarray
    power: np.ndarray

    @classmethod
    def of_moments(cls, moments: ImageMoments, n_shells: int) -> ImageArrays:
        """Take images on a processor, in single precision, of which inner shells are compared."""
        series = moments.ctf_series.numpy()
        return cls(
            images=moments.images.numpy().view(np.float32),
            ctf=moments.ctf.numpy(),
            ctf_series=series,
            inverse_norm=moments.i_yy.rsqrt().numpy().astype(np.float32),
            mean=moments.v.numpy(),
            power=series[:, :n_shells, 0].real.mean(axis=1) / moments.ctf.shape[2],
        )


@_inner
@no_type_check
def _fill_scales(powers, scales):
    """Find what products of an image with views are scaled by.

    Parameters
    ----------
    powers
        What `fill_power` takes before its result.
    scales
        Get 1/√I_xx and ½ log I_xx, (n_views, n_angles); the latter may have no elements.
    """
    series, tables, views, tolerance, room = powers
    inverse_norm, half_log_power = scales
    fill_power(series, tables, views, tolerance, room, inverse_norm)
    period = tables[2].shape[2]
    for view in range(inverse_norm.shape[0]):
        line = inverse_norm[view]
        for j in range(period):
            line[j] = np.float32(1) / np.sqrt(line[j])
        for j in range(period, line.size):
            line[j] = line[j - period]
    for view in range(half_log_power.shape[0]):
        line = half_log_power[view]
        for j in range(period):
            line[j] = -np.log(inverse_norm[view, j])
        for j in range(period, line.size):
            line[j] = line[j - period]


@_inner
@no_type_check
def _prepare(i, arrays, chosen, of_terms, of_power, room):
    """Make terms of an image, and the scales of its views; parameters are those of callers.

    Returns
    -------
    tuple
        Number of the image, its views, displacements in Å, number of blocks of them, terms,
        1/√I_xx and ½ log I_xx.
    """
    images, ctf, series, inverse_norms, powers, _ = arrays
    numbers, (views, first_view), (displacements, first_displacement), delta_A = chosen
    constants, scratch, n_terms = of_terms
    tables, tolerance, has_logarithms, factors = of_power
    delta_room, terms_room, inverse_norm, half_log_power = room
    k, few = numbers[i], views[first_view[i] : first_view[i + 1]]
    first, n_delta = first_displacement[i], first_displacement[i + 1] - first_displacement[i]
    delta = delta_room[:n_delta]
    for j in range(n_delta):
        delta[j, 0], delta[j, 1] = delta_A[displacements[first + j]]
    n_blocks = (n_delta + N_LANES - 1) // N_LANES
    terms = terms_room[: 2 * n_blocks * n_terms * N_LANES]
    fill_terms(images[k], ctf[k], inverse_norms[k], constants, delta, scratch, terms)
    scales = inverse_norm[: few.size], half_log_power[: few.size if has_logarithms else 0]
    _fill_scales((series[k], tables, few, tolerance * powers[k], factors), scales)
    return k, few, delta, n_blocks, terms, scales


@inline
@no_type_check
def _parts(terms):
    """Addresses of real and imaginary parts, the former before the latter."""
    return address(terms), address(terms) + _U(2 * terms.size)


@_compiled
@no_type_check
def _find_largest(arrays, chosen, of_terms, of_power, templates, room, out):
    """Find the largest correlations over angles.

    Parameters
    ----------
    arrays
        As columns of `ImageArrays`.
    chosen
        Numbers of images; numbers of views of all of these and where those of each begin, the same
        of displacements; δx and δy, Å, (n, 2).
    of_terms
        Constants and scratch of `ImageTerms`; number of terms.
    of_power
        Tables of `TurnedPower`; tolerance relative to the power of CTFs; whether ½ log I_xx is
        needed; room for factors.
    templates
        `TemplateViews.compiled`, and the number of frequencies.
    room
        For displacements, terms, and scales of views, of any image; address of more.
    out
        One-dimensional: gets (n_views, n_displacements) of each image in turn.
    """
    template, first_term, plan, n_frequencies = templates
    n_found = 0
    for i in range(chosen[0].size):
        _, views, delta, n_blocks, terms, scales = _prepare(
            i, arrays, chosen, of_terms, of_power, room[:4]
        )
        n = views.size * delta.shape[0]
        find_largest(
            _parts(terms),
            template,
            address(views),
            address(scales[0]),
            (_U(views.size), _U(n_blocks), first_term, n_frequencies),
            plan,
            room[4],
            out[n_found : n_found + n].reshape((views.size, delta.shape[0])),
        )
        n_found += n


@_inner
@no_type_check
def fill_bounds(real, imaginary, first_term, strength, n_angles, bounds):
    """Bound what each angular frequency adds to a product of any view with terms of ones.

    Parameters
    ----------
    real, imaginary
        Of ones, (n_blocks, n_low_terms, `N_LANES`).
    first_term
        Where the terms of each frequency begin.
    strength
        Largest norm that any view's terms of a frequency have.
    n_angles
        In-plane angles.
    bounds
        As `strength`: gets the result.
    """
    power = np.empty(N_LANES, np.float32)
    for q in range(strength.size):
        largest = np.float32(0)
        for block in range(real.shape[0]):
            power[:] = 0
            for t in range(first_term[q], min(first_term[q + 1], real.shape[1])):
                for lane in range(N_LANES):
                    power[lane] += real[block, t, lane] ** 2 + imaginary[block, t, lane] ** 2
            largest = max(largest, power.max())
        bounds[q] = 2 / n_angles * strength[q] * np.sqrt(largest)


@inline
@no_type_check
def limits_of_sums(bound, least_half_log, n_poses):
    """Bound |u|, and find how far below the largest log L poses are left out of sums, nats.

    Parameters
    ----------
    bound
        Of |u| times the norm of templates.
    least_half_log
        Smallest ½ log I_xx.
    n_poses
        How many there are.
    """
    bound_of_u = bound * math.exp(-least_half_log)
    if bound_of_u < _LARGEST_BOUND:
        return bound_of_u, math.log(n_poses) + _NEGLIGIBLE_NATS
    return _LARGEST_BOUND, math.inf


@partial(_compiled, fastmath={"contract", "nsz"})  # there are infinite numbers
@no_type_check
def _score(arrays, chosen, of_terms, of_power, templates, room, of_ones, law, room_of_ones, out):
    """Compare images with views in all poses.

    Parameters
    ----------
    arrays, chosen, of_terms, of_power, templates, room
        As in `_find_largest`; `room` with the rest of that of `score_image` besides.
    of_ones
        Polar image of ones; 1/√I_ss; `of_terms` and numbers of frequencies, of all and of low ones;
        where terms begin; largest norms of views.
    law
        Logarithm of the prior of each displacement; p; number of poses of a displacement.
    room_of_ones
        For terms, priors, lanes and bounds.
    out
        Arrays of best correlations, displacements, angles, logarithms of sums, all views of an
        image before those of the next.
    """
    template, first_term, plan, n_frequencies = templates
    ones, unit, in_full, in_low, first, strength = of_ones
    log_prior, exponent, n_poses = law
    terms_room, prior_room, lanes, bounds = room_of_ones
    displacements, first_displacement = chosen[2]
    reference, per_angle, n_found = np.empty(1), np.float32(1) / np.float32(plan[0][0]), 0
    for i in range(chosen[0].size):
        k, views, delta, n_blocks, terms, scales = _prepare(
            i, arrays, chosen, of_terms, of_power, room[:4]
        )
        inverse_norm, half_log_power = scales
        mean, n_views, n_delta = arrays[5][k], views.size, delta.shape[0]
        (constants, scratch, n_terms), n_low = in_full if abs(mean) > LARGEST_MEAN else in_low
        size = n_blocks * n_terms * N_LANES
        terms_of_ones = terms_room[: 2 * size]
        fill_terms(ones, arrays[1][k], unit, constants, delta, scratch, terms_of_ones)
        parts = terms_of_ones.reshape((2, n_blocks, n_terms, N_LANES))
        fill_bounds(parts[0], parts[1], first, strength, plan[0][0], bounds)
        bound, cutoff = limits_of_sums(
            bounds.sum(), half_log_power.min(), n_poses * n_blocks * N_LANES
        )
        for view in range(n_views):
            for j in range(inverse_norm.shape[1]):
                inverse_norm[view, j] *= per_angle
        prior = prior_room[: n_blocks * N_LANES]
        prior[:], reference[0] = -np.inf, -np.inf
        for j in range(n_delta):
            prior[j] = log_prior[displacements[first_displacement[i] + j]]
        end = n_found + n_views
        x, displacement, angle, log_sum = out
        score_image(
            _parts(terms),
            (*_parts(terms_of_ones), n_low),
            prior,
            template,
            address(views),
            (address(inverse_norm), address(inverse_norm), half_log_power),
            (exponent, mean, bound, cutoff),
            reference,
            (first_term, n_frequencies),
            plan,
            (room[4], lanes[:, : prior.size], room[5][:n_views]),
            (
                x[n_found:end],
                displacement[n_found:end],
                angle[n_found:end],
                log_sum[n_found:end],
            ),
        )
        n_found = end


def _ragged(rows: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put rows of different lengths one after another, and say where each begins."""
    lengths = [len(row) for row in rows]
    if not all(lengths):
        raise UsageError("there must be something to compare each image with.")
    return np.concatenate(rows, dtype=np.int64), np.array([0, *accumulate(lengths)])


def _check(numbers: NDArray[np.int64], name: str, n: int) -> None:
    """Refuse what compiled code would read beyond the end of."""
    if numbers.min() < 0 or numbers.max() >= n:
        msg = f"{name} are numbered 0 to {n - 1}, not {numbers.min()} to {numbers.max()}."
        raise UsageError(msg)


class FewPoses:
    """Compares images with few poses each; several threads may share one.

    Parameters
    ----------
    views
        Terms of the templates.
    power
        Of the templates.
    terms, low_terms
        Of images, and of an image of ones, of which few angular frequencies count.
    strength
        Largest norm that the terms of an angular frequency have in any view.
    grid
        What images and templates are compared on.
    """

    def __init__(
        self,
        views: TemplateViews,
        power: TurnedPower,
        terms: ImageTerms,
        low_terms: ImageTerms,
        strength: np.ndarray,
        grid: ComparedGrid,
    ) -> None:
        self._views, self._power, self._strength, self._grid = views, power, strength, grid
        self._terms, self._low_terms = terms, low_terms
        self._ones = np.ascontiguousarray(grid.ones.numpy().astype(np.complex64)).view(np.float32)
        # Threads that made these at the same time would keep addresses of each other's
        _ = views.compiled
        self._of_thread = threading.local()

    def largest_correlations(
        self, arrays: ImageArrays, chosen: ChosenPoses, delta_A: np.ndarray, tolerance: float
    ) -> list[np.ndarray]:
        """Find the largest correlations over angles.

        Parameters
        ----------
        arrays, chosen
            Images, and what to compare them with.
        delta_A
            Displacements, (n, 2).
        tolerance
            Share of I_xx that may be left out.

        Returns
        -------
        list of ndarray
            (n_views, n_displacements) of each image.
        """
        common = self._common(arrays, chosen, delta_A, tolerance, has_logarithms=False)
        shapes = [(len(a), len(b)) for a, b in zip(chosen.views, chosen.displacements, strict=True)]
        ends = list(accumulate(n_views * n_delta for n_views, n_delta in shapes))
        out = np.empty(ends[-1], np.float32)
        _find_largest(*common, out)
        return [
            out[end - math.prod(shape) : end].reshape(shape)
            for end, shape in zip(ends, shapes, strict=True)
        ]

    def score(
        self,
        arrays: ImageArrays,
        chosen: ChosenPoses,
        delta_A: np.ndarray,
        log_prior: np.ndarray,
        tolerance: float,
    ) -> list[BestOfViews]:
        """Compare images with views in all poses.

        Parameters
        ----------
        arrays, chosen, delta_A, tolerance
            As for `largest_correlations`.
        log_prior
            Of the displacements, (n,).

        Returns
        -------
        list of BestOfViews
            Of each image, in the order of its views and displacements.
        """
        if len(log_prior) != len(delta_A):
            msg = f"there are {len(delta_A)} displacements, but priors of {len(log_prior)}."
            raise UsageError(msg)
        n_lanes = N_LANES * max(-(-len(row) // N_LANES) for row in chosen.displacements)
        common = self._common(arrays, chosen, delta_A, tolerance, has_logarithms=True)
        plan, first_term = self._views.plan, self._views.first_term
        of_all, n_all = self._of_terms(self._terms), np.uint64(len(first_term) - 1)
        of_low = self._of_terms(self._low_terms)
        n_low = np.uint64(np.searchsorted(first_term, self._low_terms.n_terms))
        ends = list(accumulate(map(len, chosen.views)))
        best = empty_best(ends[-1])
        columns = (
            *(best.cross_correlation, best.displacement),
            *(best.inplane, best.log_likelihood_integrated),
        )
        _score(
            *common,
            (
                *(self._ones, np.float32(1 / math.sqrt(self._grid.i_ss))),
                *((of_all, n_all), (of_low, n_low), first_term, self._strength),
            ),
            (
                as_compiled(log_prior, np.float64),
                float(self._grid.n_compared / 2 - 2),
                len(self._views.real) * plan.n,
            ),
            (
                self._room("terms of ones", 2 * self._terms.n_terms * n_lanes),
                np.empty(n_lanes),
                np.empty((2, n_lanes), np.float32),
                np.empty(len(self._strength)),
            ),
            columns,
        )
        rows = [slice(end - len(of), end) for end, of in zip(ends, chosen.views, strict=True)]
        return [
            BestOfViews(**{name: column[few] for name, column in vars(best).items()})
            for few in rows
        ]

    def _common(
        self,
        arrays: ImageArrays,
        chosen: ChosenPoses,
        delta_A: np.ndarray,
        tolerance: float,
        *,
        has_logarithms: bool,
    ) -> tuple[Any, ...]:
        """Make what both compiled functions take."""
        views, displacements = _ragged(chosen.views), _ragged(chosen.displacements)
        _check(chosen.images, "images", len(arrays.images))
        _check(views[0], "views", len(self._views.real))
        _check(displacements[0], "displacements", len(delta_A))
        n_views = max(len(row) for row in chosen.views)
        n_delta = max(len(row) for row in chosen.displacements)
        tables, plan = self._power.tables, self._views.plan
        template, first_term, plans = self._views.compiled
        n_numbers = 2 * -(-n_delta // N_LANES) * self._terms.n_terms * N_LANES
        return (
            (
                *(arrays.images, arrays.ctf, arrays.ctf_series, arrays.inverse_norm),
                *(arrays.power, arrays.mean),
            ),
            (
                as_compiled(chosen.images, np.int64),
                views,
                displacements,
                as_compiled(delta_A, np.float64),
            ),
            self._of_terms(self._terms),
            (
                *(tables, tolerance, has_logarithms),
                self._room("factors", 2, *tables[0].shape[1:]),
            ),
            (template, first_term, plans, np.uint64(plan.n // 2 + 1)),
            (
                np.empty((n_delta, 2)),
                self._room("terms", n_numbers),
                self._room("inverse norm", n_views, plan.n),
                self._room("half log power", n_views if has_logarithms else 0, plan.n),
                *addresses(self._room("spectra", N_SPECTRA * plan.n_rows * N_LANES)),
                np.empty(n_views, np.float32),
            ),
        )

    @staticmethod
    def _of_terms(terms: ImageTerms) -> tuple[Any, ...]:
        return terms.constants, terms.scratch(), terms.n_terms

    def _room(self, name: str, *shape: int) -> np.ndarray:
        """Memory of the thread: new memory could cost as much as the work."""
        held: dict[str, np.ndarray] = vars(self._of_thread)
        size = math.prod(shape)
        if name not in held or held[name].size < size:
            held[name] = aligned(size)
        return held[name][:size].reshape(shape)
