"""Loops over pixels and polar points, compiled for the processor at hand.

Complex arrays come as real ones whose last axis alternates real and imaginary parts. Compiled code
is kept in numba's cache where there is a folder for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, cast, no_type_check

import numba
import numpy as np
import xxhash
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = [
    "KERNEL_WIDTH",
    "oscillate",
    "pad",
    "polar_images",
    "statistics",
]

KERNEL_WIDTH = {32: 8, 64: 16}
"""Points that the kernel spans, by bits of a real number: errors of 1.3e-6 and 1e-12.

Powers of two, so that a row of them fills vectors of the processor.
"""

_LINE_BYTES = 64
"""Memory that processors fetch and write at once."""

_U = np.uint64
"""Indices are unsigned, since numba would wrap signed ones, as Python does."""


@cache
def _digest_of_sources() -> str:
    """Identify the source of all compiled code: functions are compiled into each other."""
    package = Path(__file__).parents[1]
    texts = (path.read_bytes() for path in sorted(package.glob("*/*.py")))
    return xxhash.xxh3_128_hexdigest(b"".join(text for text in texts if b"numba" in text))


def _compiled(
    function: Callable[..., Any], fastmath: bool | set[str] = True, nogil: bool = True
) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the code where there is room for it.

    With `nogil` it runs without Python's lock, which costs more than some functions do.
    """
    compile_it = partial(numba.njit, nogil=nogil, fastmath=fastmath, error_model="numpy")
    try:
        run = compile_it(cache=True)(function)
        # Numba looks only at the file of the function itself for changes
        file_of_code = cast("Any", run)._cache._cache_file
        file_of_code._source_stamp = (file_of_code._source_stamp, _digest_of_sources())
    except (RuntimeError, AttributeError):  # no folder for it, or no way to tell what is outdated
        return cast("Callable[..., Any]", compile_it()(function))

    @wraps(function)
    def run_or_compile_anew(*arguments: Any) -> Any:
        nonlocal run
        try:
            return run(*arguments)
        except OSError:  # the folder is full; loops themselves have nothing to do with files
            run = compile_it()(function)
            return run(*arguments)

    return run_or_compile_anew


_inner = partial(numba.njit, nogil=True, fastmath=True, error_model="numpy")
"""For functions that only compiled functions call, and that are kept with those."""


@no_type_check
@intrinsic
def _interpolate_point(typing_context, grid, first, row_length, weight_y, weight_x, point):
    """Weighted sum of a square of complex numbers of a grid, as (real part, imaginary part).

    One row of the neighbourhood is one vector of the processor. LLVM does not find that by itself
    in loops: they took twice the time.
    """
    width = KERNEL_WIDTH[grid.dtype.bitwidth]
    n_lanes = 2 * width

    def generate(context, builder, signature, arguments):
        lane, index = context.get_value_type(grid.dtype), ir.IntType(64)
        vector, mask = ir.VectorType(lane, n_lanes), ir.VectorType(ir.IntType(32), n_lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        pointers = [
            context.make_helper(builder, signature.args[i], value=arguments[i]).data
            for i in (0, 3, 4)
        ]
        values, weights_y, weights_x = pointers
        _, offset, row, _, _, number = arguments

        def load(pointer, at):
            where = builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())
            return builder.load(where, align=context.get_abi_sizeof(lane))

        def spread(scalar):
            single = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
            return builder.shuffle_vector(single, undefined, ir.Constant(mask, [0] * n_lanes))

        def add(a, b):
            return builder.fadd(a, b, flags=("fast",))

        def multiply(a, b):
            return builder.fmul(a, b, flags=("fast",))

        def part(whole, start, length):
            chosen = ir.Constant(
                ir.VectorType(ir.IntType(32), length), list(range(start, start + length))
            )
            return builder.shuffle_vector(whole, whole, chosen)

        total = None
        first_weight = builder.mul(number, index(width))
        for j in range(width):
            weight = builder.load(builder.gep(weights_y, [builder.add(first_weight, index(j))]))
            term = multiply(spread(weight), load(values, offset))
            total = term if total is None else add(total, term)
            offset = builder.add(offset, row)
        total = multiply(total, load(weights_x, builder.mul(number, index(n_lanes))))
        length = n_lanes
        while length > 2:
            length //= 2
            total = add(part(total, 0, length), part(total, length, length))
        parts = [builder.extract_element(total, ir.IntType(32)(i)) for i in (0, 1)]
        return context.make_tuple(builder, signature.return_type, parts)

    signature = types.UniTuple(grid.dtype, 2)(grid, first, row_length, weight_y, weight_x, point)
    return signature, generate


