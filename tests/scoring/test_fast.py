"""Parts of the fast search by themselves; test_search.py compares all of it with the exact one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.fast import _CoarseDisplacements, _CoarseViews, _gain, _lower, _thinned

EXPONENT = 400.0
gain, lower = _gain.py_func, _lower.py_func


@pytest.mark.parametrize("x", [0.3, 0.05, 0.9])
@pytest.mark.parametrize("nats", [0.5, 4.0, 10.0])
def test_lower_correlations_lack_so_many_nats(x: float, nats: float) -> None:
    """Those of the likelihood (1 − x²)^−p; 0 where none lacks as many."""
    found = lower(x, nats, EXPONENT)
    of_x = -EXPONENT * math.log(1 - x * x)
    if of_x < nats:
        assert found == 0
    else:
        assert -EXPONENT * math.log(1 - found * found) == pytest.approx(of_x - nats, abs=1e-9)
        assert gain(found, EXPONENT) == pytest.approx(of_x - nats, abs=1e-9)


def test_correlations_out_of_range_have_likelihoods() -> None:
    """Rounding may take them beyond 1, and images of the opposite contrast below 0."""
    assert lower(-0.2, 4.0, EXPONENT) == gain(-0.2, EXPONENT) == 0
    assert lower(1.0001, 4.0, EXPONENT) == lower(1.0, 4.0, EXPONENT) < 1
    assert math.isfinite(gain(1.0001, EXPONENT))


@pytest.mark.parametrize(
    ("step_A", "n_coarse"), [(100.0, 1), (10.0, 16), (5.0, 64), (4.9, 81), (20.0, 4)]
)
def test_cells_hold_all_displacements(step_A: float, n_coarse: int) -> None:
    """None is farther from the middle of a cell than half a step along an axis."""
    fine = Displacements.grid(4, 9, 9, 5.0)
    delta_A = np.stack([fine.x_A, fine.y_A], axis=1)
    coarse = _CoarseDisplacements.of_displacements(delta_A, step_A)
    assert len(coarse.delta_A) == n_coarse
    distance = np.abs(coarse.delta_A[:, None] - delta_A).max(axis=2)
    assert distance.min(axis=0).max() <= min(step_A, 40.0) / 2 + 1e-9
    nearest = distance.argmin(axis=0)
    assert coarse.is_near[nearest, np.arange(len(delta_A))].all()


def test_cells_of_displacements_on_a_line() -> None:
    """Along the other axis there is one; a zero that the grid lacks is in a cell, too."""
    fine = Displacements.grid(3, 4, 1, 5.0)
    delta_A = np.stack([fine.x_A, fine.y_A], axis=1)
    assert len(delta_A) == 5, "a zero was added"
    coarse = _CoarseDisplacements.of_displacements(delta_A, 10.0)
    np.testing.assert_allclose(coarse.delta_A, [[-10, 0], [0, 0], [10, 0]], atol=1e-9)
    assert coarse.is_near.any(axis=0).all()


def test_one_displacement_is_a_cell() -> None:
    """Where there is no range to divide."""
    middles, step = _thinned(np.array([7.0]), 3.0)
    np.testing.assert_array_equal(middles, [7.0])
    assert step == 0


@pytest.mark.parametrize("spacing_rad", [0.08, 0.5, 1.5])
def test_cells_hold_all_views(spacing_rad: float) -> None:
    """Each view belongs to a cell, and the cells' weights are those of all views."""
    views = ViewingDirections.of_spacing(spacing_rad)
    cells = _CoarseViews.of_views(views, spacing_rad)
    assert cells.is_near.any(axis=0).all()
    assert np.exp(cells.log_weights).sum() == pytest.approx(1)
    assert len(cells.chosen) < 0.4 * len(views) or len(views) < 50
