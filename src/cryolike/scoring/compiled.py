"""Comparison of one image, at sixteen displacements at a time, with many views, compiled.

The image's terms lie so that sixteen displacements fill a vector; those of a view are numbers that
all lanes are multiplied by. For each displacement and view, products of terms are summed at each
angular frequency, transformed to all in-plane angles, and reduced at once to what is asked for.
Single precision throughout, but for sums over what has been reduced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray

from cryolike.errors import UsageError
from cryolike.physics.compiled import _compiled
from cryolike.scoring.lanes import RealLanePlan, aligned_zeros, lane_irfft
from cryolike.scoring.vectors import (
    HAS_WIDE_REGISTERS,
    N_LANES,
    absolute,
    any_greater,
    inline,
    larger,
    load,
    power_of_two,
    smaller,
    split_exponent,
    spread,
    store,
    sums_of_products,
)

__all__ = [
    "BestOfViews",
    "DisplacedImage",
    "Integration",
    "TemplateViews",
    "ViewScales",
    "score_views",
]

_U = np.uint64
_F = np.float32

_VIEWS_AT_ONCE = 4 if HAS_WIDE_REGISTERS else 2
_BLOCKS_AT_ONCE = 2 if HAS_WIDE_REGISTERS else 1
"""Views, and blocks of `N_LANES` displacements, whose products are summed in registers."""

_VIEWS_PER_BLOCK = 32
"""Views that are compared with all displacements before the next ones: what the cache holds."""

_SMALLEST = 1e-30
"""Share of the image's power that is left unexplained at least."""

_LARGEST_MEAN = 0.1
"""Up to here, short series in u are exact to single precision."""

_LOG = tuple(
    _F(c)
    for c in (
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )
)
"""log(1 + f) = f − f²/2 + f³ · polynomial, f in [√½ − 1, √2 − 1]; Cephes' coefficients."""

_EXP = tuple(
    _F(c)
    for c in (
        *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
        *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
    )
)
"""exp(r) = 1 + r + r² · polynomial, |r| ≤ log(2)/2; Cephes' coefficients."""

_LOG_2 = (_F(0.693359375), _F(-2.12194440e-4))
"""In two parts, of which the first has few digits."""


@inline
@no_type_check
def _log_of_1_plus(x):
    """log(1 + x) of each lane, x between 0 and 1e37 or a little less than 0; 1e-7 of its value."""
    scale, exponent = split_exponent(spread(_F(1)) + x)
    f = x * scale + (scale - spread(_F(1)))
    value = spread(_LOG[0])
    for c in _LOG[1:]:
        value = value * f + spread(c)
    square = f * f
    value = (value * f) * square + exponent * spread(_LOG_2[1])
    value = value - spread(_F(0.5)) * square
    return (value + f) + exponent * spread(_LOG_2[0])


@inline
@no_type_check
def _exp(x):
    """exp(x) of each lane, x ≤ 80; 1e-38 where it would be less."""
    x = larger(x, spread(_F(-87)))
    power, n = power_of_two(x * spread(_F(1 / math.log(2))))
    r = x - n * spread(_LOG_2[0])
    r = r - n * spread(_LOG_2[1])
    value = spread(_EXP[0])
    for c in _EXP[1:]:
        value = value * r + spread(c)
    return (value * (r * r) + r + spread(_F(1))) * power


def _multiplier(n_blocks: int, n_views: int) -> Any:
    """Make the function that sums products of terms at each angular frequency."""
    zeros, add, keep = sums_of_products(n_blocks, n_views)

    @inline
    @no_type_check
    def multiply(image, rows, template, starts, first_term, n_frequencies, spectra, n_rows):
        """Sum image · conj(template) over the terms of each of the first angular frequencies.

        Parameters
        ----------
        image, template
            Arrays of the real and of the imaginary parts.
        rows, starts
            Where the terms of each block and of each view begin: rows, and numbers.
        first_term
            (n_frequencies + 1,) or more.
        spectra
            Gets the sums, n_rows rows for each view and, after them, those of the next block.
        """
        for q in range(n_frequencies):
            sums = zeros()
            for t in range(_U(first_term[q]), _U(first_term[q + _U(1)])):
                sums = add(sums, image, rows, template, starts, t)
            keep(sums, spectra, _U(2) * q, n_rows)

    return multiply


