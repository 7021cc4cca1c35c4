"""Grids of displacements: what they hold, and what each stands for."""

from __future__ import annotations

import numpy as np
import pytest

from cryolike.errors import UsageError
from cryolike.scoring.displacements import Displacements


def test_grid_has_its_ends_and_zero() -> None:
    """From −max to +max, and zero once."""
    grid = Displacements.grid(4, 9, 5, 2.5)
    assert len(grid) == 45
    assert (grid.x_A.min(), grid.x_A.max()) == (-10, 10)
    assert ((grid.x_A == 0) & (grid.y_A == 0)).sum() == 1
    np.testing.assert_allclose(grid.log_prior, -np.log(45))
    np.testing.assert_allclose(grid.step_A, [2.5, 5])


@pytest.mark.parametrize("n", [1, 0, -1])
def test_one_displacement_or_less_along_an_axis_is_zero(n: int) -> None:
    """As published."""
    grid = Displacements.grid(3, n, 3, 1.0)
    np.testing.assert_array_equal(grid.x_A, 0)
    assert len(grid) == 3
    assert grid.step_A[0] == 0


@pytest.mark.parametrize(("n_x", "n_y"), [(8, 8), (2, 2), (8, 9), (9, 2), (4, 1), (40, 2)])
def test_zero_is_added_and_each_displacement_stands_for_the_area_nearest_to_it(
    n_x: int, n_y: int
) -> None:
    """Areas from points thrown at random: those nearest to each displacement are counted."""
    grid = Displacements.grid(3, n_x, n_y, 2.0)
    assert len(grid) == n_x * n_y + 1
    assert (grid.x_A[-1], grid.y_A[-1]) == (0, 0)
    half = np.array([3 + 3 / (n_x - 1), 3 + 3 / (n_y - 1) if n_y > 1 else 0.0]) * 2
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200_000, 2)) * half
    if n_y == 1:  # a line has no width: what is nearest along it counts
        points[:, 1] = 0
    at = np.stack([grid.x_A, grid.y_A], axis=1)
    nearest = np.concatenate(
        [np.square(few[:, None] - at).sum(axis=2).argmin(axis=1) for few in np.split(points, 100)]
    )
    share = np.bincount(nearest, minlength=len(grid)) / len(points)
    np.testing.assert_allclose(np.exp(grid.log_prior), share, atol=5 * np.sqrt(share.max() / 2e5))


def test_gaussian_prior_falls_with_distance() -> None:
    """As a Gaussian does, and its probabilities sum to 1."""
    grid = Displacements.grid(2, 5, 5, 1.0, prior_sd_A=1.5)
    squared = grid.x_A**2 + grid.y_A**2
    np.testing.assert_allclose(grid.log_prior - grid.log_prior[12], -squared / (2 * 1.5**2))
    assert np.exp(grid.log_prior).sum() == pytest.approx(1)


@pytest.mark.parametrize(("max_px", "sd"), [(-1, None), (np.nan, None), (np.inf, None), (1, 0.0)])
def test_bad_numbers_are_refused(max_px: float, sd: float | None) -> None:
    """Negative or unbounded grids, and priors without width."""
    with pytest.raises(UsageError):
        Displacements.grid(max_px, 3, 3, 1.0, sd)
