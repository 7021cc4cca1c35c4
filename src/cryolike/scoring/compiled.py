"""Comparison of one image, at sixteen displacements at a time, with many views, compiled.

The image's terms lie so that sixteen displacements fill a vector; those of a view are numbers that
all lanes are multiplied by. For each displacement and view, products of terms are summed at each
angular frequency, transformed to all in-plane angles, and reduced at once to what is asked for.
Single precision throughout, but for sums over what has been reduced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray

from cryolike.errors import UsageError
from cryolike.physics.compiled import _compiled
from cryolike.scoring.comparison import BestOfViews
from cryolike.scoring.lanes import RealLanePlan, addresses, aligned_zeros, lane_irfft
from cryolike.scoring.vectors import (
    HAS_WIDE_REGISTERS,
    N_LANES,
    absolute,
    address,
    any_greater,
    first_lane,
    inline,
    larger,
    largest_lane,
    load,
    number,
    power_of_two,
    smaller,
    split_exponent,
    spread,
    store,
    sum_of_lanes,
    sums_of_products,
    whole_number,
)

__all__ = [
    "DisplacedImage",
    "Integration",
    "TemplateViews",
    "ViewScales",
    "empty_best",
    "find_largest",
    "score_image",
    "score_views",
]

_U = np.uint64
_F = np.float32

_VIEWS_AT_ONCE = 6 if HAS_WIDE_REGISTERS else 2
_BLOCKS_AT_ONCE = 2 if HAS_WIDE_REGISTERS else 1
"""Views, and blocks of `N_LANES` displacements, whose products are summed in registers."""

N_SPECTRA = 3 + _BLOCKS_AT_ONCE * _VIEWS_AT_ONCE
"""Spectra that compiled functions need room for."""

_VIEWS_PER_GROUP = 36
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
            Addresses of the real and of the imaginary parts.
        rows, starts
            Where the terms of each block and of each view begin: rows, and numbers.
        first_term, n_frequencies
            Address of where the terms of a frequency begin, and how many frequencies to sum.
        spectra, n_rows
            Address that gets the sums, n_rows rows for each view and, after those, the next block.
        """
        for q in range(n_frequencies):
            sums = zeros()
            for t in range(whole_number(first_term, q), whole_number(first_term, q + _U(1))):
                sums = add(sums, image, rows, template, starts, t)
            keep(sums, spectra, _U(2) * q, n_rows)

    return multiply


_multiply_tile = _multiplier(_BLOCKS_AT_ONCE, _VIEWS_AT_ONCE)
_multiply_row = _multiplier(1, _VIEWS_AT_ONCE)


@inline
@no_type_check
def _find_peaks(x, scale, n_angles):
    """Find the largest and the smallest correlation of each lane.

    Parameters
    ----------
    x
        Address of the rows of all angles.
    scale, n_angles
        Address of what each row is multiplied by, and how many there are.

    Returns
    -------
    tuple
        Vectors of the largest and of the smallest.
    """
    # Two of each, since one would be waited for
    even = least_even = load(x, _U(0)) * spread(number(scale, _U(0)))
    odd, least_odd = even, least_even
    last = n_angles - _U(1)
    for j in range(_U(1), last, _U(2)):
        value = load(x, j) * spread(number(scale, j))
        odd, least_odd = larger(value, odd), smaller(value, least_odd)
        value = load(x, j + _U(1)) * spread(number(scale, j + _U(1)))
        even, least_even = larger(value, even), smaller(value, least_even)
    value = load(x, last) * spread(number(scale, last))
    odd, least_odd = larger(value, odd), smaller(value, least_odd)
    return larger(odd, even), smaller(least_odd, least_even)


@inline
@no_type_check
def _largest_of_angles(x, scale, n_angles):
    """Find the largest correlation of each lane; arguments as for `_find_peaks`."""
    even = odd = load(x, _U(0)) * spread(number(scale, _U(0)))
    last = n_angles - _U(1)
    for j in range(_U(1), last, _U(2)):
        odd = larger(load(x, j) * spread(number(scale, j)), odd)
        even = larger(load(x, j + _U(1)) * spread(number(scale, j + _U(1))), even)
    odd = larger(load(x, last) * spread(number(scale, last)), odd)
    return larger(odd, even)