_multiply_tile = _multiplier(_BLOCKS_AT_ONCE, _VIEWS_AT_ONCE)
_multiply_row = _multiplier(1, _VIEWS_AT_ONCE)
_multiply_one = _multiplier(1, 1)


@inline
@no_type_check
def _find_peaks(x, scale, peaks):
    """Find the largest and the smallest correlation of each lane.

    Parameters
    ----------
    x
        Rows of `N_LANES` for each angle.
    scale
        (n_angles,): what an angle's row is multiplied by.
    peaks
        Two rows: the largest, the smallest.
    """
    # Two of each, since one would be waited for
    even = least_even = load(x, _U(0)) * spread(scale[_U(0)])
    odd = least_odd = even
    n_angles = _U(scale.size)
    for j in range(_U(1), n_angles - _U(1), _U(2)):
        value = load(x, j) * spread(scale[j])
        odd, least_odd = larger(value, odd), smaller(value, least_odd)
        value = load(x, j + _U(1)) * spread(scale[j + _U(1)])
        even, least_even = larger(value, even), smaller(value, least_even)
    value = load(x, n_angles - _U(1)) * spread(scale[n_angles - _U(1)])
    odd, least_odd = larger(value, odd), smaller(value, least_odd)
    store(peaks, _U(0), larger(odd, even))
    store(peaks, _U(1), smaller(least_odd, least_even))


@inline
@no_type_check
def _beside_offset(x, mean, scale, mean_scale, v, use_series):
    """Replace the unscaled x by |x − u·v|/√(1 − u²), and the unscaled u by −½ log(1 − u²).

    Returns
    -------
    float32 vector
        The largest of the former over the angles.
    """
    top, one, v = spread(_F(0)), spread(_F(1)), spread(v)
    for j in range(_U(scale.size)):
        u = load(mean, j) * spread(mean_scale[j])
        y = u * u
        residual = absolute(load(x, j) * spread(scale[j]) - u * v)
        if use_series:
            # 1/√(1 − y) and −½ log(1 − y)
            root = spread(_F(5 / 16)) + y * spread(_F(35 / 128))
            root = one + y * (spread(_F(0.5)) + y * (spread(_F(0.375)) + y * root))
            log = spread(_F(0.25)) + y * (spread(_F(1 / 6)) + y * spread(_F(0.125)))
            log = y * (spread(_F(0.5)) + y * log)
        else:
            y = larger(one - y, spread(_F(1e-12)))
            log = spread(_F(-0.5)) * _log_of_1_plus(y - one)
            root = _exp(log)
        residual = residual * root
        store(x, j, residual)
        store(mean, j, log)
        top = larger(residual, top)
    return top


@inline
@no_type_check
def _absolute_values(x, scale):
    """Replace the unscaled x by |x|; the largest over the angles."""
    top = spread(_F(0))
    for j in range(_U(scale.size)):
        value = absolute(load(x, j) * spread(scale[j]))
        store(x, j, value)
        top = larger(value, top)
    return top


@inline
@no_type_check
def _sum_likelihoods(w, mean, has_mean, half_log_power, relative, sums):
    """Sum likelihoods over the angles relative to that of the largest correlation, in each lane.

    Parameters
    ----------
    w, mean, has_mean
        From `_beside_offset`, or from `_absolute_values` without a mean.
    half_log_power
        ½ log I_xx of each angle.
    relative
        Largest w; 1/(what is unexplained there); −p; smallest ½ log I_xx; smallest w that counts.
    sums
        Two rows: get the sum, and the largest logarithm.
    """
    total, most = spread(_F(0)), spread(_F(-1e30))
    highest, inverse, minus_p = spread(relative[0]), spread(relative[1]), spread(relative[2])
    least_log, least = relative[3], spread(relative[4])
    for j in range(_U(half_log_power.size)):
        value = load(w, j)
        if any_greater(value, least):
            z = (highest - value) * (highest + value) * inverse
            log = minus_p * _log_of_1_plus(larger(z, spread(_F(0))))
            log = log - spread(half_log_power[j] - least_log)
            if has_mean:
                log = log + load(mean, j)
            most = larger(log, most)
            total = total + _exp(log)
    store(sums, _U(0), total)
    store(sums, _U(1), most)


@inline
@no_type_check
def _add_logarithms(a, b):
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > -math.inf else a


