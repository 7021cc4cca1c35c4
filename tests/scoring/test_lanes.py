"""Transforms of sixteen sequences at once, against NumPy's in double precision."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from cryolike.scoring.lanes import (
    LanePlan,
    RealLanePlan,
    addresses,
    aligned_zeros,
    lane_ifft,
    lane_irfft,
)
from cryolike.scoring.vectors import N_LANES

LENGTHS = (*range(1, 65), 96, 97, 114, 121, 128, 180, 192, 200, 256, 360, 720)
TOLERANCE = 1e-6
"""Of the root of the mean square."""


@numba.njit
def _complex(source, target, spare, plan):  # type: ignore[no-untyped-def]
    lane_ifft(source, target, spare, plan)


@numba.njit
def _real(half, target, spare, plan):  # type: ignore[no-untyped-def]
    lane_irfft(half, target, spare, plan)


def random_rows(n_rows: int, seed: int) -> np.ndarray:
    """Fill rows of lanes with random numbers."""
    rows = aligned_zeros(n_rows, N_LANES)
    rows[:] = np.random.default_rng(seed).standard_normal(rows.shape)
    return rows


def as_complex(rows: np.ndarray) -> np.ndarray:
    """Read rows of real and imaginary parts in turn."""
    pairs = rows.astype(np.float64).reshape(-1, 2, N_LANES)
    return np.asarray(pairs[:, 0] + 1j * pairs[:, 1])


def root_mean_square(values: np.ndarray) -> float:
    """√⟨|x|²⟩."""
    return float(np.sqrt(np.mean(np.abs(values) ** 2)))


@pytest.mark.parametrize("n", LENGTHS)
def test_complex_transforms_are_those_of_numpy(n: int) -> None:
    """Each lane holds n times NumPy's inverse transform of it, and the source is left alone."""
    source, target, spare = (random_rows(2 * n, seed) for seed in range(3))
    before, plan = source.copy(), LanePlan.of_length(n)
    _complex(*addresses(source, target, spare), plan.compiled)
    expected = np.fft.ifft(as_complex(source), axis=0) * n
    error = np.abs(as_complex(target) - expected).max()
    assert error < TOLERANCE * root_mean_square(expected)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("n", LENGTHS)
def test_real_transforms_are_those_of_numpy(n: int) -> None:
    """Imaginary parts at frequency 0 and at half the sampling do not count."""
    plan = RealLanePlan.of_length(n)
    half, target, spare = (random_rows(plan.n_rows, seed) for seed in range(3))
    expected = np.fft.irfft(as_complex(half[: 2 * (n // 2 + 1)]), n, axis=0) * n
    _real(*addresses(half, target, spare), plan.compiled)
    error = np.abs(target[:n] - expected).max()
    assert error < TOLERANCE * root_mean_square(expected)


@pytest.mark.parametrize("n", [6, 15, 16])
def test_nothing_beyond_the_sequences_is_written(n: int) -> None:
    """A row of another owner right after each array stays what it was."""
    plan = RealLanePlan.of_length(n)
    arrays = [random_rows(plan.n_rows + 1, seed) for seed in range(3)]
    last = [rows[-1].copy() for rows in arrays]
    _real(*addresses(*arrays), plan.compiled)
    for rows, expected in zip(arrays, last, strict=True):
        np.testing.assert_array_equal(rows[-1], expected)


def test_arrays_begin_at_the_width_of_a_vector() -> None:
    """However many numbers they have."""
    arrays = [aligned_zeros(3, size) for size in range(1, 40)]
    assert {rows.ctypes.data % (4 * N_LANES) for rows in arrays} == {0}
    assert all(not rows.any() and rows.flags.c_contiguous for rows in arrays)


def test_only_contiguous_arrays_have_an_address() -> None:
    """Compiled code would read what lies between the numbers."""
    with pytest.raises(ValueError, match="in a row"):
        addresses(np.zeros((4, 4))[:, ::2])