@inline
@no_type_check
def _beside_offset(x, mean, scale, mean_scale, n_angles, v, use_series):
    """Replace the unscaled x by |x − u·v|/√(1 − u²), and the unscaled u by −½ log(1 − u²).

    Returns
    -------
    vector
        The largest of the former over the angles.
    """
    top, one, v = spread(_F(0)), spread(_F(1)), spread(v)
    for j in range(n_angles):
        u = load(mean, j) * spread(number(mean_scale, j))
        y = u * u
        residual = absolute(load(x, j) * spread(number(scale, j)) - u * v)
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
def _absolute_values(x, scale, n_angles):
    """Replace the unscaled x by |x|; the largest over the angles."""
    top = spread(_F(0))
    for j in range(n_angles):
        value = absolute(load(x, j) * spread(number(scale, j)))
        store(x, j, value)
        top = larger(value, top)
    return top


@inline
@no_type_check
def _sum_likelihoods(w, mean, has_mean, half_log_power, n_angles, relative):
    """Sum likelihoods over the angles relative to that of the largest correlation, in each lane.

    Parameters
    ----------
    w, mean, has_mean
        From `_beside_offset`, or from `_absolute_values` without a mean.
    half_log_power, n_angles
        Address of ½ log I_xx of each angle, and how many there are.
    relative
        Largest w; 1/(what is unexplained there); −p; smallest ½ log I_xx; smallest w that counts.

    Returns
    -------
    tuple
        Vectors of the sums, and of the largest logarithms.
    """
    total, most = spread(_F(0)), spread(_F(-1e30))
    highest, inverse, minus_p = spread(relative[0]), spread(relative[1]), spread(relative[2])
    least_log, least = relative[3], spread(relative[4])
    for j in range(n_angles):
        value = load(w, j)
        if any_greater(value, least):
            z = (highest - value) * (highest + value) * inverse
            log = minus_p * _log_of_1_plus(larger(z, spread(_F(0))))
            log = log - spread(number(half_log_power, j) - least_log)
            if has_mean:
                log = log + load(mean, j)
            most = larger(log, most)
            total = total + _exp(log)
    return total, most


@inline
@no_type_check
def _add_logarithms(a, b):
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > -math.inf else a


@inline
@no_type_check
def _least_correlation(law, least_log):
    """Find the |x − u·v|/√(1 − u²) below which log L is `cutoff` below the largest so far."""
    p, v, mean_bound, cutoff, reference = law
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
def _angle_of(x, scale, n_angles, lane, value):
    """Find the first angle where a lane has a value."""
    for j in range(n_angles):
        if number(x, j * _U(N_LANES) + lane) * number(scale, j) >= value:
            return j
    return _U(0)


@inline
@no_type_check
def _multiply_by_ones(ones, row, template, start, first_term, spectrum, n_rows):
    """Sum products of one view and a block of an image of ones; no others have frequencies."""
    re, im, n_low = ones
    zero = spread(_F(0))
    for q in range(n_low):
        # Four sums, since each waits for the term before
        a = b = c = d = zero
        for t in range(whole_number(first_term, q), whole_number(first_term, q + _U(1))):
            y_re, y_im = load(re, row + t), load(im, row + t)
            x_re = spread(number(template[0], start + t))
            x_im = spread(number(template[1], start + t))
            a, b = a + x_re * y_re, b + x_im * y_im
            c, d = c + x_re * y_im, d + x_im * y_re
        store(spectrum, _U(2) * q, a + b)
        store(spectrum, _U(2) * q + _U(1), c - d)
    for i in range(_U(2) * n_low, n_rows):
        store(spectrum, i, zero)


@inline
@no_type_check
def _integrate(x, mean, has_mean, scales, least_log, law, lanes, least, n_angles):
    """Sum the likelihoods of a view over angles and a block of displacements.

    Parameters
    ----------
    x, mean, has_mean
        Addresses of the unscaled x and, if there is one, the unscaled u; overwritten.
    scales, least_log
        Of this view, as in `_score`.
    law
        As in `_score`.
    lanes
        Vectors: 0, or −∞ in lanes that stand for no displacement, and priors.
    least
        Smallest correlation that counts.
    n_angles
        How many.

    Returns
    -------
    tuple
        Logarithms of the sum and of the largest term.
    """
    p, v, mean_bound = law[0], law[1], law[2]
    scale, mean_scale, half_log_power = scales
    penalty, prior = lanes
    if has_mean:
        use_series = mean_bound <= _LARGEST_MEAN
        top = _beside_offset(x, mean, scale, mean_scale, n_angles, _F(v), use_series)
    else:
        top = _absolute_values(x, scale, n_angles)
    highest = np.float64(largest_lane(top + penalty))
    rest = max(1 - v * v - highest * highest, _SMALLEST)
    relative = (_F(highest), _F(1 / rest), _F(-p), least_log, _F(least))
    total, most = _sum_likelihoods(x, mean, has_mean, half_log_power, n_angles, relative)
    base = -p * math.log(rest) - np.float64(least_log)
    mean_of_all = np.float64(sum_of_lanes(total * prior)) / np.float64(n_angles)
    highest_log = base + np.float64(largest_lane(most + penalty))
    return base + math.log(mean_of_all) if mean_of_all > 0 else -math.inf, highest_log


