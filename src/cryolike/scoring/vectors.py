"""A type of sixteen single-precision numbers, for compiled loops over independent lanes.

LLVM finds such vectors in plain loops only where nothing else is in the way; here they are
explicit, and where the processor's are shorter, LLVM splits them. Only compiled functions can call
these.
"""

from __future__ import annotations

import operator
from typing import no_type_check

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "HAS_WIDE_REGISTERS",
    "LANES",
    "N_LANES",
    "absolute",
    "address",
    "any_greater",
    "first_lane",
    "inline",
    "larger",
    "largest_lane",
    "load",
    "number",
    "power_of_two",
    "smaller",
    "split_exponent",
    "spread",
    "store",
    "sum_of_lanes",
    "sums_of_products",
    "whole_number",
]

N_LANES = 16
"""As many as fill a vector of AVX-512."""

HAS_WIDE_REGISTERS = "avx512f" in {
    name for name, there in llvmlite.binding.get_host_cpu_features().items() if there
}
"""Whether a vector fits into one register, of which there are then 32."""

inline = numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
"""For functions that only compiled functions call, and that are kept with those."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, N_LANES), ir.VectorType(_INT, N_LANES)
_FLAGS = ("contract", "nsz")
"""Products may be fused with sums; nothing else changes what single precision gives."""


class _LanesType(types.Type):
    """Numba's name for a vector of `N_LANES` float32."""


LANES = _LanesType(name=f"Lanes{N_LANES}")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    """How LLVM sees it."""

    @no_type_check
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _FLOATS)


@no_type_check
def _of_two(numba_operator, method):
    """Make an operator of Python work on two vectors."""

    @infer_global(numba_operator)
    class _Template(AbstractTemplate):
        def generic(self, arguments, keywords):
            both = len(arguments) == 2 and all(isinstance(a, _LanesType) for a in arguments)
            return signature(LANES, LANES, LANES) if both and not keywords else None

    @lower_builtin(numba_operator, LANES, LANES)
    def _lower(context, builder, signature, arguments):
        return getattr(builder, method)(*arguments, flags=_FLAGS)


for _operator, _method in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _of_two(_operator, _method)


def _constant(number: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [number] * N_LANES)


def _whole(number: int) -> ir.Constant:
    return ir.Constant(_INTS, [number] * N_LANES)


@no_type_check
def _place(kind):
    """Arrays as they are, whole numbers as addresses."""
    return kind if isinstance(kind, types.Array) else types.uint64


@no_type_check
def _pointer(context, builder, kind, place, element):
    """Pointer to what lies at an address, or to the data of an array."""
    if isinstance(kind, types.Array):
        place = context.make_helper(builder, kind, value=place).data
        return builder.bitcast(place, element.as_pointer())
    return builder.inttoptr(place, element.as_pointer())


@no_type_check
def _row_pointer(context, builder, kind, place, row):
    """Pointer to a row of `N_LANES` numbers."""
    return builder.gep(_pointer(context, builder, kind, place, _FLOATS), [row])


@no_type_check
@intrinsic
def address(typing_context, array):
    """Where the data of an array begin, uint64.

    Whoever passes addresses instead of arrays must keep the arrays; in return nobody counts
    references, which takes longer than what some functions do.
    """

    def generate(context, builder, signature, arguments):
        data = context.make_helper(builder, signature.args[0], value=arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.uint64(array), generate


@no_type_check
@intrinsic
def load(typing_context, place, row):
    """Numbers 16 row to 16 row + 15 of a contiguous float32 array (n,), or at its address."""

    def generate(context, builder, signature, arguments):
        pointer = _row_pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=4)

    return LANES(_place(place), types.uint64), generate


@no_type_check
@intrinsic
def store(typing_context, place, row, value):
    """Write a vector to where `load` reads it."""

    def generate(context, builder, signature, arguments):
        *where, value = arguments
        builder.store(value, _row_pointer(context, builder, signature.args[0], *where), align=4)
        return context.get_dummy_value()

    return types.void(_place(place), types.uint64, LANES), generate