@_compiled
@no_type_check
def statistics(images, mean, largest, span):
    """Find what images are normalised by.

    Parameters
    ----------
    images
        (n_images, N, N).
    mean, largest, span
        float64, (n_images,): get the mean, the largest absolute deviation from it, and the largest
        minus the smallest value. The mean is finite only where all pixels are; the others mean
        nothing elsewhere.
    """
    n = _U(images.shape[1])
    # Of each column: LLVM makes vectors of these, but not of a single sum and two extremes
    totals, lows, highs = np.empty(n), np.empty(n, images.dtype), np.empty(n, images.dtype)
    for image in range(images.shape[0]):
        totals[:] = lows[:] = highs[:] = images[image, 0]
        for y in range(_U(1), n):
            line = images[image, y]
            for x in range(n):
                totals[x] += np.float64(line[x])
                lows[x] = min(lows[x], line[x])
                highs[x] = max(highs[x], line[x])
        centre, low, high = totals.sum() / (n * n), np.float64(lows.min()), np.float64(highs.max())
        mean[image] = centre
        largest[image] = max(high - centre, centre - low)
        span[image] = high - low


@_compiled
@no_type_check
def pad(images, centre, factor, weight, padded):
    """Weight images and put their quadrants into the corners of larger ones.

    Parameters
    ----------
    images
        (n_images, N, N).
    centre, factor
        float64, (n_images,): images are normalised to (image − centre) · factor first; None for
        both to leave them as they are.
    weight
        (N, N): they are multiplied by it.
    padded
        (n_images, S, S): gets the result, the origin pixel floor(N/2) at [0, 0]. What is between
        the quadrants stays as it is.
    """
    n, side = _U(images.shape[1]), _U(padded.shape[1])
    origin = n // _U(2)
    for image in range(images.shape[0]):
        for y in range(n):
            line = padded[image, y - origin if y >= origin else y + side - origin]
            for part in range(2):
                half = slice(origin, n) if part else slice(_U(0), origin)
                source, of_pixel = images[image, y, half], weight[y, half]
                target = line[: n - origin] if part else line[side - origin :]
                for x in range(_U(source.size)):
                    value = source[x]
                    if centre is not None:
                        # In double precision: a mean far above the contrast must not be rounded
                        normalised = (np.float64(value) - centre[image]) * factor[image]
                        value = padded.dtype.type(normalised)
                    target[x] = value * of_pixel[x]


@_inner
@no_type_check
def _fill_margins(half, row_direct, row_conjugate, column, margin, grid):
    """Copy half transforms of real images, and what lies around the half, to larger grids.

    Parameters
    ----------
    half
        (n_images, S, S/2 + 1 complex numbers).
    row_direct, row_conjugate, column
        `PolarPoints.sources`.
    margin
        Columns at either end that are read as conjugates.
    grid
        (n_images, *`PolarPoints.shape` complex numbers): gets the result.
    """
    n_columns, length = column.size, _U(half.shape[2])
    for image in range(half.shape[0]):
        for y in range(row_direct.size):
            direct, opposite = half[image, row_direct[y]], half[image, row_conjugate[y]]
            line = grid[image, y]
            middle = line[2 * margin : 2 * margin + half.shape[2]]
            for x in range(length):
                middle[x] = direct[x]
            for x in range(margin):
                for end in (x, n_columns - 1 - x):
                    line[2 * end] = opposite[2 * column[end]]
                    line[2 * end + 1] = -opposite[2 * column[end] + 1]