@inline
@no_type_check
def _find_best(spectrum, room, scale, penalty, so_far, transform):
    """Transform products of a view and a block to correlations, and find the largest.

    Parameters
    ----------
    spectrum, room
        Addresses of the products, which are overwritten, and of arrays as large, of which the first
        gets the correlations.
    scale
        Address of what those are multiplied by.
    penalty
        Vector: 0, or −∞ in lanes that stand for no displacement.
    so_far
        Best correlation of the view.
    transform
        What `lane_irfft` takes.

    Returns
    -------
    tuple
        The best correlation, and its lane and angle if it is better than the best so far; the
        largest absolute value.
    """
    lane_irfft(spectrum, room[0], room[1], transform)
    peaks, lows = _find_peaks(room[0], scale, transform[0])
    peaks = peaks + penalty
    value = largest_lane(peaks)
    lane = angle = _U(0)
    if value > so_far:
        lane = first_lane(peaks, spread(value))
        angle = _angle_of(room[0], scale, transform[0], lane, value)
    return value, lane, angle, max(value, largest_lane(penalty - lows))


@inline
@no_type_check
def _starts(views, tile, end, n_terms):
    """Where the terms of a tile's views begin; the last view again where there are no more."""
    last = end - _U(1)
    return (
        whole_number(views, tile) * n_terms,
        whole_number(views, min(tile + _U(1), last)) * n_terms,
        whole_number(views, min(tile + _U(2), last)) * n_terms,
        whole_number(views, min(tile + _U(3), last)) * n_terms,
        whole_number(views, min(tile + _U(4), last)) * n_terms,
        whole_number(views, min(tile + _U(5), last)) * n_terms,
    )


@inline
@no_type_check
def _multiply(image, block, n_blocks, template, starts, terms, spectra, n_rows):
    """Sum products of a tile's views and blocks, of the latter perhaps only one."""
    first_term, n_frequencies = terms
    n_terms = whole_number(first_term, n_frequencies)
    if n_blocks == _U(_BLOCKS_AT_ONCE):
        rows = (block * n_terms, (block + _U(1)) * n_terms)
        _multiply_tile(image, rows, template, starts, first_term, n_frequencies, spectra, n_rows)
    else:
        rows = (block * n_terms,)
        _multiply_row(image, rows, template, starts, first_term, n_frequencies, spectra, n_rows)


@inline
@no_type_check
def _likelihoods(most, spectrum, room, ones, lanes, template, start, place, scales, law, tables):
    """Sum likelihoods of a view and a block, unless all of them are far below the largest so far.

    Parameters
    ----------
    most
        The largest |x|.
    spectrum, room
        Addresses of arrays to work in; the first of `room` has the unscaled correlations.
    ones, template
        As in `_score`.
    lanes
        Vectors: 0, or −∞ in lanes that stand for no displacement, and priors.
    start, place
        Where the terms of the view begin; numbers of the block and of the view.
    scales
        As in `_score`.
    law
        As in `_score`, and the largest log-likelihood so far.
    tables
        Address of where the terms of an angular frequency begin, and `plan` as in `_score`.

    Returns
    -------
    tuple
        Logarithms of the sum and of the largest term.
    """
    first_term, (transform, n_rows) = tables
    n_angles, of_view = transform[0], place[1] * transform[0] * _U(4)
    least_log = number(scales[3], place[1])
    least = _least_correlation(law, np.float64(least_log))
    if not _reaches(most, law, least):
        return -math.inf, -math.inf
    has_mean = ones[2] > _U(0)
    if has_mean:
        row = place[0] * whole_number(first_term, ones[2])
        _multiply_by_ones(ones, row, template, start, first_term, spectrum, n_rows)
        lane_irfft(spectrum, room[2], room[1], transform)
    of_angles = (scales[0] + of_view, scales[1] + of_view, scales[2] + of_view)
    return _integrate(room[0], room[2], has_mean, of_angles, least_log, law, lanes, least, n_angles)