@no_type_check
@intrinsic
def number(typing_context, place, index):
    """One number at the address of a contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, types.uint64, arguments[0], _FLOAT)
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.float32(types.uint64, types.uint64), generate


@no_type_check
@intrinsic
def whole_number(typing_context, place, index):
    """One number at the address of a contiguous int64 array, as uint64."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, types.uint64, arguments[0], ir.IntType(64))
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.uint64(types.uint64, types.uint64), generate


@no_type_check
@intrinsic
def spread(typing_context, number):
    """Put one number into every lane."""

    def generate(context, builder, signature, arguments):
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        single = builder.insert_element(undefined, arguments[0], _INT(0))
        return builder.shuffle_vector(single, undefined, _whole(0))

    return LANES(types.float32), generate


@no_type_check
@intrinsic
def absolute(typing_context, a):
    """Absolute value of each lane."""

    def generate(context, builder, signature, arguments):
        bits = builder.and_(builder.bitcast(arguments[0], _INTS), _whole(0x7FFFFFFF))
        return builder.bitcast(bits, _FLOATS)

    return LANES(LANES), generate


@no_type_check
@intrinsic
def larger(typing_context, a, b):
    """Find the larger of two, lane by lane, b where one is not a number."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return LANES(LANES, LANES), generate


@no_type_check
@intrinsic
def smaller(typing_context, a, b):
    """Find the smaller of two, lane by lane, b where one is not a number."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        return builder.select(builder.fcmp_ordered("<", a, b), a, b)

    return LANES(LANES, LANES), generate


@no_type_check
@intrinsic
def any_greater(typing_context, a, b):
    """Whether a > b in some lane."""

    def generate(context, builder, signature, arguments):
        greater = builder.fcmp_ordered(">", *arguments)
        mask = ir.IntType(N_LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(greater, mask), mask(0))

    return types.boolean(LANES, LANES), generate


@no_type_check
def _halved(builder, vector, join):
    """Join the two halves of a vector until one number is left."""
    length = N_LANES
    while length > 1:
        length //= 2
        kind = ir.VectorType(_INT, length)
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(kind, list(range(i, i + length))))
            for i in (0, length)
        )
        vector = join(low, high)
    return builder.extract_element(vector, _INT(0))


@no_type_check
@intrinsic
def largest_lane(typing_context, a):
    """Find the largest number of the lanes."""

    def generate(context, builder, signature, arguments):
        def join(low, high):
            return builder.select(builder.fcmp_ordered(">", low, high), low, high)

        return _halved(builder, arguments[0], join)

    return types.float32(LANES), generate


@no_type_check
@intrinsic
def sum_of_lanes(typing_context, a):
    """Sum the lanes."""

    def generate(context, builder, signature, arguments):
        def join(low, high):
            return builder.fadd(low, high, flags=_FLAGS)

        return _halved(builder, arguments[0], join)

    return types.float32(LANES), generate


@no_type_check
@intrinsic
def first_lane(typing_context, a, b):
    """Find the first lane where a ≥ b, `N_LANES` where there is none."""

    def generate(context, builder, signature, arguments):
        mask = builder.bitcast(builder.fcmp_ordered(">=", *arguments), ir.IntType(N_LANES))
        zeros = builder.cttz(mask, ir.IntType(1)(0))
        return builder.zext(zeros, ir.IntType(64))

    return types.uint64(LANES, LANES), generate