@inline
@no_type_check
def _least_correlation(law, reference, least_log):
    """Find the |x − u·v|/√(1 − u²) below which log L is more than `cutoff` below `reference`."""
    p, v, mean_bound, cutoff, _ = law
    most = cutoff - reference - least_log - 0.5 * math.log1p(-mean_bound * mean_bound)
    square = 1 - v * v - math.exp(min(most / p, 1.0))
    return math.sqrt(square) if square > 0 else -1.0


@inline
@no_type_check
def _reaches(most, law, least):
    """Whether |x − u·v|/√(1 − u²) may reach a value where |x| is at most `most`."""
    bound = law[2]
    return most + bound * abs(law[1]) >= least * math.sqrt(1 - bound * bound)


@inline
@no_type_check
def _stands(log_prior, block, lane):
    """Whether a lane stands for a displacement."""
    return log_prior[block * _U(N_LANES) + lane] > -math.inf


@inline
@no_type_check
def _best_lane(peaks, log_prior, block):
    """Find the best lane: its value and number, and the largest absolute value of any."""
    value, lane, most = -_F(np.inf), _U(0), _F(0)
    for i in range(_U(N_LANES)):
        if _stands(log_prior, block, i):
            most = max(most, abs(peaks[i]), abs(peaks[_U(N_LANES) + i]))
            if peaks[i] > value:
                value, lane = peaks[i], i
    return value, lane, most


@inline
@no_type_check
def _angle_of(x, scale, lane, value):
    """Find the first angle where a lane has a value."""
    for j in range(_U(scale.size)):
        if x[j * _U(N_LANES) + lane] * scale[j] >= value:
            return j
    return _U(0)


@inline
@no_type_check
def _largest(values, log_prior, block):
    """Largest positive of the lanes that stand for displacements."""
    found = 0.0
    for i in range(_U(N_LANES)):
        if _stands(log_prior, block, i):
            found = max(found, np.float64(values[i]))
    return found


@inline
@no_type_check
def _sum_lanes(sums, log_prior, block):
    """Sum over lanes with their priors; the largest logarithm of a term without prior."""
    total, most = 0.0, -1e30
    for i in range(_U(N_LANES)):
        if _stands(log_prior, block, i):
            total += math.exp(log_prior[block * _U(N_LANES) + i]) * np.float64(sums[i])
            most = max(most, np.float64(sums[_U(N_LANES) + i]))
    return total, most


@inline
@no_type_check
def _keep_more(x, scale, peaks, log_prior, block, view, of_displacements, of_angles, everything):
    """Keep what else was asked for; the arrays of the rest have no elements."""
    for i in range(_U(N_LANES)):
        if _stands(log_prior, block, i):
            if of_displacements.size > 0:
                of_displacements[view, block * _U(N_LANES) + i] = peaks[i]
            for j in range(_U(of_angles.size)):
                of_angles[j] = max(of_angles[j], x[j * _U(N_LANES) + i] * scale[j])
            if everything.size > 0:
                line = everything[view, block * _U(N_LANES) + i]
                for j in range(_U(line.size)):
                    line[j] = x[j * _U(N_LANES) + i] * scale[j]


@inline
@no_type_check
def _correlations_with_ones(spectrum, mean, spare, ones, template, start, block, plan):
    """Compute the unscaled correlations u of a view with an image of ones."""
    first_term, n_low, n, real_roots, factors, twiddles, roots = plan
    terms, n_frequencies = (ones[0], ones[1]), n // _U(2) + _U(1)
    rows = (block * _U(first_term[n_low]),)
    _multiply_one(terms, rows, template, (start,), first_term, n_low, spectrum, _U(0))
    zero = spread(_F(0))
    for row in range(_U(2) * n_low, _U(2) * n_frequencies):
        store(spectrum, row, zero)
    lane_irfft(spectrum, mean, spare, n, real_roots, factors, twiddles, roots)


