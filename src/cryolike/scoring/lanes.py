"""Fourier transforms of sixteen sequences at once, one to each lane of a vector.

A complex sequence of n numbers, in all lanes, is a contiguous float32 array of 2n rows of
`N_LANES`: real part of the first number, its imaginary part, real part of the second, and so on.
Every step of a transform is then arithmetic on whole vectors. Transforms are not normalised: an
inverse gives n times the sequence. What is compiled here is called from other compiled functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from numpy.typing import NDArray

from cryolike.scoring.vectors import N_LANES, inline, load, number, spread, store, whole_number

__all__ = ["LanePlan", "RealLanePlan", "addresses", "aligned_zeros", "lane_ifft", "lane_irfft"]

_U = np.uint64
"""Indices are unsigned, since numba would wrap signed ones, as Python does."""

_RADICES = (4, 5, 3, 2)
_COS_5 = tuple(np.float32(np.cos(2 * np.pi * k / 5)) for k in (1, 2))
_SIN_5 = tuple(np.float32(np.sin(2 * np.pi * k / 5)) for k in (1, 2))


def aligned_zeros(*shape: int) -> NDArray[np.float32]:
    """Make a contiguous float32 array of zeros that begins where vectors are read fastest.

    Parameters
    ----------
    shape
        The last axis is best a multiple of `N_LANES`.
    """
    size = int(np.prod(shape))
    memory = np.zeros(size + N_LANES, np.float32)
    skipped = (-memory.ctypes.data % (4 * N_LANES)) // 4
    return memory[skipped : skipped + size].reshape(shape)


def _factors(n: int) -> list[int]:
    """Factors of n that there are steps for, and then its larger prime factors."""
    found, rest = [], n
    for radix in _RADICES:
        while rest % radix == 0:
            found.append(radix)
            rest //= radix
    candidate = 7
    while rest > 1:
        while rest % candidate == 0:
            found.append(candidate)
            rest //= candidate
        candidate = candidate + 2 if candidate**2 <= rest else max(rest, candidate + 2)
    return found or [1]


def _turns(numerators: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """exp(2πi k/n) as real and imaginary parts in turn."""
    angles = 2 * np.pi * (numerators.ravel() % n) / n
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32).ravel()


@dataclass(frozen=True)
class LanePlan:
    """Constants of the complex transform of a length.

    Attributes
    ----------
    n
        Complex numbers of a sequence.
    factors
        int64, (n_steps,): their product is n.
    twiddles
        float32: for each step of radix r on sequences of length r·m, exp(2πi p·k/(r·m)) for
        p = 0..m−1 and k = 1..r−1.
    roots
        float32, (2n,): exp(2πi k/n).
    """

    n: int
    factors: NDArray[np.int64]
    twiddles: NDArray[np.float32]
    roots: NDArray[np.float32]

    @classmethod
    def of_length(cls, n: int) -> LanePlan:
        """Plan transforms of n ≥ 1 complex numbers."""
        factors, twiddles, length = _factors(n), [], n
        for radix in factors:
            p, k = np.arange(length // radix), np.arange(1, radix)
            twiddles.append(_turns(np.outer(p, k), length))
            length //= radix
        return cls(
            n, np.array(factors, np.int64), np.concatenate(twiddles), _turns(np.arange(n), n)
        )

    @property
    def compiled(self) -> tuple[np.uint64, ...]:
        """What `lane_ifft` takes, as long as this is kept."""
        sizes = np.uint64(self.n), np.uint64(len(self.factors))
        return *sizes, *addresses(self.factors, self.twiddles, self.roots)


@dataclass(frozen=True)
class RealLanePlan:
    """Constants of the inverse transform to a number of real values.

    Attributes
    ----------
    n
        Real numbers of a sequence; the half spectrum has n // 2 + 1 complex ones.
    complex_plan
        Of length n/2, or n where n is odd.
    roots
        float32: exp(2πi k/n) for k = 0..n/4.
    n_rows
        Rows that `lane_irfft` needs in each of its three arrays.
    """

    n: int
    complex_plan: LanePlan
    roots: NDArray[np.float32]
    n_rows: int

    @classmethod
    def of_length(cls, n: int) -> RealLanePlan:
        """Plan inverse transforms to n ≥ 1 real numbers."""
        n_complex = n if n % 2 else n // 2
        roots = _turns(np.arange(n // 4 + 1), n)
        return cls(n, LanePlan.of_length(n_complex), roots, 2 * n_complex + 2)

    @property
    def compiled(self) -> tuple[np.uint64, np.uint64, tuple[np.uint64, ...]]:
        """What `lane_irfft` takes, as long as this is kept."""
        (roots,) = addresses(self.roots)
        return np.uint64(self.n), roots, self.complex_plan.compiled


def addresses(*arrays: NDArray[Any]) -> tuple[np.uint64, ...]:
    """Where the data of contiguous arrays begin, as compiled code takes it.

    Parameters
    ----------
    arrays
        To be kept as long as the addresses are used.

    Raises
    ------
    ValueError
        Where one is not contiguous.
    """
    if not all(array.flags.c_contiguous for array in arrays):
        msg = "only arrays whose numbers lie in a row have one address."
        raise ValueError(msg)
    # `array.ctypes` takes fifty times as long
    return tuple(np.uint64(array.__array_interface__["data"][0]) for array in arrays)


@inline
@no_type_check
def _multiply(twiddles, at, real, imaginary):
    """Product with a complex number of a table."""
    w_real, w_imaginary = spread(number(twiddles, at)), spread(number(twiddles, at + _U(1)))
    return (
        w_real * real - w_imaginary * imaginary,
        w_real * imaginary + w_imaginary * real,
    )


@inline
@no_type_check
def _step_2(source, target, twiddles, m, s):
    """Radix 2 of Stockham's algorithm: m sequences of butterflies, s side by side."""
    for p in range(m):
        at = _U(2) * p
        for q in range(s):
            i, o = _U(2) * (s * p + q), _U(2) * (_U(2) * s * p + q)
            j, step = _U(2) * s * m, _U(2) * s
            a_re, a_im = load(source, i), load(source, i + _U(1))
            b_re, b_im = load(source, i + j), load(source, i + j + _U(1))
            store(target, o, a_re + b_re)
            store(target, o + _U(1), a_im + b_im)
            d_re, d_im = _multiply(twiddles, at, a_re - b_re, a_im - b_im)
            store(target, o + step, d_re)
            store(target, o + step + _U(1), d_im)