@no_type_check
@intrinsic
def split_exponent(typing_context, a):
    """Find e with a·2^-e in [√½, √2), as (2^-e, e); a is positive and normal."""

    def generate(context, builder, signature, arguments):
        bits = builder.sub(builder.bitcast(arguments[0], _INTS), _whole(0x3F3504F3))
        exponent = builder.ashr(bits, _whole(23))
        scale = builder.shl(builder.sub(_whole(127), exponent), _whole(23))
        parts = [builder.bitcast(scale, _FLOATS), builder.sitofp(exponent, _FLOATS)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(LANES, 2)(LANES), generate


@no_type_check
@intrinsic
def power_of_two(typing_context, a):
    """Round to whole numbers n, as (2^n, n); a is between −126 and 127."""

    def generate(context, builder, signature, arguments):
        # Where a number is this large, its last bit counts ones
        large = _constant(1.5 * 2**23)
        shifted = builder.fadd(arguments[0], large)
        whole = builder.fsub(shifted, large)
        bits = builder.shl(builder.bitcast(shifted, _INTS), _whole(23))
        power = builder.bitcast(builder.add(bits, _whole(127 << 23)), _FLOATS)
        return context.make_tuple(builder, signature.return_type, [power, whole])

    return types.UniTuple(LANES, 2)(LANES), generate


@no_type_check
def _broadcast(builder, pointer, index):
    """One number of an array in every lane."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    number = builder.load(builder.gep(pointer, [index]))
    single = builder.insert_element(undefined, number, _INT(0))
    return builder.shuffle_vector(single, undefined, _whole(0))


@no_type_check
def _add_product(builder, sums, y, x):
    """(re, im) + y · conj(x), each of these (re, im) too."""
    (re, im), (y_re, y_im), (x_re, x_im) = sums, y, x

    def times(a, b):
        return builder.fmul(a, b, flags=_FLAGS)

    re = builder.fadd(re, times(x_re, y_re), flags=_FLAGS)
    im = builder.fadd(im, times(x_re, y_im), flags=_FLAGS)
    re = builder.fadd(re, times(x_im, y_im), flags=_FLAGS)
    return re, builder.fsub(im, times(x_im, y_re), flags=_FLAGS)


@no_type_check
def sums_of_products(n_blocks, n_numbers):
    """Make functions that sum products of complex vectors and numbers in registers.

    Parameters
    ----------
    n_blocks, n_numbers
        Each of so many vectors is multiplied by each of so many numbers.

    Returns
    -------
    tuple
        `zeros()` gives the sums at first. `add(sums, vectors, rows, numbers, places, term)` adds
        y·conj(x) to them: `vectors` and `numbers` are addresses of the real and of the imaginary
        parts; y lies at `term` rows after each of the `rows`, x at `term` after each of the
        `places`. `keep(sums, place, row, step)` stores real and imaginary parts in two rows, each
        pair `step` rows after the one before, those of a vector in a row.
    """
    sums_type = types.UniTuple(LANES, 2 * n_blocks * n_numbers)

    @no_type_check
    @intrinsic
    def zeros(typing_context):
        def generate(context, builder, signature, arguments):
            return context.make_tuple(builder, sums_type, [_constant(0.0)] * len(sums_type))

        return sums_type(), generate

    @no_type_check
    @intrinsic
    def add(typing_context, sums, vectors, rows, numbers, places, term):
        def generate(context, builder, signature, arguments):
            sums, vectors, rows, numbers, places, term = arguments

            y = []
            for block in range(n_blocks):
                row = builder.add(builder.extract_value(rows, block), term)
                pointers = [
                    _row_pointer(
                        context, builder, types.uint64, builder.extract_value(vectors, i), row
                    )
                    for i in (0, 1)
                ]
                y.append([builder.load(pointer, align=4) for pointer in pointers])
            data = [
                _pointer(context, builder, types.uint64, builder.extract_value(numbers, i), _FLOAT)
                for i in (0, 1)
            ]
            found = [builder.extract_value(sums, i) for i in range(len(sums_type))]
            for number in range(n_numbers):
                place = builder.add(builder.extract_value(places, number), term)
                x = [_broadcast(builder, pointer, place) for pointer in data]
                for block in range(n_blocks):
                    at = 2 * (block * n_numbers + number)
                    found[at : at + 2] = _add_product(builder, found[at : at + 2], y[block], x)
            return context.make_tuple(builder, sums_type, found)

        return sums_type(sums_type, vectors, rows, numbers, places, types.uint64), generate

    @no_type_check
    @intrinsic
    def keep(typing_context, sums, place, row, step):
        def generate(context, builder, signature, arguments):
            sums, place, row, step = arguments
            for i in range(len(sums_type)):
                where = builder.add(row, ir.Constant(row.type, i % 2))
                pointer = _row_pointer(context, builder, types.uint64, place, where)
                builder.store(builder.extract_value(sums, i), pointer, align=4)
                row = builder.add(row, step) if i % 2 else row
            return context.get_dummy_value()

        return types.void(sums_type, types.uint64, types.uint64, types.uint64), generate

    return zeros, add, keep