@_inner
@no_type_check
def _interpolate(grid, first, weight_y, weight_x, sign, shell_weight, out, power):
    """Interpolate grids at polar points, and integrate |F|² while it is at hand.

    Parameters
    ----------
    grid
        (n_images, rows, complex numbers of a row).
    first
        uint32, (n_points,): where the numbers near a point begin in the grid of an image, counted
        in real numbers.
    weight_y, weight_x
        (n_points, width) and (n_points, 2 width): the latter for each real and imaginary part.
    sign
        For each angle −1 where the conjugate is asked for, else +1.
    shell_weight
        float64, (n_shells,): weight of a point in an integral; None where none is wanted.
    out
        (n_images, n_shells, as many complex numbers as angles): gets the result.
    power
        float64, (n_images,): the integrals are added to it.
    """
    row_length = _U(grid.shape[2])
    image_length = _U(grid.shape[1] * grid.shape[2])
    flat_grid, flat_y, flat_x = grid.ravel(), weight_y.ravel(), weight_x.ravel()
    n_angles = _U(sign.size)
    for shell in range(_U(out.shape[1])):
        for image in range(_U(out.shape[0])):
            line = out[image, shell]
            for angle in range(n_angles):
                point = shell * n_angles + angle
                start = _U(first[point]) + image * image_length
                real, imaginary = _interpolate_point(
                    flat_grid, start, row_length, flat_y, flat_x, point
                )
                line[_U(2) * angle] = real
                line[_U(2) * angle + _U(1)] = imaginary * sign[angle]
            if shell_weight is not None:
                of_shell = out.dtype.type(0)
                for i in range(_U(line.size)):
                    of_shell += line[i] * line[i]
                power[image] += shell_weight[shell] * of_shell


@no_type_check
@intrinsic
def _stream(typing_context, target, at, source, start, even, odd):
    """Write one line of memory past the caches: numbers of a source times `even` and `odd` in turn.

    Where a result is larger than the caches, fetching its memory before writing to it would take
    as long as writing.
    """
    n_lanes = _LINE_BYTES * 8 // target.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        lane, index = context.get_value_type(target.dtype), ir.IntType(32)
        vector = ir.VectorType(lane, n_lanes)

        def line(which, offset):
            array = context.make_helper(builder, signature.args[which], value=arguments[which])
            return builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())

        factors = ir.Constant(vector, ir.Undefined)
        for i in range(n_lanes):
            factors = builder.insert_element(factors, arguments[4 + i % 2], index(i))
        values = builder.load(line(2, arguments[3]), align=context.get_abi_sizeof(lane))
        written = builder.store(
            builder.fmul(values, factors), line(0, arguments[1]), align=_LINE_BYTES
        )
        written.set_metadata("nontemporal", builder.module.add_metadata([index(1)]))
        return context.get_dummy_value()

    return types.void(target, at, source, start, even, odd), generate


