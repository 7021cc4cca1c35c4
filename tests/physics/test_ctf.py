"""The contrast transfer function against scalar arithmetic, torch-ctf and RELION."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import UsageError
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import (
    CtfCoefficients,
    CtfParameters,
    PolarCtf,
    contrast_transfer_function,
    ctf_on_pixels,
    ctf_on_polar_grid,
)
from cryolike.units import electron_wavelength_A


def make_parameters(**columns: Any) -> CtfParameters:
    """One or more images; what is not given is ordinary."""
    ordinary = {
        "defocus_u_A": 15_000.0,
        "defocus_v_A": 15_000.0,
        "defocus_angle_rad": 0.0,
        "phase_shift_rad": 0.0,
        "spherical_aberration_mm": 2.7,
        "voltage_kV": 300.0,
        "amplitude_contrast": 0.1,
        "bfactor_A2": 0.0,
        "scale": 1.0,
    }
    names = list(ordinary)
    values = np.broadcast_arrays(*(np.atleast_1d((ordinary | columns)[name]) for name in names))
    return CtfParameters(**dict(zip(names, values, strict=True)))


def random_parameters(n_images: int, seed: int) -> CtfParameters:
    """Images that differ in everything, with overfocus axes (V > U) among them."""
    rng = np.random.default_rng(seed)
    mean_A = rng.uniform(4_000, 25_000, n_images)
    deviation_A = rng.uniform(-2_000, 2_000, n_images)
    group = rng.integers(0, 4, n_images)
    return CtfParameters(
        defocus_u_A=mean_A + deviation_A,
        defocus_v_A=mean_A - deviation_A,
        defocus_angle_rad=rng.uniform(-np.pi, np.pi, n_images),
        phase_shift_rad=rng.uniform(0, 2, n_images),
        spherical_aberration_mm=np.array([2.7, 1.4, 0.01, 0.0])[group],
        voltage_kV=np.array([300.0, 200.0, 120.0, 80.0])[group],
        amplitude_contrast=np.array([0.1, 0.07, 0.2, 0.0])[group],
        bfactor_A2=rng.uniform(0, 100, n_images),
        scale=rng.uniform(0.5, 1, n_images),
    )


def evaluate(parameters: CtfParameters, frequency_per_A: Any, azimuth_rad: Any = 0.0) -> np.ndarray:
    """Transfer functions at a list of frequencies, as an array."""
    frequency = torch.as_tensor(frequency_per_A, dtype=torch.float64)
    azimuth = torch.as_tensor(azimuth_rad, dtype=torch.float64)
    return contrast_transfer_function(parameters, frequency, azimuth).numpy()


def scalar_ctf(row: dict[str, float], s: float, theta: float) -> float:
    """One value, with amplitude contrast as a mixture of sine and cosine instead of a phase."""
    volt = row["voltage_kV"] * 1000
    wavelength = 12.2643247 / math.sqrt(volt * (1 + 0.978466e-6 * volt))
    along_u = math.cos(theta - row["defocus_angle_rad"]) ** 2
    defocus = row["defocus_u_A"] * along_u + row["defocus_v_A"] * (1 - along_u)
    cs = row["spherical_aberration_mm"] * 1e7
    chi = math.pi * wavelength * s**2 * (defocus - 0.5 * cs * wavelength**2 * s**2)
    chi += row["phase_shift_rad"]
    q0 = row["amplitude_contrast"]
    undamped = math.sqrt(1 - q0**2) * math.sin(chi) + q0 * math.cos(chi)
    return row["scale"] * undamped * math.exp(-row["bfactor_A2"] * s**2 / 4)


@pytest.mark.parametrize("q0", [0.0, 0.07, 0.1, 1.0])
def test_zero_frequency_is_plus_amplitude_contrast(q0: float) -> None:
    """Without a phase shift the value at s = 0 is +Q0, up to and including Q0 = 1."""
    assert evaluate(make_parameters(amplitude_contrast=q0), [0.0]) == pytest.approx(q0, abs=1e-15)


def test_ideal_lens_has_its_extremes_where_theory_says() -> None:
    """With Cs = Q0 = 0: +1 at s² = 1/(2λΔf), zero at 1/(λΔf), −1 at 3/(2λΔf)."""
    parameters = make_parameters(spherical_aberration_mm=0, amplitude_contrast=0)
    s2 = np.array([0.5, 1.0, 1.5]) / (electron_wavelength_A(300.0) * 15_000.0)
    np.testing.assert_allclose(evaluate(parameters, np.sqrt(s2)), [[1, 0, -1]], atol=1e-12)


def test_first_lobe_is_positive_for_underfocus_and_negative_for_overfocus() -> None:
    """Positive defocus keeps bright protein bright at low frequency."""
    s = np.linspace(0.01, 0.05, 20)
    defocus_A = np.array([10_000.0, -10_000.0])
    under, over = evaluate(make_parameters(defocus_u_A=defocus_A, defocus_v_A=defocus_A), s)
    assert np.all(under > 0)
    assert np.all(over[5:] < 0)


def test_quarter_wave_phase_shift_turns_sine_into_cosine() -> None:
    """With Q0 = 0, a shift of +90° gives +cos of the unshifted phase, +1 at s = 0."""
    s = np.linspace(0, 0.2, 50)
    plain = make_parameters(amplitude_contrast=0)
    sine = evaluate(plain, s)
    cosine = evaluate(replace(plain, phase_shift_rad=np.array([np.pi / 2])), s)
    np.testing.assert_allclose(sine**2 + cosine**2, 1, atol=1e-12)
    assert cosine[0, 0] == pytest.approx(1)
    # The shift is subtracted from γ: the cosine falls from s = 0, where the sine would rise.
    peak = 1 / math.sqrt(2 * electron_wavelength_A(300.0) * 15_000)
    assert np.all(np.diff(cosine[0, s < peak]) < 0)


def test_bfactor_and_scale_multiply() -> None:
    """The envelope is exp(−B s²/4) times the scale, image by image."""
    s = np.linspace(0, 0.25, 30)
    plain = evaluate(make_parameters(), s)[0]
    bfactor, scale = np.array([0.0, 80.0, 80.0]), np.array([1.0, 1.0, 0.5])
    damped = evaluate(make_parameters(bfactor_A2=bfactor, scale=scale), s)
    envelope = np.exp(-20 * s**2)
    expected = [plain, plain * envelope, plain * envelope / 2]
    np.testing.assert_allclose(damped, expected, atol=1e-14)


@given(
    u_A=st.floats(-30_000, 30_000),
    v_A=st.floats(-30_000, 30_000),
    angle_rad=st.floats(-7, 7),
    s=st.floats(0, 0.5),
    theta=st.floats(-7, 7),
)
def test_swapping_axes_and_turning_by_90_degrees_changes_nothing(
    u_A: float, v_A: float, angle_rad: float, s: float, theta: float
) -> None:
    """U and V can change places if the angle follows; U < V is as good as U > V."""
    one = make_parameters(defocus_u_A=u_A, defocus_v_A=v_A, defocus_angle_rad=angle_rad)
    other = make_parameters(
        defocus_u_A=v_A, defocus_v_A=u_A, defocus_angle_rad=angle_rad + np.pi / 2
    )
    difference = evaluate(one, s, theta) - evaluate(other, s, theta)
    assert np.abs(difference).max() < 1e-9


def test_agrees_with_scalar_arithmetic() -> None:
    """The other algebraic form, one scalar at a time, gives the same values."""
    parameters = random_parameters(12, seed=1)
    s, theta = np.meshgrid([0.0, 0.013, 0.08, 0.15], [-2.0, 0.0, 0.4, 1.5, 3.1])
    got = evaluate(parameters, s, theta)
    assert got.shape == (12, *s.shape)
    for i, image in enumerate(got):
        row = {name: float(column[i]) for name, column in vars(parameters).items()}
        for index in np.ndindex(s.shape):
            expected = scalar_ctf(row, float(s[index]), float(theta[index]))
            # RELION's rounded constant and CODATA differ by 1e-5 in the wavelength.
            assert image[index] == pytest.approx(expected, abs=1e-3)


def test_single_precision_is_rounded_only_at_the_end() -> None:
    """float32 results differ from float64 by one rounding, also at phases of hundreds of rad."""
    parameters = make_parameters(defocus_u_A=40_000, defocus_v_A=38_000)
    frequency = torch.linspace(0, 0.6, 500, dtype=torch.float64)
    azimuth = torch.zeros(1, dtype=torch.float64)
    double = contrast_transfer_function(parameters, frequency, azimuth)
    single = contrast_transfer_function(parameters, frequency, azimuth, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert (single.double() - double).abs().max() < 1e-7


def test_pixel_grid_has_x_in_columns() -> None:
    """Astigmatism at angle 0 puts U along the columns axis and V along the rows axis."""
    parameters = make_parameters(defocus_u_A=20_000, defocus_v_A=10_000)
    on_pixels = ctf_on_pixels(parameters, 32, 3.0).numpy()[0]
    s = np.arange(17) / (32 * 3.0)
    u_only = make_parameters(defocus_u_A=20_000, defocus_v_A=20_000)
    v_only = make_parameters(defocus_u_A=10_000, defocus_v_A=10_000)
    np.testing.assert_allclose(on_pixels[0, :], evaluate(u_only, s)[0], atol=1e-12)
    np.testing.assert_allclose(on_pixels[:17, 0], evaluate(v_only, s)[0], atol=1e-12)


@pytest.mark.parametrize("n_pixels", [15, 16])
def test_pixel_grid_matches_the_real_fft(n_pixels: int) -> None:
    """The grid has the shape of rfft2, and rows of ±y at angle 45° differ."""
    parameters = make_parameters(
        defocus_u_A=[20_000.0, 9_000.0], defocus_v_A=12_000, defocus_angle_rad=np.pi / 4
    )
    ctf = ctf_on_pixels(parameters, n_pixels, 4.0, dtype=torch.float32)
    assert ctf.shape == (2, *torch.fft.rfft2(torch.zeros(n_pixels, n_pixels)).shape)
    diagonal_s = math.hypot(3, 3) / (n_pixels * 4.0)
    along_u, along_v = evaluate(parameters, [diagonal_s] * 2, [np.pi / 4, -np.pi / 4]).T
    np.testing.assert_allclose(ctf[:, 3, 3], along_u, atol=1e-6)
    np.testing.assert_allclose(ctf[:, -3, 3], along_v, atol=1e-6)
    assert np.all(np.abs(along_u - along_v) > 0.01)


def test_polar_grid_uses_twice_the_radius_per_box() -> None:
    """Shell k at angle θ is the frequency 2k/L; box and pixel grid agree where they meet."""
    parameters = random_parameters(3, seed=2)
    n_pixels, pixel_size_A = 32, 3.0
    polar = ctf_on_polar_grid(
        parameters,
        np.array([0.0, 1.5, 4.0]),
        np.array([0.0, np.pi / 2, -np.pi / 2]),
        n_pixels * pixel_size_A,
    ).numpy()
    pixels = ctf_on_pixels(parameters, n_pixels, pixel_size_A).numpy()
    assert polar.shape == (3, 3, 3)
    for shell, cycles in enumerate([0, 3, 8]):
        np.testing.assert_allclose(polar[:, shell, 0], pixels[:, 0, cycles], atol=1e-12)
        np.testing.assert_allclose(polar[:, shell, 1], pixels[:, cycles, 0], atol=1e-12)
        np.testing.assert_allclose(polar[:, shell, 2], pixels[:, -cycles, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "eighths",
    [range(8), range(7), (0, 1.1, 2, 3, 4, 5, 6, 7), (0.5,), np.arange(128) / 16],
    ids=["8", "7", "uneven", "1", "128"],
)
def test_polar_grid_gives_the_general_function(
    eighths: Sequence[float], dtype: torch.dtype
) -> None:
    """The quick ways for opposite angles and for single precision change rounding only."""
    parameters = random_parameters(50, seed=5)
    theta = np.array(eighths) * np.pi / 4
    radius, box_A = np.linspace(0, 32, 20), 200.0
    expected = contrast_transfer_function(
        parameters, torch.tensor(2 * radius / box_A)[:, None], torch.tensor(theta)[None, :]
    )
    tolerance = 5e-7 if dtype == torch.float32 else 1e-10
    assert expected.abs().max() > 0.9
    found = ctf_on_polar_grid(parameters, radius, theta, box_A, dtype=dtype)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < tolerance
    # Memory that begins where no vector of the processor does
    out = torch.full((found.numel() + 1,), torch.nan, dtype=dtype)[1:].view(found.shape)
    on_grid = PolarCtf(radius, theta, box_A)
    assert on_grid(parameters, out) is out
    assert torch.equal(out, found)
    # What is kept of a set's parameters, of some of its images
    chosen = np.array([7, 3, 3, 49])
    kept = CtfCoefficients.of(parameters).take(chosen)
    torch.testing.assert_close(on_grid(kept, dtype=dtype), found[chosen], rtol=0, atol=tolerance)


@pytest.mark.parametrize("out", [torch.empty(3, 2, 8), torch.empty(2, 8, 2).mT, torch.empty(2, 8)])
def test_memory_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    """Nothing is written where it does not belong."""
    on_grid = PolarCtf(np.array([1.0, 2.0]), np.arange(8) * np.pi / 4, 200.0)
    fits = on_grid(random_parameters(3, seed=0), torch.empty(3, 2, 8))
    assert fits.shape == (3, 2, 8)
    with pytest.raises(UsageError, match=r"out must be contiguous and of shape \(2, 2, 8\)"):
        on_grid(random_parameters(2, seed=0), out)


def test_parameters_come_from_the_columns_of_the_table() -> None:
    """Every CTF column of a particle table arrives under its own name, in row order."""
    n = 4
    integers = np.zeros(n, dtype=np.int64)
    columns: dict[str, Any] = {
        name: np.arange(n) + 10.0 * i
        for i, name in enumerate(
            (
                "defocus_u_A",
                "defocus_v_A",
                "defocus_angle_rad",
                "phase_shift_rad",
                "spherical_aberration_mm",
                "voltage_kV",
                "amplitude_contrast",
                "ctf_bfactor_A2",
                "ctf_scale",
            )
        )
    }
    table = ParticleTable(
        kind="star",
        metadata_files=("a.star",),
        metadata_index=integers,
        source_row=np.arange(n),
        image_files=("a.mrcs",),
        image_file_index=integers,
        image_index=np.arange(n),
        pixel_size_A=np.ones(n),
        **columns,
    )
    parameters = CtfParameters.from_table(table)
    assert len(parameters) == n
    for name, values in columns.items():
        column = getattr(parameters, name.removeprefix("ctf_"))
        np.testing.assert_array_equal(column, values)


def test_parameters_keep_their_own_values() -> None:
    """Chosen rows come in the chosen order, and later changes of the source do not show."""
    defocus_A = np.array([1.0, 2.0, 3.0])
    parameters = make_parameters(defocus_u_A=defocus_A)
    defocus_A[:] = 0
    chosen = parameters.take(np.array([2, 0]))
    assert chosen.defocus_u_A.tolist() == [3, 1]
    assert parameters.take(slice(1, None)).defocus_u_A.tolist() == [2, 3]


def test_columns_of_different_length_are_refused() -> None:
    """A column that is one image short is named."""
    with pytest.raises(ValueError, match="scale"):
        replace(random_parameters(3, seed=0), scale=np.ones(2))


def test_agrees_with_torch_ctf() -> None:
    """The independent package torch-ctf gives the same functions, astigmatism included."""
    torch_ctf = pytest.importorskip("torch_ctf")
    parameters = random_parameters(40, seed=3)
    # It knows neither envelope nor negative astigmatism.
    parameters = replace(parameters, bfactor_A2=np.zeros(40), scale=np.ones(40))
    u_A = np.maximum(parameters.defocus_u_A, parameters.defocus_v_A)
    v_A = np.minimum(parameters.defocus_u_A, parameters.defocus_v_A)
    parameters = replace(parameters, defocus_u_A=u_A, defocus_v_A=v_A)
    n_pixels, pixel_size_A = 48, 2.5
    theirs = torch_ctf.calculate_ctf_2d(
        defocus=torch.tensor((u_A + v_A) / 2e4),
        astigmatism=torch.tensor((u_A - v_A) / 2e4),
        astigmatism_angle=torch.tensor(np.rad2deg(parameters.defocus_angle_rad)),
        voltage=torch.tensor(parameters.voltage_kV),
        spherical_aberration=torch.tensor(parameters.spherical_aberration_mm),
        amplitude_contrast=torch.tensor(parameters.amplitude_contrast),
        phase_shift=torch.tensor(np.rad2deg(parameters.phase_shift_rad)),
        pixel_size=pixel_size_A,
        image_shape=(n_pixels, n_pixels),
        rfft=True,
        fftshift=False,
    )
    ours = ctf_on_pixels(parameters, n_pixels, pixel_size_A)
    assert (theirs - ours).abs().max() < 1e-3


def write_relion_input(
    folder: Path, parameters: CtfParameters, n_pixels: int, pixel_A: float
) -> None:
    """Write a map with one bright voxel at its origin, and a STAR file of CTF parameters."""
    point = np.zeros((n_pixels,) * 3, dtype=np.float32)
    point[(n_pixels // 2,) * 3] = 1000
    with mrcfile.new(folder / "point.mrc") as file:
        file.set_data(point)
        file.voxel_size = pixel_A
    lenses = np.stack(
        [parameters.voltage_kV, parameters.spherical_aberration_mm, parameters.amplitude_contrast]
    )
    groups, group_of_image = np.unique(lenses, axis=1, return_inverse=True)
    n_groups = groups.shape[1]
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": [f"group{i + 1}" for i in range(n_groups)],
            "rlnOpticsGroup": np.arange(n_groups) + 1,
            "rlnVoltage": groups[0],
            "rlnSphericalAberration": groups[1],
            "rlnAmplitudeContrast": groups[2],
            "rlnImagePixelSize": pixel_A,
            "rlnImageSize": n_pixels,
            "rlnImageDimensionality": 2,
        }
    )
    zeros = np.zeros(len(parameters))
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(len(parameters))],
            "rlnOpticsGroup": group_of_image.ravel() + 1,
            "rlnDefocusU": parameters.defocus_u_A,
            "rlnDefocusV": parameters.defocus_v_A,
            "rlnDefocusAngle": np.rad2deg(parameters.defocus_angle_rad),
            "rlnPhaseShift": np.rad2deg(parameters.phase_shift_rad),
            "rlnCtfBfactor": parameters.bfactor_A2,
            "rlnCtfScalefactor": parameters.scale,
            **{f"rlnAngle{axis}": zeros for axis in ("Rot", "Tilt", "Psi")},
            **{f"rlnOrigin{axis}Angst": zeros for axis in "XY"},
        }
    )
    starfile.write({"optics": optics, "particles": particles}, folder / "in.star")


def relion_ctf(
    folder: Path, parameters: CtfParameters, n_pixels: int, pixel_A: float
) -> np.ndarray:
    """RELION's transfer functions: spectra of its images of a point, on the grid of rfft2."""
    write_relion_input(folder, parameters, n_pixels, pixel_A)
    command = ["relion_project", "--i", "point.mrc", "--ang", "in.star", "--angpix"]
    for extra in (["--o", "flat"], ["--o", "seen", "--ctf"]):
        subprocess.run(
            [*command, str(pixel_A), *extra], cwd=folder, check=True, capture_output=True
        )
    flat, seen = (
        np.fft.rfft2(np.fft.ifftshift(mrcfile.read(folder / f"{name}.mrcs"), axes=(1, 2)))
        for name in ("flat", "seen")
    )
    ratio: np.ndarray = seen / flat[:1, :1, :1]
    return ratio