@inline
@no_type_check
def _score(image, ones, lanes, template, views, scales, law, reference, sizes, plan, work, out):
    """Compare an image with views. What is called an address is that of a contiguous array.

    Parameters
    ----------
    image
        Addresses of its terms, real and imaginary, in rows of `N_LANES`.
    ones
        The same of an image of ones, and the number of its angular frequencies.
    lanes
        Addresses of rows: 0, or −∞ in lanes that stand for no displacement, and priors.
    template
        Addresses of the terms of all views, real and imaginary, one view after the other.
    views
        Address of the numbers of the views.
    scales
        Addresses of what x and u are multiplied by, of ½ log I_xx, and of the smallest of the
        latter of each view.
    law, reference
        p, v, bound of u, cutoff; largest log-likelihood so far, (1,).
    sizes
        Numbers of views and of blocks of displacements; address of where the terms of an angular
        frequency begin, and how many frequencies there are.
    plan
        What `lane_irfft` takes, and rows of a spectrum.
    work
        Address of room for three of those, and for one more of each product of a tile.
    out
        Arrays: best correlation, displacement, angle, log of the sum, all of (n_views,).
    """
    n_views, n_blocks, first_term, n_frequencies = sizes
    (transform, n_rows), n_terms = plan, whole_number(first_term, n_frequencies)
    size, step = n_rows * _U(4 * N_LANES), _U(_VIEWS_AT_ONCE)
    room, spectra = (work, work + size, work + _U(2) * size), work + _U(3) * size
    best, displacement, angle, log_sum = out
    for first in range(_U(0), n_views, _U(_VIEWS_PER_GROUP)):
        end = min(n_views, first + _U(_VIEWS_PER_GROUP))
        for first_block in range(_U(0), n_blocks, _U(_BLOCKS_AT_ONCE)):
            n_here = min(n_blocks - first_block, _U(_BLOCKS_AT_ONCE))
            for tile in range(first, end, step):
                starts = _starts(views, tile, end, n_terms)
                _multiply(
                    image,
                    first_block,
                    n_here,
                    template,
                    starts,
                    (first_term, n_frequencies),
                    spectra,
                    n_rows,
                )
                for product in range(n_here * step):
                    block, view = first_block + product // step, tile + product % step
                    if view >= end:
                        continue
                    spectrum, start = spectra + product * size, starts[product % step]
                    of_lanes = load(lanes[0], block), load(lanes[1], block)
                    scale = scales[0] + view * transform[0] * _U(4)
                    value, lane, place, most = _find_best(
                        spectrum, room, scale, of_lanes[0], best[view], transform
                    )
                    if value > best[view]:
                        best[view], angle[view] = value, place
                        displacement[view] = block * _U(N_LANES) + lane
                    total, highest = _likelihoods(
                        most,
                        spectrum,
                        room,
                        ones,
                        of_lanes,
                        template,
                        start,
                        (block, view),
                        scales,
                        (*law, reference[0]),
                        (first_term, plan),
                    )
                    log_sum[view] = _add_logarithms(log_sum[view], total)
                    reference[0] = max(reference[0], highest)


