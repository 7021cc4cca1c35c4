"""Terms of displaced images, compiled: what a search compares with the terms of templates.

For a displacement δ an image I with CTF C counts as

    J(k, θ) = I C exp(+2πi (2k/L)(δx cos θ + δy sin θ)),

and its terms are those of the angular Fourier series of J in the basis of the templates. Sixteen
displacements lie in the lanes of vectors, so that each step is arithmetic on whole vectors. Images
are real: J(k, θ + π) is the conjugate of J(k, θ), and half of the circle suffices. The series is
made by small matrix products from sums and differences of what is at θ and π − θ.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, no_type_check, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex, Float
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

from cryolike.errors import UsageError
from cryolike.physics.compiled import _compiled, _inner
from cryolike.scoring.lanes import aligned_zeros
from cryolike.scoring.template_terms import RadialBasis
from cryolike.scoring.vectors import (
    HAS_WIDE_REGISTERS,
    LANES,
    N_LANES,
    address,
    inline,
    load,
    spread,
    store,
)

__all__ = ["ImageTerms", "aligned", "as_compiled", "fill_terms"]

_U = np.uint64
"""Indices are unsigned, since numba would wrap signed ones, as Python does."""

_N_SHELLS, _N_FREQUENCIES, _N_TERMS = (4, 4, 12) if HAS_WIDE_REGISTERS else (2, 3, 3)
"""Sums that are made at once, of frequencies and shells, and of terms, which have two parts each.

They stay in the processor's registers, and are enough of them to keep it busy.
"""

_N_PACKED = 4
"""Most shells that share a vector where there are fewer displacements than lanes."""


_ONE = np.float32(1)

_FLOATS = ir.VectorType(ir.FloatType(), N_LANES)
_INTS = ir.VectorType(ir.IntType(32), N_LANES)
_FLAGS = ("contract", "nsz")


def _series(function: Callable[[Any], Any], degree: int) -> tuple[np.float32, ...]:
    """Coefficients of the polynomial in r² that is nearest to a function of r up to ½."""
    fit = Chebyshev.interpolate(lambda y: function(np.sqrt(y)), degree, domain=[0, 0.25])
    return tuple(fit.convert(kind=Polynomial).coef.astype(np.float32))


_COSINE = _series(lambda r: np.cos(np.pi * r), 5)
_SINE = _series(lambda r: np.pi * np.sinc(r), 4)
"""Of cos πr and sin πr / r; what they leave out is below 1e-8."""


@no_type_check
@intrinsic
def _nearest_whole(typing_context, a, one):
    """Round to whole numbers n, as (n, (−1)^n one)."""

    def generate(context, builder, signature, arguments):
        a, one = arguments
        # Where a number is this large, its last bit counts ones
        large = ir.Constant(_FLOATS, [1.5 * 2**23] * N_LANES)
        shifted = builder.fadd(a, large)
        sign = builder.shl(builder.bitcast(shifted, _INTS), ir.Constant(_INTS, [31] * N_LANES))
        signed = builder.bitcast(builder.xor(sign, builder.bitcast(one, _INTS)), _FLOATS)
        parts = [builder.fsub(shifted, large), signed]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(LANES, 2)(LANES, LANES), generate


@no_type_check
@intrinsic
def _multiply_add(typing_context, a, b, c):
    """Compute a·b + c, rounded once where the processor can do that."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd.v16f32", (), kind)
        return builder.call(function, arguments)

    return LANES(LANES, LANES, LANES), generate


@no_type_check
def _sum_products(builder, n_rows, n_columns, number, vector, n):
    """Emit a loop over j < n that sums number(j, i) · vector(j, c) for all i and c."""
    count, zero = n.type, ir.Constant(_FLOATS, [0.0] * N_LANES)
    before, loop = builder.block, builder.append_basic_block()
    after = builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    j = builder.phi(count)
    so_far = [[builder.phi(_FLOATS) for _ in range(n_columns)] for _ in range(n_rows)]
    j.add_incoming(count(0), before)
    columns = [vector(j, c) for c in range(n_columns)]
    sums = []
    for i, totals in enumerate(so_far):
        factor = number(j, i)
        products = [builder.fmul(factor, column, flags=_FLAGS) for column in columns]
        pairs = zip(totals, products, strict=True)
        sums.append([builder.fadd(*pair, flags=_FLAGS) for pair in pairs])
    for totals, new_totals in zip(so_far, sums, strict=True):
        for total, new_total in zip(totals, new_totals, strict=True):
            total.add_incoming(zero, before)
            total.add_incoming(new_total, loop)
    following = builder.add(j, count(1))
    j.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, n), loop, after)
    builder.position_at_end(after)
    return sums


