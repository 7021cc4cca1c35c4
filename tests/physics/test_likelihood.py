"""The closed likelihood against numerical integration over scale, offset and noise variance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tests.scoring.brute import Sums

from cryolike import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.physics.likelihood import (
    log_likelihood_of_image,
    log_likelihood_of_pose,
    n_compared,
)


def sums_of(x: np.ndarray, y: np.ndarray, s: np.ndarray) -> Sums:
    """Products of plain vectors."""
    return Sums(
        xx=float(x @ x),
        yy=float(y @ y),
        xy=float(x @ y),
        ss=float(s @ s),
        sx=float(s @ x),
        sy=float(s @ y),
    )


def closed_form(sums: Sums, n: float) -> float:
    """Log-likelihood as the package computes it."""

    def number(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    of_pose = log_likelihood_of_pose(
        number(sums.xy / math.sqrt(sums.xx * sums.yy)),
        number(sums.sx / math.sqrt(sums.xx * sums.ss)),
        number(sums.sy / math.sqrt(sums.yy * sums.ss)),
        number(sums.xx),
        n,
    )
    return float(of_pose) + float(log_likelihood_of_image(np.array([sums.yy]), sums.ss, n)[0])


def numerical(x: np.ndarray, y: np.ndarray, s: np.ndarray) -> float:
    """Log ∫dv ∫dα ∫dβ Π_i N(y_i; α x_i + β s_i, v), summed on a grid of all three.

    Steps are even in log v, and in α and β with √v as the unit: the trapezoidal rule converges
    exponentially on such integrands. Where the grid lies is taken from least squares; its value
    depends on that no more than on any other choice that covers the integrand.
    """
    model = np.stack([x, s], axis=1)
    (scale, offset), (residual,) = np.linalg.lstsq(model, y)[:2]
    spread = np.sqrt(np.diag(np.linalg.inv(model.T @ model)))
    steps, d_step = np.linspace(-9, 9, 43, retstep=True)
    log_v, d_log_v = np.linspace(-6, 36, 169, retstep=True)
    log_v += np.log(residual / len(y))
    logs = []
    for v in np.exp(log_v):
        alpha = scale + np.sqrt(v) * spread[0] * steps[:, None, None]
        beta = offset + np.sqrt(v) * spread[1] * steps[None, :, None]
        squares = ((y - alpha * x - beta * s) ** 2).sum(axis=2)
        cell = d_step**2 * v * spread[0] * spread[1] * v * d_log_v
        density = -len(y) / 2 * np.log(2 * np.pi * v) - squares / (2 * v)
        logs.append(logsumexp(density) + np.log(cell))
    return float(logsumexp(logs))


def vectors(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two templates, an image that has the first in it, and a box, with overlaps between all."""
    rng = np.random.default_rng(seed)
    box = 1 + 0.3 * rng.normal(size=n)
    one, other = (0.4 * box + rng.normal(size=n) for _ in range(2))
    return one, other, 1.7 * one - 0.8 * box + 0.6 * rng.normal(size=n), box


@pytest.mark.parametrize(("n", "seed"), [(6, 0), (7, 1), (10, 2), (10, 3), (24, 4)])
def test_is_the_integral_over_scale_offset_and_variance(n: int, seed: int) -> None:
    """Its absolute value, for flat priors over all three; the oracle of scoring is the same."""
    x, _, y, s = vectors(n, seed)
    sums = sums_of(x, y, s)
    expected = numerical(x, y, s)
    assert closed_form(sums, n) == pytest.approx(expected, abs=1e-6)
    assert sums.log_likelihood(n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_differences_between_poses_are_those_of_the_integral(seed: int) -> None:
    """The part that depends on the pose has everything that does."""
    one, other, y, s = vectors(12, seed)
    expected = numerical(one, y, s) - numerical(other, y, s)
    assert abs(expected) > 1
    difference = closed_form(sums_of(one, y, s), 12) - closed_form(sums_of(other, y, s), 12)
    assert difference == pytest.approx(expected, abs=1e-6)


def test_adding_an_offset_changes_nothing() -> None:
    """The offset is integrated out, though the correlation depends on it."""
    x, _, y, s = vectors(40, 5)
    plain, raised = sums_of(x, y, s), sums_of(x, y + 8 * s, s)
    assert abs(raised.cross_correlation - plain.cross_correlation) > 0.1
    assert closed_form(raised, 40) == pytest.approx(closed_form(plain, 40), abs=1e-9)


def test_scaling_the_image_changes_all_poses_alike() -> None:
    """A factor on the image is a factor on scale, offset and √variance: 4 − N powers of it."""
    one, other, y, s = vectors(40, 6)
    for x in (one, other):
        change = closed_form(sums_of(x, 2.5 * y, s), 40) - closed_form(sums_of(x, y, s), 40)
        assert change == pytest.approx((4 - 40) * np.log(2.5), abs=1e-9)


def test_better_explained_is_likelier() -> None:
    """Of templates of one power, the likelihood grows with what they explain of the image."""
    n = 1000
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    values = log_likelihood_of_pose(x, zero, zero, one, n)
    assert (values.diff() > 0).all()
    assert torch.isfinite(values).all()
    # A little beyond 1 is rounding
    beyond = log_likelihood_of_pose(x[-1:] * (1 + 1e-6), zero[-1:], zero[-1:], one[-1:], n)
    assert torch.isfinite(beyond).all()


def test_arguments_broadcast() -> None:
    """Terms of images, of views and of poses keep their own axes."""
    rng = np.random.default_rng(7)
    x, u = (torch.tensor(rng.uniform(-0.3, 0.3, (3, 2, 4))) for _ in range(2))
    v, i_xx = torch.tensor(rng.uniform(-0.3, 0.3, (3, 1, 1))), torch.rand(2, 1) + 0.5
    values = log_likelihood_of_pose(x, u, v, i_xx.to(torch.float64), 50)
    assert values.shape == (3, 2, 4)
    for i, j, k in itertools.product(range(3), range(2), range(4)):
        alone = log_likelihood_of_pose(
            x[i, j, k], u[i, j, k], v[i, 0, 0], i_xx[j, 0].to(torch.float64), 50
        )
        assert float(values[i, j, k]) == pytest.approx(float(alone), abs=1e-12)


@pytest.mark.parametrize(
    ("n_pixels", "resolution_factor"), [(64, 1.0), (65, 1.0), (96, 0.5), (128, 0.3)]
)
def test_disc_counts_independent_values(n_pixels: int, resolution_factor: float) -> None:
    """As many as there are frequencies of the box in the disc: conjugate pairs, two values each."""
    descriptor = ImageDescriptor.from_individual_values(
        n_pixels, 2.0, resolution_factor=resolution_factor
    )
    cycles = np.arange(-n_pixels, n_pixels + 1)
    reach = resolution_factor * n_pixels / 2
    count = int((np.hypot(*np.meshgrid(cycles, cycles)) <= reach).sum())
    assert n_compared(descriptor) == pytest.approx(count, rel=0.02)
    assert n_compared(descriptor, "disc") == n_compared(descriptor)
    assert n_compared(descriptor, "box") == n_pixels**2


def test_too_few_values_are_refused() -> None:
    """With four or fewer the integral over the variance does not exist."""
    descriptor = ImageDescriptor.from_individual_values(16, 2.0, resolution_factor=0.12)
    with pytest.raises(UsageError, match="values are compared"):
        n_compared(descriptor)
    assert n_compared(descriptor, "box") == 256