@inline
@no_type_check
def _step_3(source, target, twiddles, m, s):
    """Radix 3."""
    half, sine = spread(np.float32(-0.5)), spread(np.float32(np.sqrt(0.75)))
    j, step = _U(2) * s * m, _U(2) * s
    for p in range(m):
        at = _U(4) * p
        for q in range(s):
            i, o = _U(2) * (s * p + q), _U(2) * (_U(3) * s * p + q)
            a_re, a_im = load(source, i), load(source, i + _U(1))
            i += j
            b_re, b_im = load(source, i), load(source, i + _U(1))
            i += j
            c_re, c_im = load(source, i), load(source, i + _U(1))
            sum_re, sum_im = b_re + c_re, b_im + c_im
            turned_re, turned_im = sine * (c_im - b_im), sine * (b_re - c_re)
            store(target, o, a_re + sum_re)
            store(target, o + _U(1), a_im + sum_im)
            mid_re = a_re + half * sum_re
            mid_im = a_im + half * sum_im
            o += step
            y_re, y_im = _multiply(twiddles, at, mid_re + turned_re, mid_im + turned_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(2), mid_re - turned_re, mid_im - turned_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)


@inline
@no_type_check
def _step_4(source, target, twiddles, m, s):
    """Radix 4."""
    j, step = _U(2) * s * m, _U(2) * s
    for p in range(m):
        at = _U(6) * p
        for q in range(s):
            i, o = _U(2) * (s * p + q), _U(2) * (_U(4) * s * p + q)
            a_re, a_im = load(source, i), load(source, i + _U(1))
            i += j
            b_re, b_im = load(source, i), load(source, i + _U(1))
            i += j
            c_re, c_im = load(source, i), load(source, i + _U(1))
            i += j
            d_re, d_im = load(source, i), load(source, i + _U(1))
            even_re, even_im = a_re + c_re, a_im + c_im
            odd_re, odd_im = b_re + d_re, b_im + d_im
            other_re, other_im = a_re - c_re, a_im - c_im
            turned_re, turned_im = d_im - b_im, b_re - d_re
            store(target, o, even_re + odd_re)
            store(target, o + _U(1), even_im + odd_im)
            o += step
            y_re, y_im = _multiply(twiddles, at, other_re + turned_re, other_im + turned_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(2), even_re - odd_re, even_im - odd_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(4), other_re - turned_re, other_im - turned_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)