def _products(most_rows: int, n_columns: int) -> Any:
    """Make the product of a narrow matrix and vectors, all sums of which stay in registers."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        n_rows, _, first, step, _, width, row, row_step, n, _, to, to_step, to_column = arguments
        matrix, vectors, out = (
            context.make_helper(builder, signature.args[i], value=arguments[i]).data
            for i in (1, 4, 9)
        )

        def place(pointer, length, *terms):
            row = terms[0]
            for term, factor in terms[1:]:
                row = builder.add(row, builder.mul(term, factor))
            where = builder.gep(pointer, [builder.mul(row, length)])
            return builder.bitcast(where, _FLOATS.as_pointer())

        def number(j, i):
            where = builder.add(builder.add(first, builder.mul(j, step)), j.type(i))
            undefined = ir.Constant(_FLOATS, ir.Undefined)
            value = builder.load(builder.gep(matrix, [where]))
            single = builder.insert_element(undefined, value, ir.IntType(32)(0))
            return builder.shuffle_vector(single, undefined, ir.Constant(_INTS, [0] * N_LANES))

        def vector(j, c):
            one = j.type(1)
            where = place(vectors, width, row, (j, row_step), (j.type(c), one))
            return builder.load(where, align=4)

        done = builder.append_basic_block()
        choice = builder.switch(n_rows, done)
        for chosen in range(1, most_rows + 1):
            block = builder.append_basic_block()
            choice.add_case(n_rows.type(chosen), block)
            builder.position_at_end(block)
            sums = _sum_products(builder, chosen, n_columns, number, vector, n)
            for i, totals in enumerate(sums):
                for c, total in enumerate(totals):
                    at = to, (to.type(i), to_step), (to.type(c), to_column)
                    where = place(out, to.type(N_LANES), *at)
                    builder.store(total, where, align=4)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    @no_type_check
    @intrinsic
    def multiply(
        typing_context,
        n_rows,
        matrix,
        first,
        step,
        vectors,
        width,
        row,
        row_step,
        n,
        out,
        to,
        to_step,
        to_column,
    ):
        """Sum matrix[first + j·step + i] · (row `row` + j·row_step + c of vectors) over j < n.

        What is for i < n_rows and column c goes to row to + i·to_step + c·to_column of `out`. Both
        n and n_rows are at least 1. Rows of vectors are `width` apart, those of `out` as long as
        vectors.
        """
        u = types.uint64
        return types.void(u, matrix, u, u, vectors, u, u, u, u, out, u, u, u), generate

    return multiply


def _alternating(width: int) -> Any:
    """Make what puts pieces of `width` lanes of two vectors in turn into two others."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        pieces = range(0, N_LANES, width)
        starts = [start for i in pieces for start in (i, i + N_LANES)]
        lanes = [lane for start in starts for lane in range(start, start + width)]
        parts = [
            builder.shuffle_vector(*arguments, ir.Constant(_INTS, lanes[i : i + N_LANES]))
            for i in (0, N_LANES)
        ]
        return context.make_tuple(builder, signature.return_type, parts)

    @no_type_check
    @intrinsic
    def alternate(typing_context, a, b):
        return types.UniTuple(LANES, 2)(LANES, LANES), generate

    return alternate


_alternate_4, _alternate_8 = _alternating(4), _alternating(8)
_transform = _products(_N_FREQUENCIES, _N_SHELLS)
_project = _products(_N_TERMS, 2)