@inline
@no_type_check
def score_image(
    image, ones, log_prior, template, views, scales, law, reference, terms, plan, room, out
):
    """Compare an image with views; only compiled functions call this.

    Parameters
    ----------
    image, ones, template, views, law, reference, plan, out
        As in `_score`.
    log_prior
        Of the displacements, −∞ in lanes that stand for none.
    scales
        Addresses of what x and u are multiplied by, and ½ log I_xx itself, (n_views, n_angles).
    terms
        Address of where the terms of an angular frequency begin, and how many frequencies there
        are.
    room
        Address of room for `N_SPECTRA` spectra; (2, n_lanes) and (n_views,), float32, which are
        overwritten.
    """
    (work, lanes, least_log), half_log_power, largest = room, scales[2], log_prior.max()
    for lane in range(log_prior.size):
        lanes[0, lane] = 0 if log_prior[lane] > -np.inf else -np.inf
        lanes[1, lane] = np.exp(log_prior[lane] - largest)
    for view in range(least_log.size):
        least_log[view] = half_log_power[view].min()
    best, displacement, angle, log_sum = out
    best[:], displacement[:], angle[:], log_sum[:] = -np.inf, 0, 0, -np.inf
    _score(
        image,
        ones,
        (address(lanes[0]), address(lanes[1])),
        template,
        views,
        (scales[0], scales[1], address(half_log_power), address(least_log)),
        law,
        reference,
        (_U(least_log.size), _U(log_prior.size // N_LANES), *terms),
        plan,
        work,
        out,
    )
    log_sum += largest


@partial(_compiled, fastmath={"contract", "nsz"})
@no_type_check
def _score_image(
    image, ones, log_prior, template, views, scales, law, reference, terms, plan, room, out
):
    """Compare an image with views."""
    score_image(
        image, ones, log_prior, template, views, scales, law, reference, terms, plan, room, out
    )


@inline
@no_type_check
def find_largest(image, template, views, scale, sizes, plan, work, out):
    """Find the largest correlation over angles of each view and displacement.

    Only compiled functions call this.

    Parameters
    ----------
    image, template, views, sizes, plan
        As in `_score`.
    scale
        Address of what correlations are multiplied by, for each view and angle.
    work
        Address of room for a spectrum, for the transform, and for each product of a tile.
    out
        (n_views, n_displacements): gets the result.
    """
    n_views, n_blocks, first_term, n_frequencies = sizes
    (transform, n_rows), n_terms = plan, whole_number(first_term, n_frequencies)
    size, step = n_rows * _U(4 * N_LANES), _U(_VIEWS_AT_ONCE)
    spectra, per_angle = work + _U(2) * size, spread(_F(1) / _F(transform[0]))
    lanes = np.empty(N_LANES, np.float32)
    for tile in range(_U(0), n_views, step):
        starts = _starts(views, tile, n_views, n_terms)
        for block in range(_U(0), n_blocks, _U(_BLOCKS_AT_ONCE)):
            n_here, terms = min(n_blocks - block, _U(_BLOCKS_AT_ONCE)), (first_term, n_frequencies)
            _multiply(image, block, n_here, template, starts, terms, spectra, n_rows)
            for product in range(n_here * step):
                view = tile + product % step
                if view < n_views:
                    lane_irfft(spectra + product * size, work, work + size, transform)
                    of_view = scale + view * transform[0] * _U(4)
                    peaks = _largest_of_angles(work, of_view, transform[0])
                    store(lanes, _U(0), peaks * per_angle)
                    first = (block + product // step) * _U(N_LANES)
                    for lane in range(min(_U(N_LANES), _U(out.shape[1]) - first)):
                        out[view, first + lane] = lanes[lane]


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateViews:
    """Terms of all views.

    Attributes
    ----------
    real, imaginary
        (n_all_views, n_terms).
    first_term
        (n_frequencies + 1,): the terms of angular frequency q are first_term[q] to
        first_term[q + 1]; there are none beyond, up to n_angles // 2.
    plan
        Of the number of in-plane angles.
    """

    real: NDArray[np.float32]
    imaginary: NDArray[np.float32]
    first_term: NDArray[np.int64]
    plan: RealLanePlan

    @cached_property
    def _all_first_terms(self) -> NDArray[np.int64]:
        """Where the terms of every frequency that the transform knows begin."""
        missing = self.plan.n // 2 + 2 - len(self.first_term)
        ends = np.full(missing, self.first_term[-1])
        return np.concatenate([self.first_term, ends]).astype(np.int64)

    @cached_property
    def faults(self) -> list[str]:
        """What does not belong together."""
        n_terms, n_angles = int(self.first_term[-1]), self.plan.n
        wrong = [
            f"{name} is {array.dtype} {array.shape}, not float32 {(len(self.real), n_terms)}"
            for name, array in (("real", self.real), ("imaginary", self.imaginary))
            if array.shape != (len(self.real), n_terms) or array.dtype != np.float32
        ]
        if len(self.first_term) > n_angles // 2 + 2:
            wrong.append(f"{n_angles} angles do not have {len(self.first_term) - 1} terms")
        return wrong

    @cached_property
    def compiled(self) -> tuple[Any, ...]:
        """Addresses of terms and of where frequencies begin, and plans, as long as this is kept."""
        return (
            addresses(self.real, self.imaginary),
            *addresses(self._all_first_terms),
            (self.plan.compiled, np.uint64(self.plan.n_rows)),
        )


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


def empty_best(n_views: int) -> BestOfViews:
    """Make room for the best of so many views, as compiled functions fill it."""
    return BestOfViews(
        cross_correlation=np.empty(n_views, np.float32),
        displacement=np.empty(n_views, np.int32),
        inplane=np.empty(n_views, np.int32),
        log_likelihood_integrated=np.empty(n_views),
    )


def _check_arrays(
    templates: TemplateViews,
    views: NDArray[np.int64],
    arrays: Mapping[str, tuple[NDArray[Any], type[np.generic], tuple[int, ...]]],
    n_low_terms: int = 0,
) -> None:
    """Refuse what compiled code would read beyond the end of.

    `arrays` come with the type and the shape that they should have.
    """
    n_all = len(templates.real)
    if len(views) and not (views.min() >= 0 and views.max() < n_all):
        msg = f"views are numbered 0 to {n_all - 1}, not {views.min()} to {views.max()}."
        raise UsageError(msg)
    wrong = [
        f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
        for name, (array, dtype, shape) in arrays.items()
        if array.shape != shape or array.dtype != dtype
    ]
    wrong += templates.faults
    if n_low_terms not in templates.first_term:
        wrong.append(f"{n_low_terms} terms of ones are those of no number of angular frequencies")
    if wrong:
        msg = f"terms and scales do not belong together: {'; '.join(wrong)}."
        raise UsageError(msg)


def score_views(
    image: DisplacedImage,
    templates: TemplateViews,
    views: NDArray[np.int64],
    scales: ViewScales,
    integration: Integration,
    reference: NDArray[np.float64] | None = None,
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
        How to sum likelihoods.
    reference
        (1,): the largest log-likelihood so far of a pose of this image, −∞ at first; raised to what
        is found. Threads that score the same image can share it.

    Returns
    -------
    BestOfViews
        In the order of `views`.

    Raises
    ------
    UsageError
        Where there is no such view, or arrays do not belong together.
    """
    n_blocks, n_low_terms = len(image.real), image.ones_real.shape[1]
    of_image = n_blocks, templates.real.shape[1], N_LANES
    of_ones, of_views = (n_blocks, n_low_terms, N_LANES), (len(views), templates.plan.n)
    _check_arrays(
        templates,
        views,
        {
            "real": (image.real, _F, of_image),
            "imaginary": (image.imaginary, _F, of_image),
            "ones_real": (image.ones_real, _F, of_ones),
            "ones_imaginary": (image.ones_imaginary, _F, of_ones),
            "log_prior": (image.log_prior, np.float64, (n_blocks * N_LANES,)),
            "inverse_norm": (scales.inverse_norm, _F, of_views),
            "ones_scale": (scales.ones_scale, _F, of_views),
            "half_log_power": (scales.half_log_power, _F, of_views),
        },
        n_low_terms,
    )
    found = empty_best(len(views))
    n_low = int(np.searchsorted(templates.first_term, n_low_terms))
    views = np.ascontiguousarray(views, np.int64)
    terms, first_term, plans = templates.compiled
    plan, mean_bound = templates.plan, float(integration.ones_bound) if n_low else 0.0
    law = float(integration.exponent), float(image.mean), mean_bound, float(integration.cutoff)
    per_angle = (scales.inverse_norm / _F(plan.n), scales.ones_scale / _F(plan.n))
    work = aligned_zeros(N_SPECTRA * plan.n_rows * N_LANES)
    _score_image(
        addresses(image.real, image.imaginary),
        (*addresses(image.ones_real, image.ones_imaginary), np.uint64(n_low)),
        image.log_prior,
        terms,
        *addresses(views),
        (*addresses(*per_angle), scales.half_log_power),
        law,
        np.full(1, -np.inf) if reference is None else reference,
        (first_term, np.uint64(plan.n // 2 + 1)),
        plans,
        (
            *addresses(work),
            np.empty((2, image.log_prior.size), np.float32),
            np.empty(len(views), np.float32),
        ),
        (
            found.cross_correlation,
            found.displacement,
            found.inplane,
            found.log_likelihood_integrated,
        ),
    )
    return found
