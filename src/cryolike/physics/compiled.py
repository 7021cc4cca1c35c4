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
    "fill_margins",
    "interpolate",
    "normalise",
    "oscillate",
    "pad",
    "scale_to_unit_power",
]

KERNEL_WIDTH = {32: 8, 64: 16}
"""Points that the kernel spans, by bits of a real number: errors of 1.3e-6 and 1e-12.

Powers of two, so that a row of them fills vectors of the processor.
"""

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
def normalise(images, sign, normalised, mean, largest, span):
    """Subtract means and divide by the largest absolute values.

    Parameters
    ----------
    images
        (n_images, N, N).
    sign
        +1 or −1 for each image, which it is multiplied by first.
    normalised
        Gets the result.
    mean, largest, span
        float64, (n_images,): get the mean, what was divided by, and the largest minus the smallest
        value. The mean is finite only where all pixels are; the others mean nothing elsewhere.
    """
    n = images.shape[1]
    for image in range(images.shape[0]):
        pixels, result = images[image], normalised[image]
        total = 0.0
        low = high = pixels[0, 0]
        for y in range(n):
            for x in range(n):
                value = pixels[y, x]
                total += np.float64(value)
                low, high = min(low, value), max(high, value)
        centre = total / (n * n)
        mean[image] = sign[image] * centre
        largest[image] = max(high - centre, centre - low)
        span[image] = np.float64(high) - np.float64(low)
        factor = sign[image] / largest[image]
        for y in range(n):
            for x in range(n):
                # In double precision: a mean far above the contrast must not be rounded
                result[y, x] = (np.float64(pixels[y, x]) - centre) * factor


@_compiled
@no_type_check
def pad(images, weight, padded):
    """Weight images and put their quadrants into the corners of larger ones.

    Parameters
    ----------
    images
        (n_images, N, N).
    weight
        (N, N): they are multiplied by it.
    padded
        (n_images, S, S): gets the result, the origin pixel floor(N/2) at [0, 0], and zeros between
        the quadrants.
    """
    n, side = _U(images.shape[1]), _U(padded.shape[1])
    origin = n // _U(2)
    end = n - origin
    for image in range(images.shape[0]):
        for y in range(n):
            source, factor = images[image, y], weight[y]
            line = padded[image, y - origin if y >= origin else y + side - origin]
            for x in range(end):
                line[x] = source[origin + x] * factor[origin + x]
            for x in range(end, side - origin):
                line[x] = 0
            for x in range(origin):
                line[side - origin + x] = source[x] * factor[x]
        for y in range(end, side - origin):
            padded[image, y] = 0


@_compiled
@no_type_check
def fill_margins(half, row_direct, row_conjugate, column, margin, grid):
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


@_compiled
@no_type_check
def interpolate(grid, first, weight_y, weight_x, sign, has_opposites, out):
    """Interpolate grids at polar points.

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
    has_opposites
        Whether there are twice as many angles in `out`, the second half conjugate to the first.
    out
        (n_images, n_shells, complex numbers of a shell): gets the result.
    """
    row_length = _U(grid.shape[2])
    image_length = _U(grid.shape[1] * grid.shape[2])
    flat_grid, flat_y, flat_x = grid.ravel(), weight_y.ravel(), weight_x.ravel()
    n_angles = sign.size
    for shell in range(out.shape[1]):
        for image in range(out.shape[0]):
            line = out[image, shell]
            for angle in range(n_angles):
                point = _U(shell * n_angles + angle)
                start = _U(first[point]) + _U(image) * image_length
                real, imaginary = _interpolate_point(
                    flat_grid, start, row_length, flat_y, flat_x, point
                )
                imaginary *= sign[angle]
                line[2 * angle] = real
                line[2 * angle + 1] = imaginary
                if has_opposites:
                    line[2 * (n_angles + angle)] = real
                    line[2 * (n_angles + angle) + 1] = -imaginary


@_compiled
@no_type_check
def scale_to_unit_power(polar_images, n_angles, has_opposites, shell_weight, power):
    """Divide polar images by their norms.

    Parameters
    ----------
    polar_images
        (n_images, n_shells, complex numbers of a shell): scaled in place.
    n_angles
        Angles that are there.
    has_opposites
        Whether as many follow, to be filled with the conjugates.
    shell_weight
        float64, (n_shells,): weight of a point in an integral.
    power
        float64, (n_images,): gets the integrals of |F|² before.
    """
    n_angles = _U(n_angles)
    for image in range(polar_images.shape[0]):
        total = 0.0
        for shell in range(shell_weight.size):
            line = polar_images[image, shell]
            of_shell = line[0] * line[0]
            for i in range(_U(1), _U(2) * n_angles):
                of_shell += line[i] * line[i]
            total += shell_weight[shell] * of_shell
        power[image] = 2 * total if has_opposites else total
        factor = polar_images.dtype.type(1 / np.sqrt(power[image]))
        for shell in range(shell_weight.size):
            line = polar_images[image, shell]
            for i in range(_U(2) * n_angles):
                line[i] *= factor
            if has_opposites:
                opposite = line[2 * n_angles :]
                for i in range(n_angles):
                    opposite[_U(2) * i] = line[_U(2) * i]
                    opposite[_U(2) * i + _U(1)] = -line[_U(2) * i + _U(1)]


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
        float32, (n_images, n_shells, any multiple of n_angles): gets the result, and repeats it.
    """
    n_angles = _U(swing.shape[1])
    for image in range(out.shape[0]):
        of_angle = swing[image]
        for shell in range(out.shape[1]):
            line = out[image, shell]
            # −sin 2πt = sin 2πx, where x + 1/4 is how far t − 1/4 is from a whole number
            start, factor = phase[image, shell] - 0.25, slope[shell]
            height = np.float32(envelope[image, shell])
            for angle in range(n_angles):
                turns = start + factor * of_angle[angle]
                x = np.float32(abs(turns - np.floor(turns + 0.5)) - 0.25)
                y = x * x
                sine = _SINE[5] + y * _SINE[6]
                sine = _SINE[3] + y * (_SINE[4] + y * sine)
                sine = x * (_SINE[0] + y * (_SINE[1] + y * (_SINE[2] + y * sine)))
                line[angle] = height * sine
            for angle in range(n_angles, _U(line.size)):
                line[angle] = line[angle - n_angles]