@inline
@no_type_check
def _integrate(arrays, ones, template, start, block, view, scales, law, least, plan):
    """Sum the likelihoods of a view over angles and a block of displacements.

    Parameters
    ----------
    arrays
        Unscaled correlations, overwritten; three arrays to work in; two rows.
    ones
        Terms of the image of ones, and logarithms of priors.
    template, start
        Terms of views, and where those of this one begin.
    block, view
        Numbers of the block, and of the view in `scales`.
    scales, law, plan
        As in `_score`.
    least
        Smallest correlation that counts.

    Returns
    -------
    tuple
        Logarithms of the sum and of the largest term.
    """
    spectrum, x, spare, mean, sums = arrays
    scale, mean_scale, half_log_power, least_logs = scales
    p, v, mean_bound = law[0], law[1], law[2]
    log_prior, least_log, has_mean = ones[2], least_logs[view], plan[1] > _U(0)
    if has_mean:
        _correlations_with_ones(spectrum, mean, spare, ones, template, start, block, plan)
        use_series = mean_bound <= _LARGEST_MEAN
        top = _beside_offset(x, mean, scale[view], mean_scale[view], _F(v), use_series)
    else:
        top = _absolute_values(x, scale[view])
    store(sums, _U(0), top)
    highest = _largest(sums, log_prior, block)
    rest = max(1 - v * v - highest * highest, _SMALLEST)
    relative = (_F(highest), _F(1 / rest), _F(-p), _F(least_log), _F(least))
    _sum_likelihoods(x, mean, has_mean, half_log_power[view], relative, sums)
    total, most = _sum_lanes(sums, log_prior, block)
    base = -p * math.log(rest) - least_log
    total = total / np.float64(plan[2])
    return base + math.log(total) if total > 0 else -math.inf, base + most


@inline
@no_type_check
def _reduce(arrays, ones, template, start, block, view, scales, law, reference, plan, out):
    """Transform the products of a view and a block, and update results; arguments of `_score`."""
    spectrum, x, spare, _, peaks = arrays
    _, _, n, real_roots, factors, twiddles, roots = plan
    best, displacement, angle, log_sum, of_displacements, of_angles, everything = out
    log_prior, scale = ones[2], scales[0][view]
    lane_irfft(spectrum, x, spare, n, real_roots, factors, twiddles, roots)
    _find_peaks(x, scale, peaks)
    value, lane, most = _best_lane(peaks, log_prior, block)
    if value > best[view]:
        best[view] = value
        displacement[view] = block * _U(N_LANES) + lane
        angle[view] = _angle_of(x, scale, lane, value)
    if of_displacements.size + of_angles.size + everything.size > 0:
        _keep_more(
            x, scale, peaks, log_prior, block, view, of_displacements, of_angles, everything
        )
    if law[4]:
        least = _least_correlation(law, reference[0], scales[3][view])
        if _reaches(most, law, least):
            total, highest = _integrate(
                arrays, ones, template, start, block, view, scales, law, least, plan
            )
            log_sum[view] = _add_logarithms(log_sum[view], total)
            reference[0] = max(reference[0], highest)


@inline
@no_type_check
def _starts(views, tile, end, n_terms):
    """Where the terms of a tile's views begin; the last view again where there are no more."""
    last = end - _U(1)
    return (
        _U(views[tile]) * n_terms,
        _U(views[min(tile + _U(1), last)]) * n_terms,
        _U(views[min(tile + _U(2), last)]) * n_terms,
        _U(views[min(tile + _U(3), last)]) * n_terms,
    )