@no_type_check
@intrinsic
def _wait_for_streams(typing_context):
    """Make what was written past the caches visible to other threads."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@partial(_inner, inline="always")
@no_type_check
def _write(source, start, n, even, odd, target, at):
    """Write `n` numbers from `start` on, times `even` and `odd` in turn, past the caches."""
    n_lanes = _U(_LINE_BYTES // target.itemsize)
    if (target.ctypes.data + at * target.itemsize) % _LINE_BYTES == 0 and n % n_lanes == 0:
        for i in range(_U(0), n, n_lanes):
            _stream(target, at + i, source, start + i, even, odd)
    else:
        for i in range(n):
            target[at + i] = source[start + i] * (odd if i & _U(1) else even)


@_inner
@no_type_check
def _fill_circle(half, power, out):
    """Divide polar images by their norms, and fill in the other half of the circle.

    Parameters
    ----------
    half
        (n_images, n_shells, complex numbers of a shell).
    power
        float64, (n_images,): squares of the norms.
    out
        (n_images, n_shells, as many complex numbers, or twice as many: then the second half is
        conjugate to the first); gets the result.
    """
    n, n_ends = _U(half.shape[2]), out.shape[2] // half.shape[2]
    source, start, target, at = half.ravel(), _U(0), out.ravel(), _U(0)
    for image in range(half.shape[0]):
        factor = half.dtype.type(1 / np.sqrt(power[image]))
        for _ in range(half.shape[1]):
            odd = factor
            for _ in range(n_ends):
                _write(source, start, n, factor, odd, target, at)
                at, odd = at + n, -odd
            start += n


@_compiled
@no_type_check
def polar_images(half, sources, margin, grid, table, shell_weight, polar, power, out):
    """Make polar images of half transforms of padded images.

    Parameters
    ----------
    half
        (n_images, S, S/2 + 1 complex numbers).
    sources, margin
        As for `PolarPoints`.
    grid
        (n_at_once, *`PolarPoints.shape` complex numbers): to work in.
    table
        Of each point, or angle, what `_interpolate` takes.
    shell_weight
        float64, (n_shells,), weight of a point in an integral, to divide polar images by their
        norms; None to leave them as they are.
    polar
        (n_at_once, n_shells, complex numbers of the angles of `table`): to work in.
    power
        float64, (n_images,): gets the squares of the norms where images are divided by them.
    out
        (n_images, n_shells, complex numbers of a shell): gets the result.
    """
    for start in range(0, half.shape[0], grid.shape[0]):
        stop = min(start + grid.shape[0], half.shape[0])
        few, power_of_few = half[start:stop], power[start:stop]
        near, found = grid[: stop - start], polar[: stop - start]
        _fill_margins(few, *sources, margin, near)
        power_of_few[:] = 1 if shell_weight is None else 0
        _interpolate(near, *table, shell_weight, found, power_of_few)
        _fill_circle(found, power_of_few, out[start:stop])
    _wait_for_streams()


_SINE = tuple(
    np.float32((-1) ** k * (2 * np.pi) ** (2 * k + 1) / math.factorial(2 * k + 1)) for k in range(7)
)
"""Taylor's coefficients of sin 2πx; up to a quarter turn what they leave out is below 1e-9."""


@_compiled
@no_type_check
def oscillate(phase, slope, swing, envelope, out):
    """Compute −sin(2π (phase + slope · swing)) · envelope in single precision.

    Libraries take several times as long: they reduce each angle with more care than turns need.

    Parameters
    ----------
    phase, envelope
        (n_images, n_shells); phases in turns, float64.
    slope
        (n_shells,).
    swing
        Turns, float64, (n_images, n_angles).
    out
        float32, contiguous, (n_images, n_shells, any multiple of n_angles): gets the result, and
        repeats it.
    """
    n, n_ends = _U(swing.shape[1]), out.shape[2] // swing.shape[1]
    values, target, at = np.empty(n, out.dtype), out.ravel(), _U(0)
    for image in range(out.shape[0]):
        of_angle = swing[image]
        for shell in range(out.shape[1]):
            # −sin 2πt = sin 2πx, where x + 1/4 is how far t − 1/4 is from a whole number
            start, factor = phase[image, shell] - 0.25, slope[shell]
            for i in range(n):
                turns = start + factor * of_angle[i]
                values[i] = turns - np.rint(turns)
            # Loops of their own for double and single precision use whole vectors of each
            for i in range(n):
                x = abs(values[i]) - np.float32(0.25)
                y = x * x
                sine = _SINE[5] + y * _SINE[6]
                sine = _SINE[3] + y * (_SINE[4] + y * sine)
                values[i] = x * (_SINE[0] + y * (_SINE[1] + y * (_SINE[2] + y * sine)))
            height = np.float32(envelope[image, shell])
            for _ in range(n_ends):
                _write(values, _U(0), n, height, height, target, at)
                at += n
    _wait_for_streams()
