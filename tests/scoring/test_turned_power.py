"""Powers of turned templates under CTFs against direct sums."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import pytest
import torch

from cryolike.grids import PolarGrid
from cryolike.physics.compiled import _compiled
from cryolike.scoring.turned_power import TurnedPower, fill_power, series_of_squares


def make_grid(n_shells: int, n_angles: int) -> PolarGrid:
    """Grid with these numbers of points."""
    return PolarGrid(8.0, 8.0 / (n_shells - 1), n_angles)


@_compiled
@no_type_check
def run_compiled(series, tables, views, tolerance, room, out):
    """Call what only compiled functions can."""
    fill_power(series, tables, views, tolerance, room, out)


def power_of_one(
    power: TurnedPower, series: torch.Tensor, views: np.ndarray, tolerance: float
) -> np.ndarray:
    """Compute the power for one image by the compiled function."""
    room = np.empty((2, *power.tables[0].shape[1:]), np.float32)
    out = np.full((len(views), power.n_angles), np.nan, np.float32)
    run_compiled(series.numpy(), power.tables, views, tolerance, room, out)
    assert np.isnan(out[:, power.period :]).all()
    return out[:, : power.period]


def make_templates(
    polar: PolarGrid, n_views: int, seed: int = 4
) -> tuple[np.ndarray, np.ndarray, int]:
    """Polar images of unit power, angular series of weight·|T|², and their step."""
    rng = np.random.default_rng(seed)
    step = 2 if polar.n_inplanes % 2 == 0 else 1
    shape = n_views, polar.n_shells, polar.n_inplanes // step
    half = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    templates = np.concatenate([half, half.conj()][:step], axis=2)
    weight = polar.point_weight_shells[:, None]
    templates /= np.sqrt((weight * np.abs(templates) ** 2).sum((1, 2)))[:, None, None]
    series = np.fft.rfft(weight * np.abs(templates) ** 2)[..., ::step]
    return templates, np.ascontiguousarray(series.transpose(2, 1, 0)), step


def direct_power(templates: np.ndarray, ctf: np.ndarray, polar: PolarGrid) -> np.ndarray:
    """Σ weight |C R_γ T|² in double precision, (n_images, n_views, Q)."""
    weighted = polar.point_weight_shells[:, None] * ctf.astype(float) ** 2
    turned = [np.roll(np.abs(templates) ** 2, j, axis=2) for j in range(polar.n_inplanes)]
    power: np.ndarray = np.einsum("nkt,jvkt->nvj", weighted, np.array(turned))
    return power


def make_ctf(polar: PolarGrid, n: int) -> np.ndarray:
    """Functions with an astigmatism that grows with the shell."""
    rng = np.random.default_rng(5)
    phase, strength = rng.uniform(0, 6, (2, n, 1, 1))
    radius = polar.radius_shells[:, None]
    wave = phase + radius * (1 + strength / 20 * np.cos(2 * (polar.theta_shell - phase)))
    ctf: np.ndarray = np.sin(wave)
    return ctf


@pytest.mark.parametrize("n_angles", [12, 14, 9, 4, 30])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_turned_power_equals_direct_sums(n_angles: int, precision: str) -> None:
    """The power of every turned template is that of sums over polar points."""
    polar = make_grid(6, n_angles)
    templates, series, step = make_templates(polar, 7)
    half = np.random.default_rng(1).standard_normal((3, 6, n_angles // step))
    ctf = np.tile(half, step)
    dtype = torch.complex64 if precision == "single" else torch.complex128
    real = torch.float32 if precision == "single" else torch.float64
    power = TurnedPower(torch.tensor(series, dtype=dtype), n_angles, step)
    found, left_out = power(series_of_squares(torch.tensor(ctf, dtype=real)))
    expected = direct_power(templates, ctf, polar)
    assert found.shape == (3, 7, n_angles // step)
    whole = np.tile(found.numpy(), step)
    bound = 1e-6 if precision == "single" else 1e-13
    np.testing.assert_allclose(whole, expected, rtol=bound, atol=bound * expected.max())
    assert not left_out.any()
    chosen = np.array([5, 0, 6])
    squares = series_of_squares(torch.tensor(ctf, dtype=real))
    few, _ = power(squares, views=chosen)
    np.testing.assert_allclose(few.numpy(), found.numpy()[:, chosen], rtol=bound)
    if precision == "single":
        of_one = power_of_one(power, squares[1], chosen, 0.0)
        np.testing.assert_allclose(
            of_one, expected[1, chosen, : n_angles // step], rtol=bound, atol=bound * of_one.max()
        )


@pytest.mark.parametrize("tolerance", [1e-5, 1e-3, 1e-2, 0.1, 10.0])
def test_what_is_left_out_of_the_power_is_bounded(tolerance: float) -> None:
    """Weak frequencies of CTF² are left out; what that changes is below what was allowed."""
    polar = make_grid(6, 48)
    templates, series, step = make_templates(polar, 7)
    ctf = make_ctf(polar, 3)
    power = TurnedPower(torch.tensor(series), 48, step)
    found, left_out = power(series_of_squares(torch.tensor(ctf)), tolerance)
    error = np.abs(found.numpy() - direct_power(templates, ctf, polar)[..., :24]).max((1, 2))
    assert (error <= left_out.numpy() + 1e-7).all()
    assert (left_out.numpy() <= tolerance).all()
    assert error.max() > 0.003 * min(tolerance, 0.1), "nothing was left out"


@pytest.mark.parametrize("tolerance", [1e-5, 1e-3, 1e-2, 0.1, 10.0])
def test_of_one_image_as_little_is_left_out(tolerance: float) -> None:
    """With as many frequencies of CTF² as that image alone needs."""
    polar, views = make_grid(6, 48), np.array([3, 0])
    _, series, step = make_templates(polar, 7)
    squares = series_of_squares(torch.tensor(make_ctf(polar, 3), dtype=torch.float32))
    power = TurnedPower(torch.tensor(series, dtype=torch.complex64), 48, step)
    for i in range(3):
        expected, _ = power(squares[i : i + 1], tolerance, views)
        found = power_of_one(power, squares[i], views, tolerance)
        np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5)


def test_power_at_fewer_angles_and_shells() -> None:
    """Templates of few shells and frequencies are turned in larger steps."""
    polar, n_shells, n_angles = make_grid(8, 48), 5, 16
    templates, _, step = make_templates(polar, 4)
    frequencies = np.fft.fftfreq(48, 1 / 48)
    spectrum = np.fft.fft(templates) * (np.abs(frequencies) <= 2)
    templates = np.fft.ifft(spectrum)
    templates[:, n_shells:] = 0
    ctf = make_ctf(polar, 2)
    weight = polar.point_weight_shells[:n_shells, None] * n_angles / 48
    series = np.fft.rfft(weight * np.abs(templates[:, :n_shells]) ** 2)[..., :8:step]
    power = TurnedPower(torch.tensor(series.transpose(2, 1, 0).copy()), n_angles, step)
    found, left_out = power(series_of_squares(torch.tensor(ctf)))
    expected = direct_power(templates, ctf, polar)[..., :24:3]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert (left_out > 0).all(), "the CTF has frequencies that the table has not"