@inline
@no_type_check
def _turn(swing, row, slope, slope_rest, one):
    """Cosine and sine of π · slope · swing, times one."""
    high, low = load(swing, row), load(swing, row + _U(1))
    whole, sign = _nearest_whole(slope * high, one)
    # Exact but for what the factors have beyond single precision, which follows
    rest = _multiply_add(slope, high, spread(np.float32(0)) - whole)
    rest = _multiply_add(slope, low, _multiply_add(slope_rest, high, rest))
    y = rest * rest
    cosine = _multiply_add(y, spread(_COSINE[5]), spread(_COSINE[4]))
    cosine = _multiply_add(y, cosine, spread(_COSINE[3]))
    cosine = _multiply_add(y, cosine, spread(_COSINE[2]))
    cosine = _multiply_add(y, cosine, spread(_COSINE[1]))
    cosine = _multiply_add(y, cosine, spread(_COSINE[0]))
    sine = _multiply_add(y, spread(_SINE[4]), spread(_SINE[3]))
    sine = _multiply_add(y, sine, spread(_SINE[2]))
    sine = _multiply_add(y, sine, spread(_SINE[1]))
    sine = _multiply_add(y, sine, spread(_SINE[0]))
    return cosine * sign, sine * (rest * sign)


@inline
@no_type_check
def _fill_lanes(displacements_A, first, n_packed, direction, swing, masks):
    """Find how far the displacements of a block go in each direction, Å, in two float32.

    Parameters
    ----------
    displacements_A
        All of them.
    first
        The first of the block.
    n_packed
        How many shells share a vector: its first 16 / n_packed lanes are of one, and so on.
    direction
        Cosine and sine of each angle.
    swing
        Gets two rows for each angle: float32, and what that lacks.
    masks
        Row 0 gets 0 in lanes of no displacement, rows from 1 on 1 in the lanes of one shell, and
        otherwise 1 and 0.
    """
    n_lanes = _U(N_LANES) // n_packed
    n_present = min(_U(displacements_A.shape[0]) - first, n_lanes)
    for lane in range(_U(N_LANES)):
        masks[lane] = np.float32(lane % n_lanes < n_present)
        for row in range(n_packed):
            masks[(row + _U(1)) * _U(N_LANES) + lane] = np.float32(lane // n_lanes == row)
    for angle in range(_U(direction.shape[1])):
        cosine, sine, at = direction[0, angle], direction[1, angle], _U(2 * N_LANES) * angle
        for lane in range(_U(N_LANES)):
            high = rest = np.float32(0)
            if lane % n_lanes < n_present:
                delta = displacements_A[first + lane % n_lanes]
                along = delta[0] * cosine + delta[1] * sine
                high = np.float32(along)
                rest = np.float32(along - np.float64(high))
            swing[at + lane], swing[at + _U(N_LANES) + lane] = high, rest


@inline
@no_type_check
def _of_shells(values, k, column, part, n_packed, masks):
    """Spread values of consecutive shells over their lanes."""
    value = spread(values[k, column, part])
    if n_packed > _U(1):
        value = value * load(masks, _U(1))
        for i in range(_U(1), n_packed):
            value = value + spread(values[k + i, column, part]) * load(masks, i + _U(1))
    return value


@inline
@no_type_check
def _displace_and_fold(weighted, slope, swing, masks, shell, n_packed, n_of_parity, folded):
    """Displace some shells of an image; add and subtract what is at θ and π − θ.

    Row (4·class + 2·part + parity)·n_half + j, counted in `_N_SHELLS`, of `folded` gets what the
    real (part 0) and imaginary (1) parts at even (class 0) and odd q are made from. Angle numbers
    are n_parities·j + parity. `n_packed` shells share a vector.
    """
    n_angles = _U(weighted.shape[1])
    n_parities, step = _U(n_of_parity.size), n_of_parity[0] * _U(_N_SHELLS)
    zero, one = spread(np.float32(0)), load(masks, _U(0))
    for i in range(_U(_N_SHELLS)):
        k = shell + i * n_packed
        s = _of_shells(slope, k, _U(0), _U(0), n_packed, masks)
        s_rest = _of_shells(slope, k, _U(0), _U(1), n_packed, masks)
        for angle in range(n_angles // _U(2) + _U(1)):
            opposite = n_angles - angle
            to = i + angle % n_parities * step + angle // n_parities * _U(_N_SHELLS)
            cosine, sine = _turn(swing, _U(2) * angle, s, s_rest, one)
            re = _of_shells(weighted, k, angle, _U(0), n_packed, masks)
            im = _of_shells(weighted, k, angle, _U(1), n_packed, masks)
            a, b = re * cosine - im * sine, re * sine + im * cosine
            c, d = zero, zero
            if angle > _U(0) and opposite > angle:
                cosine, sine = _turn(swing, _U(2) * opposite, s, s_rest, one)
                re = _of_shells(weighted, k, opposite, _U(0), n_packed, masks)
                im = _of_shells(weighted, k, opposite, _U(1), n_packed, masks)
                c, d = re * cosine - im * sine, re * sine + im * cosine
            store(folded, to, a + c)
            store(folded, to + _U(2) * step, a - c)
            store(folded, to + _U(4) * step, b + d)
            store(folded, to + _U(6) * step, b - d)


@inline
@no_type_check
def _transform_class(odd, n_rows, dft, folded, n_of_parity, sums):
    """Sum cosines and sines over even and over odd angle numbers, for some even or odd q."""
    n_half = n_of_parity[0]
    for part in range(_U(2)):
        for parity in range(_U(n_of_parity.size)):
            kind = _U(2) * part + parity
            plane = (_U(4) * odd + kind) * n_half
            for row in range(_U(0), n_rows, _U(_N_FREQUENCIES)):
                few = min(n_rows - row, _U(_N_FREQUENCIES))
                _transform(
                    few,
                    dft,
                    plane * _U(dft.size) // (_U(8) * n_half) + row * n_half,
                    _U(_N_FREQUENCIES),
                    folded,
                    _U(N_LANES),
                    plane * _U(_N_SHELLS),
                    _U(_N_SHELLS),
                    n_of_parity[parity],
                    sums,
                    (_U(4) * row + kind) * _U(_N_SHELLS),
                    _U(4 * _N_SHELLS),
                    _U(1),
                )


@inline
@no_type_check
def _store_parts(series, shell, n_packed, re, im):
    """Write vectors of consecutive shells, real and imaginary parts of one before the next."""
    n_lanes = _U(N_LANES) // n_packed
    first, second = re, im
    if n_packed == _U(4):
        first, second = _alternate_4(re, im)
    elif n_packed == _U(2):
        first, second = _alternate_8(re, im)
    at = address(series) + _U(8) * shell * n_lanes
    store(at, _U(0), first)
    store(at, _U(1), second)


@inline
@no_type_check
def _unfold(odd, n_rows, sums, mirror, shell, n_packed, n_shells, has_terms, offset, series):
    """Write the series of some shells at some even or odd q, and at `mirror` − q if not 0."""
    for row in range(n_rows):
        q = _U(2) * row + odd
        for i in range(_U(_N_SHELLS)):
            k, at = shell + i * n_packed, _U(4 * _N_SHELLS) * row + i
            if k >= n_shells:
                break
            re, re_odd = load(sums, at), load(sums, at + _U(_N_SHELLS))
            im = load(sums, at + _U(2 * _N_SHELLS))
            im_odd = load(sums, at + _U(3 * _N_SHELLS))
            if has_terms[q]:
                _store_parts(series, offset[q] + k, n_packed, re + re_odd, im + im_odd)
            if mirror and has_terms[mirror - q]:
                at = offset[mirror - q] + k
                if odd:
                    _store_parts(series, at, n_packed, re_odd - re, im - im_odd)
                else:
                    _store_parts(series, at, n_packed, re - re_odd, im_odd - im)


@inline
@no_type_check
def _project_all(pieces, rows, n_shells, n_lanes, offset, series, n_terms, block, out):
    """Sum the series over shells, for all terms; of each row `n_lanes` lanes are kept."""
    n_rows = _U(out.size // N_LANES)
    for piece in range(_U(pieces.shape[0])):
        q, few, first, term = pieces[piece]
        _project(
            few,
            rows,
            first,
            few,
            series,
            n_lanes,
            _U(2) * offset[q],
            _U(2),
            n_shells,
            out,
            block * n_terms + term,
            _U(1),
            n_rows // _U(2),
        )


@inline
@no_type_check
def _clear(first, n, lane, out):
    """Set the lanes from one on to 0, in n rows."""
    for row in range(first, first + n):
        for i in range(row * _U(N_LANES) + lane, (row + _U(1)) * _U(N_LANES)):
            out[i] = 0


@_inner
@no_type_check
def fill_terms(image, ctf, factor, constants, displacements_A, scratch, out):
    """Compute the terms of one image for all displacements; only compiled functions call this.

    Parameters
    ----------
    image, ctf
        float32, C-contiguous; parts of complex numbers in turn.
    factor
        float32, what the image is multiplied by besides.
    constants, scratch
        Of `ImageTerms`; `scratch` belongs to the thread.
    displacements_A
        (n, 2), float64.
    out
        One-dimensional: gets the real and then the imaginary parts.
    """
    slope, direction, (dft, n_of_parity), basis = constants
    last_q, has_terms, offset, n_shells, pieces, rows, n_terms = basis
    weighted, swing, masks, folded, sums, series = scratch
    n_angles, n_shells, n_terms = _U(weighted.shape[1]), _U(n_shells), _U(n_terms)
    for shell in range(n_shells):
        for angle in range(n_angles):
            weight = factor * ctf[shell, angle]
            weighted[shell, angle, 0] = weight * image[shell, _U(2) * angle]
            weighted[shell, angle, 1] = weight * image[shell, _U(2) * angle + _U(1)]
    mirror = n_angles if n_of_parity.size == 2 else _U(0)
    top = n_angles // _U(2) if mirror else n_angles
    n_blocks = _U(out.size // (2 * N_LANES)) // n_terms
    for block in range(n_blocks):
        n_here = min(_U(displacements_A.shape[0]) - block * _U(N_LANES), _U(N_LANES))
        n_packed = _U(1)
        while n_packed < _U(_N_PACKED) and _U(2) * n_packed * n_here <= _U(N_LANES):
            n_packed *= _U(2)
        _fill_lanes(displacements_A, _U(N_LANES) * block, n_packed, direction, swing, masks)
        for shell in range(_U(0), n_shells, n_packed * _U(_N_SHELLS)):
            _displace_and_fold(weighted, slope, swing, masks, shell, n_packed, n_of_parity, folded)
            for odd in range(_U(2)):
                n_rows = (min(_U(last_q), top) + _U(2) - odd) // _U(2)
                _transform_class(odd, n_rows, dft, folded, n_of_parity, sums)
                _unfold(
                    *(odd, n_rows, sums, mirror, shell, n_packed, n_shells),
                    *(has_terms, offset, series),
                )
        n_lanes = _U(N_LANES) // n_packed
        _project_all(pieces, rows, n_shells, n_lanes, offset, series, n_terms, block, out)
        if n_packed > _U(1):
            _clear(block * n_terms, n_terms, n_here, out)
            _clear((n_blocks + block) * n_terms, n_terms, n_here, out)


@_compiled
@no_type_check
def _fill_terms(image, ctf, factor, constants, displacements_A, scratch, out):
    """Compute the terms of one image."""
    fill_terms(image, ctf, factor, constants, displacements_A, scratch, out)


def aligned(*shape: int) -> np.ndarray:
    """Make what `aligned_zeros` makes, but for the zeros, which take time."""
    size = math.prod(shape)
    memory = np.empty(size + N_LANES, np.float32)
    skipped = -memory.ctypes.data % (4 * N_LANES) // 4
    return memory[skipped : skipped + size].reshape(shape)


def as_compiled(array: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """Copy an array unless compiled code is for its kind: to compile it anew takes seconds."""
    return np.require(array, dtype, ["C", "A", "W"])


def _high_and_low(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split float64 into float32 and what that leaves."""
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _HalfCircle:
    """Tables of the angular series of real images, of an even number Q of angles.

    Attributes
    ----------
    n_of_parity
        Number of even and of odd angle numbers up to Q/4; of all, up to Q/4, where Q/2 is odd.
    dft
        What `_transform_class` multiplies with: (class, part, parity, frequencies / 4, j, 4).
    """

    n_of_parity: np.ndarray
    dft: np.ndarray

    @classmethod
    def of_angles(cls, n_angles: int) -> _HalfCircle:
        half = n_angles // 2
        n_parities = 2 if half % 2 == 0 else 1
        parities = [np.arange(half // 2 + 1)[parity::n_parities] for parity in range(n_parities)]
        n_of_parity = [len(numbers) for numbers in parities]
        top = half // n_parities
        n_chunks = top // (2 * _N_FREQUENCIES) + 1
        dft = np.zeros((2, 2, 2, n_chunks, n_of_parity[0], _N_FREQUENCIES), np.float32)
        q = 2 * np.arange(n_chunks * _N_FREQUENCIES).reshape(n_chunks, 1, _N_FREQUENCIES)
        for parity, numbers in enumerate(parities):
            for odd in (0, 1):
                angle = 2 * np.pi / n_angles * ((q + odd) * numbers[:, None] % n_angles)
                parts = (np.sin(angle), np.cos(angle)) if odd else (np.cos(angle), -np.sin(angle))
                dft[odd, :, parity, :, : len(numbers)] = parts
        return cls(np.array(n_of_parity, np.uint64), dft.ravel())


@dataclass(frozen=True, eq=False)
class _CutBasis:
    """A basis in pieces of few terms of one frequency.

    Attributes
    ----------
    has_terms
        (Q/2 + 1,): whether there are any of a frequency.
    offset
        uint64, (Q/2 + 1,): where the series of each of those is kept.
    n_kept
        Complex numbers of the series that are kept.
    last_q
        The last frequency that there are terms of.
    pieces
        uint64, (n_pieces, 4): frequency, number of terms, first number in `rows`, first term.
    rows
        Of the basis, twice: (shells, terms) of each piece.
    """

    has_terms: np.ndarray
    offset: np.ndarray
    n_kept: int
    last_q: int
    pieces: np.ndarray
    rows: np.ndarray

    @classmethod
    def of_rows(cls, rows: np.ndarray, first_term: np.ndarray, half: int) -> _CutBasis:
        n_shells = rows.shape[1]
        has_terms = np.zeros(half + 1, bool)
        has_terms[: len(first_term) - 1] = np.diff(first_term) > 0
        n_rows = -(-n_shells // _N_PACKED) * _N_PACKED * has_terms
        pieces, parts, n_before = [], [], 0
        for q in np.flatnonzero(has_terms):
            terms = np.arange(first_term[q], first_term[q + 1])
            for few in np.array_split(terms, -(-len(terms) // _N_TERMS)):
                pieces.append([q, len(few), n_before, few[0]])
                # Twice, since half of the circle is summed
                parts.append(2 * rows[few].T.ravel())
                n_before += parts[-1].size
        return cls(
            has_terms=has_terms,
            offset=(np.cumsum(n_rows) - n_rows).astype(np.uint64),
            n_kept=int(n_rows.sum()),
            last_q=int(np.flatnonzero(has_terms)[-1]),
            pieces=np.array(pieces, np.uint64),
            rows=np.concatenate(parts).astype(np.float32),
        )


@runtime_checkable
class PolarPoints(Protocol):
    """Where polar images are known."""

    @property
    def radius_shells(self) -> np.ndarray:
        """Radius of each shell."""

    @property
    def theta_shell(self) -> np.ndarray:
        """Angles, equally spaced from 0, radians."""


class ImageTerms:
    """Computes terms of displaced images; several threads may share one.

    Images have to be transforms of real images, and CTFs equal at opposite angles: of both, only
    half of the circle is looked at.

    Parameters
    ----------
    basis
        Of the templates, on the innermost shells of the grid, or all.
    polar
        Grid of images and CTFs, with an even number of angles; such as a `PolarGrid`.
    box_size_A
        L, Å.
    n_frequencies
        Take the lowest angular frequencies only; all of the basis where it is not given.

    Raises
    ------
    UsageError
        Where the number of angles is odd, or the basis is none of this grid, or has no terms.
    """

    def __init__(
        self,
        basis: RadialBasis,
        polar: PolarPoints,
        box_size_A: float,
        *,
        n_frequencies: int | None = None,
    ) -> None:
        _check_basis(basis, polar)
        first_term = np.asarray(basis.first_term, np.int64)
        if n_frequencies is not None:
            first_term = first_term[: n_frequencies + 1]
        rows = basis.rows[: first_term[-1]].to(torch.float64).cpu().numpy()
        if not len(rows):
            msg = "the basis has no terms at these frequencies. Take more of them."
            raise UsageError(msg)
        self.n_terms = len(rows)
        self._grid = len(polar.radius_shells), len(polar.theta_shell)
        self._n_shells, self._half = rows.shape[1], self._grid[1] // 2
        self._circle = _HalfCircle.of_angles(self._grid[1])
        self._basis = _CutBasis.of_rows(rows, first_term, self._half)
        # Shells beyond the last are 0, so that vectors of several can be looked at together
        n_together = _N_PACKED * _N_SHELLS
        slope = np.zeros(-(-self._n_shells // n_together) * n_together)
        # Half turns for each Å
        slope[: self._n_shells] = 4 * polar.radius_shells[: self._n_shells] / box_size_A
        self._slope = np.stack(_high_and_low(slope), axis=1)[:, None]
        theta = polar.theta_shell[: self._half]
        self._direction = np.stack([np.cos(theta), np.sin(theta)])
        self._of_thread = threading.local()

    def __call__(
        self,
        image: Complex[np.ndarray, "n_shells n_inplanes"],
        ctf: Float[np.ndarray, "n_shells n_inplanes"],
        displacements_A: Float[np.ndarray, "n_displacements 2"],
        factor: np.float32 = _ONE,
    ) -> tuple[Float[np.ndarray, "n_blocks n_terms 16"], Float[np.ndarray, "n_blocks n_terms 16"]]:
        """Compute the terms of one image, in the calling thread.

        Parameters
        ----------
        image
            Its polar transform.
        ctf
            Its contrast transfer function.
        displacements_A
            δx and δy, Å.
        factor
            What to multiply the image by.

        Returns
        -------
        tuple of ndarray
            Real and imaginary parts, float32, sixteen displacements to a block. Lanes beyond the
            last displacement are 0.

        Raises
        ------
        UsageError
            Where arrays do not fit the grid or each other.
        """
        self._check(image.shape, ctf.shape, displacements_A.shape)
        out = aligned(2, -(-len(displacements_A) // N_LANES), self.n_terms, N_LANES)
        _fill_terms(
            as_compiled(image, np.complex64).view(np.float32),
            as_compiled(ctf, np.float32),
            factor,
            self.constants,
            as_compiled(displacements_A, np.float64),
            self.scratch(),
            out.ravel(),
        )
        return out[0], out[1]

    def _check(
        self, image: tuple[int, ...], ctf: tuple[int, ...], displacements: tuple[int, ...]
    ) -> None:
        if image != self._grid or ctf != self._grid:
            msg = (
                f"an image has shape {image} and its CTF {ctf}, but the grid has {self._grid[0]} "
                f"shells of {self._grid[1]} angles. Make all with the same descriptor."
            )
            raise UsageError(msg)
        if len(displacements) != 2 or displacements[0] == 0 or displacements[1] != 2:
            msg = f"displacements of an image have shape {displacements}. Give (n, 2), n ≥ 1."
            raise UsageError(msg)

    @cached_property
    def constants(self) -> tuple[Any, ...]:
        """What `fill_terms` takes."""
        basis = self._basis
        of_basis = (
            *(basis.last_q, basis.has_terms, basis.offset, self._n_shells),
            *(basis.pieces, basis.rows, self.n_terms),
        )
        circle = self._circle.dft, self._circle.n_of_parity
        return self._slope, self._direction, circle, of_basis

    def scratch(self) -> tuple[np.ndarray, ...]:
        """Memory that a thread uses again and again: new memory would cost more than the work."""
        held: tuple[np.ndarray, ...] | None = getattr(self._of_thread, "held", None)
        if held is None:
            n_half = int(self._circle.n_of_parity[0])
            n_rows = self._circle.dft.size // (8 * n_half)
            held = (
                aligned_zeros(len(self._slope), self._half, 2),
                aligned_zeros(2 * self._half * N_LANES),
                aligned_zeros((1 + _N_PACKED) * N_LANES),
                aligned_zeros(8 * n_half * _N_SHELLS * N_LANES),
                aligned_zeros(4 * n_rows * _N_SHELLS * N_LANES),
                aligned_zeros(2 * self._basis.n_kept * N_LANES),
            )
            self._of_thread.held = held
        return held


def _check_basis(basis: RadialBasis, polar: PolarPoints) -> None:
    grid = len(polar.radius_shells), len(polar.theta_shell)
    if grid[1] % 2:
        msg = f"n_inplanes is {grid[1]}, which leaves out opposite angles. Take an even number."
        raise UsageError(msg)
    n_frequencies, n_shells = len(basis.first_term) - 1, basis.rows.shape[1]
    if n_frequencies > grid[1] // 2 + 1 or n_shells > grid[0]:
        msg = (
            f"the basis has {n_frequencies} frequencies on {n_shells} shells, but images are on "
            f"{grid[0]} shells of {grid[1]} angles. Make both with the same descriptor."
        )
        raise UsageError(msg)