@pytest.mark.relion
def test_agrees_with_relion(tmp_path: Path) -> None:
    """RELION's images of a point have our CTF as spectrum; with x and y swapped they do not."""
    n_pixels, pixel_A, n_images = 64, 2.5, 200
    parameters = random_parameters(n_images, seed=4)
    theirs = relion_ctf(tmp_path, parameters, n_pixels, pixel_A)
    ours = ctf_on_pixels(parameters, n_pixels, pixel_A).numpy()
    swapped_angle_rad = np.pi / 2 - parameters.defocus_angle_rad
    swapped = ctf_on_pixels(
        replace(parameters, defocus_angle_rad=swapped_angle_rad), n_pixels, pixel_A
    ).numpy()
    s = np.hypot(np.fft.fftfreq(n_pixels)[:, None], np.fft.rfftfreq(n_pixels)[None, :])
    within_nyquist = s < 0.499

    def error(ctf: np.ndarray) -> np.ndarray:
        difference = np.abs(ctf - theirs)[:, within_nyquist].max(axis=1)
        ratio: np.ndarray = difference / np.abs(theirs)[:, within_nyquist].max(axis=1)
        return ratio

    assert error(ours).max() < 1e-3
    # Where the axes lie near ±45°, or U ≈ V, swapping changes little.
    astigmatism_A = np.abs(parameters.defocus_u_A - parameters.defocus_v_A)
    visible = astigmatism_A * np.abs(np.cos(2 * parameters.defocus_angle_rad)) > 500
    assert visible.sum() > n_images / 2
    assert error(swapped)[visible].min() > 0.05