@_compiled
@no_type_check
def _score(image, ones, template, views, scales, law, reference, plan, n_rows, work, out):
    """Compare an image with views.

    Parameters
    ----------
    image
        Terms, real and imaginary, in rows of `N_LANES`.
    ones
        The same of an image of ones, and logarithms of priors.
    template
        Terms of all views, real and imaginary, one view after the other.
    views
        Which of them.
    scales
        What x and u are multiplied by, ½ log I_xx, and the smallest of the latter of each view.
    law, reference
        p, v, bound of u, cutoff, whether to integrate; largest log-likelihood so far, (1,).
    plan
        Where terms of an angular frequency begin, frequencies that `ones` has, number of angles,
        and the arrays that `lane_irfft` takes.
    n_rows, work
        Rows of a spectrum; room for four, and for one more of each product of a tile.
    out
        Best correlation, displacement, angle, log of the sum, all of (n_views,), and what was asked
        for besides: (n_views, n_lanes), (n_angles,), (n_views, n_lanes, n_angles), or of size 0.
    """
    first_term, size = plan[0], n_rows * _U(N_LANES)
    n_frequencies, n_terms = _U(first_term.size - 1), _U(first_term[first_term.size - 1])
    n_blocks, n_views = _U(ones[2].size // N_LANES), _U(views.size)
    spectra = work[_U(4) * size :]
    x, spare, mean = work[:size], work[size : _U(2) * size], work[_U(2) * size : _U(3) * size]
    peaks = work[_U(3) * size : _U(4) * size]
    step = _U(_VIEWS_AT_ONCE)
    for first in range(_U(0), n_views, _U(_VIEWS_PER_BLOCK)):
        end = min(n_views, first + _U(_VIEWS_PER_BLOCK))
        for block in range(_U(0), n_blocks, _U(_BLOCKS_AT_ONCE)):
            for tile in range(first, end, step):
                starts = _starts(views, tile, end, n_terms)
                row = block * n_terms
                if block + _U(_BLOCKS_AT_ONCE) <= n_blocks:
                    n_here, rows = _U(_BLOCKS_AT_ONCE), (row, row + n_terms)
                    _multiply_tile(
                        image, rows, template, starts, first_term, n_frequencies, spectra, n_rows
                    )
                else:
                    n_here = _U(1)
                    _multiply_row(
                        image, (row,), template, starts, first_term, n_frequencies, spectra, n_rows
                    )
                for i in range(n_here):
                    for view in range(tile, min(tile + step, end)):
                        at = (i * step + view - tile) * size
                        arrays = (spectra[at : at + size], x, spare, mean, peaks)
                        start = _U(views[view]) * n_terms
                        _reduce(
                            arrays,
                            ones,
                            template,
                            start,
                            block + i,
                            view,
                            scales,
                            law,
                            reference,
                            plan,
                            out,
                        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateViews:
    """Terms of all views.

    Attributes
    ----------
    real, imaginary
        (n_all_views, n_terms).
    first_term
        (n_angles // 2 + 1 + 1,): the terms of angular frequency q are first_term[q] to
        first_term[q + 1].
    plan
        Of the number of in-plane angles.
    """

    real: NDArray[np.float32]
    imaginary: NDArray[np.float32]
    first_term: NDArray[np.int64]
    plan: RealLanePlan


@dataclass(frozen=True, kw_only=True, eq=False)
class DisplacedImage:
    """Terms of an image, multiplied by its CTF and moved back by each displacement.

    Attributes
    ----------
    real, imaginary
        (n_blocks, n_terms, `N_LANES`), scaled such that correlations are those of an image of unit
        norm; best from `aligned_zeros`.
    log_prior
        (n_blocks · `N_LANES`,): −∞ in lanes that stand for no displacement, whose terms are zero.
    ones_real, ones_imaginary
        (n_blocks, n_low_terms, `N_LANES`): the same of an image of ones, for its lowest angular
        frequencies; the others are zero.
    mean
        Correlation v of the image with that of ones.
    """

    real: NDArray[np.float32]
    imaginary: NDArray[np.float32]
    log_prior: NDArray[np.float64]
    ones_real: NDArray[np.float32]
    ones_imaginary: NDArray[np.float32]
    mean: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewScales:
    """What depends on the power of templates under the CTF of an image, for each angle.

    Attributes
    ----------
    inverse_norm
        (n_views, n_angles): what a product of terms is multiplied by to become a correlation x.
    ones_scale
        The same for the correlation u with an image of ones.
    half_log_power
        ½ log I_xx.
    """

    inverse_norm: NDArray[np.float32]
    ones_scale: NDArray[np.float32]
    half_log_power: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Integration:
    """How likelihoods are summed.

    Attributes
    ----------
    exponent
        p = N/2 − 2, N the number of values compared.
    ones_bound
        Largest |u| that can occur, below 1.
    cutoff
        Poses whose log-likelihood is so many nats below the largest so far may be left out.
    """

    exponent: float
    ones_bound: float
    cutoff: float


@dataclass(frozen=True, kw_only=True, eq=False)
class BestOfViews:
    """What `score_views` finds.

    Attributes
    ----------
    cross_correlation, displacement, inplane
        (n_views,): the largest over displacements and angles, and where it is; the first where
        there are several.
    log_sum
        (n_views,) nats: log Σ prior · L over displacements, mean over angles, but for what all poses
        of the image have in common; −∞ where everything was left out.
    of_displacements
        (n_views, n_lanes): largest over the angles.
    of_angles
        (n_angles,): largest over views and displacements.
    everything
        (n_views, n_lanes, n_angles).
    """

    cross_correlation: NDArray[np.float32]
    displacement: NDArray[np.int32]
    inplane: NDArray[np.int32]
    log_sum: NDArray[np.float64]
    of_displacements: NDArray[np.float32]
    of_angles: NDArray[np.float32]
    everything: NDArray[np.float32]


_BESIDES = ("of_displacements", "of_angles", "everything")


def score_views(
    image: DisplacedImage,
    templates: TemplateViews,
    views: NDArray[np.int64],
    scales: ViewScales,
    integration: Integration | None = None,
    reference: NDArray[np.float64] | None = None,
    also: tuple[str, ...] = (),
) -> BestOfViews:
    """Compare an image with views at all displacements and in-plane angles.

    With x, u and v as in `likelihood.log_likelihood_of_pose`, whose logarithm is summed here; the
    sums' errors are about 1e-6 of log L's differences, besides those of x (3e-7 of the largest).
    Runs in the thread that calls it, without Python's lock.

    Parameters
    ----------
    image
        At the displacements.
    templates
        All views.
    views
        (n_views,): numbers of those to compare with.
    scales
        Of the views, in the same order.
    integration
        Without it, likelihoods are not summed.
    reference
        (1,): the largest log-likelihood so far of a pose of this image, −∞ at first; raised to what
        is found. Threads that score the same image can share it.
    also
        Which of `BestOfViews`'s of_displacements, of_angles, everything to fill in; the others are
        empty.

    Returns
    -------
    BestOfViews
        In the order of `views`.

    Raises
    ------
    UsageError
        Where there is no such view, or no such result.
    """
    n_all, n_lanes, n_angles = len(templates.real), image.log_prior.size, templates.plan.n
    if views.size and not (views.min() >= 0 and views.max() < n_all):
        msg = f"views are numbered 0 to {n_all - 1}, not {views.min()} to {views.max()}."
        raise UsageError(msg)
    if unknown := set(also) - set(_BESIDES):
        msg = f"no such result: {', '.join(sorted(unknown))}. There are {', '.join(_BESIDES)}."
        raise UsageError(msg)
    shapes = {
        "of_displacements": (len(views), n_lanes),
        "of_angles": (n_angles,),
        "everything": (len(views), n_lanes, n_angles),
    }
    besides = {
        name: np.full(shape if name in also else (0,) * len(shape), -np.inf, np.float32)
        for name, shape in shapes.items()
    }
    found = BestOfViews(
        cross_correlation=np.full(len(views), -np.inf, np.float32),
        displacement=np.zeros(len(views), np.int32),
        inplane=np.zeros(len(views), np.int32),
        log_sum=np.full(len(views), -np.inf),
        **besides,
    )
    n_low = int(np.searchsorted(templates.first_term, image.ones_real.shape[1]))
    plan, law = templates.plan, (1.0, 0.0, 0.0, 0.0, False)
    if integration is not None:
        law = (
            float(integration.exponent),
            float(image.mean),
            float(integration.ones_bound) if n_low else 0.0,
            float(integration.cutoff),
            True,
        )
    _score(
        (image.real.ravel(), image.imaginary.ravel()),
        (image.ones_real.ravel(), image.ones_imaginary.ravel(), image.log_prior),
        (templates.real.ravel(), templates.imaginary.ravel()),
        views,
        (
            scales.inverse_norm / _F(plan.n),
            scales.ones_scale / _F(plan.n),
            scales.half_log_power,
            scales.half_log_power.min(axis=1),
        ),
        law,
        np.full(1, -np.inf) if reference is None else reference,
        (
            templates.first_term,
            np.uint64(n_low),
            np.uint64(plan.n),
            plan.roots,
            plan.complex_plan.factors,
            plan.complex_plan.twiddles,
            plan.complex_plan.roots,
        ),
        np.uint64(plan.n_rows),
        aligned_zeros((4 + _BLOCKS_AT_ONCE * _VIEWS_AT_ONCE) * plan.n_rows * N_LANES),
        (
            found.cross_correlation,
            found.displacement,
            found.inplane,
            found.log_sum,
            *(besides[name] for name in _BESIDES),
        ),
    )
    return found