@inline
@no_type_check
def _step_5(source, target, twiddles, m, s):
    """Radix 5."""
    cos_1, cos_2 = spread(_COS_5[0]), spread(_COS_5[1])
    sin_1, sin_2 = spread(_SIN_5[0]), spread(_SIN_5[1])
    j, step = _U(2) * s * m, _U(2) * s
    for p in range(m):
        at = _U(8) * p
        for q in range(s):
            i, o = _U(2) * (s * p + q), _U(2) * (_U(5) * s * p + q)
            a_re, a_im = load(source, i), load(source, i + _U(1))
            i += j
            b_re, b_im = load(source, i), load(source, i + _U(1))
            i += j
            c_re, c_im = load(source, i), load(source, i + _U(1))
            i += j
            d_re, d_im = load(source, i), load(source, i + _U(1))
            i += j
            e_re, e_im = load(source, i), load(source, i + _U(1))
            outer_re, outer_im = b_re + e_re, b_im + e_im
            inner_re, inner_im = c_re + d_re, c_im + d_im
            # i times the differences
            b_re, b_im = e_im - b_im, b_re - e_re
            c_re, c_im = d_im - c_im, c_re - d_re
            store(target, o, a_re + outer_re + inner_re)
            store(target, o + _U(1), a_im + outer_im + inner_im)
            near_re = a_re + cos_1 * outer_re + cos_2 * inner_re
            near_im = a_im + cos_1 * outer_im + cos_2 * inner_im
            far_re = a_re + cos_2 * outer_re + cos_1 * inner_re
            far_im = a_im + cos_2 * outer_im + cos_1 * inner_im
            d_re, d_im = sin_1 * b_re + sin_2 * c_re, sin_1 * b_im + sin_2 * c_im
            e_re, e_im = sin_2 * b_re - sin_1 * c_re, sin_2 * b_im - sin_1 * c_im
            o += step
            y_re, y_im = _multiply(twiddles, at, near_re + d_re, near_im + d_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(2), far_re + e_re, far_im + e_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(4), far_re - e_re, far_im - e_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)
            o += step
            y_re, y_im = _multiply(twiddles, at + _U(6), near_re - d_re, near_im - d_im)
            store(target, o, y_re)
            store(target, o + _U(1), y_im)


@inline
@no_type_check
def _step_of_prime(source, target, twiddles, roots, radix, m, s):
    """Any other radix, by the definition of the transform."""
    zero = spread(np.float32(0))
    n = radix * m * s
    for p in range(m):
        for q in range(s):
            for k in range(radix):
                y_re, y_im = zero, zero
                root = _U(0)
                for j in range(radix):
                    i = _U(2) * (s * (p + m * j) + q)
                    x_re, x_im = _multiply(
                        roots, _U(2) * root, load(source, i), load(source, i + _U(1))
                    )
                    y_re, y_im = y_re + x_re, y_im + x_im
                    root = (root + k * m * s) % n
                if k > _U(0):
                    at = _U(2) * (p * (radix - _U(1)) + k - _U(1))
                    y_re, y_im = _multiply(twiddles, at, y_re, y_im)
                o = _U(2) * (s * (radix * p + k) + q)
                store(target, o, y_re)
                store(target, o + _U(1), y_im)


@inline
@no_type_check
def lane_ifft(source, target, spare, plan):
    """Transform complex sequences.

    Parameters
    ----------
    source
        Address of the sequences, 2n · `N_LANES` float32; they are left as they are.
    target
        Address of as many: get Σ_k x_k exp(2πi jk/n).
    spare
        Address of as many: overwritten. No two of the three may overlap.
    plan
        n, number of steps, and addresses of the `LanePlan`'s factors, twiddles and roots.
    """
    n, n_steps, factors, twiddles, roots = plan
    length, stride = n, _U(1)
    a, b, c = source, target, spare
    if n_steps % _U(2) == 0:
        b, c = spare, target
    for step in range(n_steps):
        radix = whole_number(factors, step)
        m = length // radix
        if radix == 4:
            _step_4(a, b, twiddles, m, stride)
        elif radix == 2:
            _step_2(a, b, twiddles, m, stride)
        elif radix == 3:
            _step_3(a, b, twiddles, m, stride)
        elif radix == 5:
            _step_5(a, b, twiddles, m, stride)
        else:
            _step_of_prime(a, b, twiddles, roots, radix, m, stride)
        twiddles += _U(8) * m * (radix - _U(1))
        a, b, c = b, c, b
        length, stride = m, stride * radix


@inline
@no_type_check
def _whole_spectrum(half, whole, n):
    """Fill in the conjugates that the half spectrum of an odd number of real values leaves out."""
    store(whole, _U(0), load(half, _U(0)))
    store(whole, _U(1), spread(np.float32(0)))
    minus = spread(np.float32(-1))
    for k in range(_U(1), n // _U(2) + _U(1)):
        real, imaginary = load(half, _U(2) * k), load(half, _U(2) * k + _U(1))
        store(whole, _U(2) * k, real)
        store(whole, _U(2) * k + _U(1), imaginary)
        store(whole, _U(2) * (n - k), real)
        store(whole, _U(2) * (n - k) + _U(1), minus * imaginary)


@inline
@no_type_check
def _spectrum_of_pairs(half, pairs, roots, n_pairs):
    """Turn a half spectrum into the spectrum of x[2j] + i·x[2j + 1]."""
    first, last = load(half, _U(0)), load(half, _U(2) * n_pairs)
    store(pairs, _U(0), first + last)
    store(pairs, _U(1), first - last)
    for k in range(_U(1), n_pairs // _U(2) + _U(1)):
        low, high = _U(2) * k, _U(2) * (n_pairs - k)
        a_re, a_im = load(half, low), load(half, low + _U(1))
        b_re, b_im = load(half, high), load(half, high + _U(1))
        even_re, even_im = a_re + b_re, a_im - b_im
        # times i
        odd_re, odd_im = _multiply(roots, low, spread(np.float32(0)) - a_im - b_im, a_re - b_re)
        store(pairs, low, even_re + odd_re)
        store(pairs, low + _U(1), even_im + odd_im)
        store(pairs, high, even_re - odd_re)
        store(pairs, high + _U(1), odd_im - even_im)


@inline
@no_type_check
def lane_irfft(half, target, spare, plan):
    """Transform half spectra of real sequences to n times those.

    Parameters
    ----------
    half
        Address of the spectra, `RealLanePlan.n_rows` · `N_LANES` float32; overwritten. The
        imaginary parts of the first number, and for even n of the last, do not count, as in NumPy.
    target
        Address of as many: the first n rows get Σ_q x_q exp(2πi jq/n) over all n frequencies.
    spare
        Address of as many: overwritten. No two of the three may overlap.
    plan
        n, address of `RealLanePlan.roots`, and what `lane_ifft` takes for its `complex_plan`.
    """
    n, real_roots, complex_plan = plan
    if n % _U(2) == 0:
        _spectrum_of_pairs(half, spare, real_roots, n // _U(2))
    else:
        _whole_spectrum(half, spare, n)
    lane_ifft(spare, target, half, complex_plan)
    if n % _U(2) == 1:
        for j in range(_U(1), n):
            store(target, j, load(target, _U(2) * j))
