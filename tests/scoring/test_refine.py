"""Refinement: correlations off the grids, the peaks fitted to them, and poses that have none."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tests.scoring.brute import posed, product
from tests.scoring.simulated import ctf_of, pose_errors, templates_of, transformed
from torch import Tensor

from cryolike import ImageDescriptor
from cryolike.errors import CryoLikeWarning
from cryolike.physics.ctf import CtfParameters
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.views import ViewingDirections
from cryolike.scoring import refine
from cryolike.scoring.comparison import ImageMoments
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import Poses, RefinedPoses
from cryolike.scoring.refine import Refinement
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import asymmetric_particle, simulate_particles

N_IMAGES, N_PIXELS, PIXEL_SIZE_A = 12, 32, 5.0
SPACING = 0.22
STEP_A = 5.0
DESCRIPTOR = ImageDescriptor.from_individual_values(
    N_PIXELS, PIXEL_SIZE_A, viewing_distance=SPACING
)
MODEL = asymmetric_particle(48.0)
STENCIL = np.array([-0.5, 0.0, 0.5])


# The fit


def around(rng: np.random.Generator, n_views: list[int]) -> refine._Around:
    """Scatter views around the best ones of images, which are first."""
    tilts = rng.uniform(-1.6, 1.6, (sum(n_views), 2))
    edges = np.concatenate([[0], np.cumsum(n_views)])
    tilts[edges[:-1]] = 0
    n = len(tilts)
    return refine._Around(np.arange(n), edges, tilts, np.zeros(n))


def points(views: refine._Around) -> np.ndarray:
    """Where the cross-correlation is sampled, in steps, (m, 3, 9, 5)."""
    found = np.zeros((len(views.tilts), 3, 9, 5))
    found[..., :2] = views.tilts[:, None, None]
    found[..., 2] = STENCIL[:, None]
    found[..., 3], found[..., 4] = np.tile(STENCIL, 3), np.repeat(STENCIL, 3)
    return found


def gaussians(
    views: refine._Around, peaks: np.ndarray, curvatures: np.ndarray, height: float
) -> np.ndarray:
    """Gaussian functions of all five variables, one of each image."""
    image = np.repeat(np.arange(len(peaks)), np.diff(views.edges))
    away = points(views) - peaks[image][:, None, None]
    exponent = np.einsum("mgdi,mij,mgdj->mgd", away, curvatures[image], away)
    values: np.ndarray = height * np.exp(-exponent / 2)
    return values


def random_curvatures(rng: np.random.Generator, n: int) -> np.ndarray:
    """Positive definite matrices whose variables depend on each other."""
    factors = rng.uniform(-0.12, 0.12, (n, 5, 5)) + 0.5 * np.eye(5)
    return factors @ factors.swapaxes(1, 2)


ALL_FREE = np.ones(5, dtype=bool)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n_views=st.lists(st.integers(9, 16), min_size=1, max_size=5),
    height=st.floats(1e-3, 1),
)
def test_gaussian_peaks_are_found_exactly(seed: int, n_views: list[int], height: float) -> None:
    """Wherever they are within reach, whatever their shape, however high, whosever they are."""
    rng = np.random.default_rng(seed)
    views = around(rng, n_views)
    peaks = rng.uniform(-1, 1, (len(n_views), 5))
    x = gaussians(views, peaks, random_curvatures(rng, len(n_views)), height)
    found, is_peak = refine._Fit(x, views, ALL_FREE).peaks()
    assert is_peak.all()
    np.testing.assert_allclose(found, peaks, atol=1e-6)


def test_fit_is_that_of_least_squares() -> None:
    """With errors of the values, numpy's own least squares gives the same in each of its rounds."""
    rng = np.random.default_rng(3)
    views = around(rng, [12, 9, 14])
    peaks = rng.uniform(-0.7, 0.7, (3, 5))
    x = gaussians(views, peaks, 2 * random_curvatures(rng, 3), 0.3)
    x += rng.normal(0, 2e-3, x.shape)
    found, is_peak = refine._Fit(x, views, ALL_FREE).peaks()
    assert is_peak.all()
    pairs = list(combinations_with_replacement(range(5), 2))
    for i, (first, last) in enumerate(zip(views.edges[:-1], views.edges[1:], strict=True)):
        at, values = points(views)[first:last].reshape(-1, 5), x[first:last].ravel()
        values = values / values.max()
        is_high = values > 0.3
        assert 10 < is_high.sum() < len(values)
        peak = np.zeros(5)
        for _ in range(2):
            distance = np.linalg.norm(at[:, :2] - peak[:2], axis=1)
            root = np.sqrt(np.exp(-((distance / 0.77) ** 2) / 2)) * values
            design = np.stack(
                [np.ones(len(at)), *at.T, *(at[:, j] * at[:, k] for j, k in pairs)], axis=1
            )
            weighted = (design * root[:, None])[is_high]
            logarithm = (np.log(np.maximum(values, 1e-9)) * root)[is_high]
            coefficients = np.linalg.lstsq(weighted, logarithm, rcond=None)[0]
            hessian = np.zeros((5, 5))
            for (j, k), value in zip(pairs, coefficients[6:], strict=True):
                hessian[j, k] += value
                hessian[k, j] += value
            peak = np.linalg.solve(hessian, -coefficients[1:6])
        np.testing.assert_allclose(found[i], peak, atol=1e-9)


def test_low_values_are_not_of_the_peak() -> None:
    """Below three tenths of the largest they change nothing, not even where they are negative."""
    rng = np.random.default_rng(5)
    views = around(rng, [14, 14])
    peaks = rng.uniform(-0.3, 0.3, (2, 5))
    x = gaussians(views, peaks, 1.5 * random_curvatures(rng, 2), 0.2)
    largest = np.repeat(np.maximum.reduceat(x.max(axis=(1, 2)), views.edges[:-1]), 14)
    is_low = x < 0.3 * largest[:, None, None]
    assert is_low.any()
    changed = np.where(is_low, rng.uniform(-0.01, 0.01, x.shape), x)
    found, is_peak = refine._Fit(changed, views, ALL_FREE).peaks()
    assert is_peak.all()
    np.testing.assert_allclose(found, peaks, atol=1e-6)


def test_variables_that_there_are_not_stay() -> None:
    """Where all displacements have one x the peak is of the other four variables."""
    rng = np.random.default_rng(6)
    views = around(rng, [12])
    curvature = random_curvatures(rng, 1)
    curvature[:, 3] = curvature[:, :, 3] = 0
    peaks = rng.uniform(-0.5, 0.5, (1, 5))
    x = gaussians(views, peaks, curvature, 0.2)
    found, is_peak = refine._Fit(x, views, np.array([True, True, True, False, True])).peaks()
    assert is_peak.all()
    np.testing.assert_allclose(np.delete(found, 3), np.delete(peaks, 3), atol=1e-6)
    assert found[0, 3] == 0


def test_images_without_a_peak() -> None:
    """A saddle, a peak out of reach, views on one line, no correlation; between two with one."""
    rng = np.random.default_rng(7)
    views = around(rng, [12] * 6)
    peaks = rng.uniform(-0.5, 0.5, (6, 5))
    curvatures = 0.3 * random_curvatures(rng, 6)
    curvatures[1, 4, 4] = -0.1
    peaks[2, 2] = 1.6
    views.tilts[36:48, 1] = 0
    x = gaussians(views, peaks, curvatures, 0.1)
    x[48:60] = -0.1
    found, is_peak = refine._Fit(x, views, ALL_FREE).peaks()
    assert is_peak.tolist() == [True, False, False, False, False, True]
    np.testing.assert_allclose(found[[0, 5]], peaks[[0, 5]], atol=1e-6)


# Correlations


@cache
def parameters() -> CtfParameters:
    """Strong astigmatism."""
    rng = np.random.default_rng(1)
    mean_A = rng.uniform(12_000, 20_000, N_IMAGES)
    zero = np.zeros(N_IMAGES)
    return CtfParameters(
        defocus_u_A=mean_A + 2_000,
        defocus_v_A=mean_A - 2_000,
        defocus_angle_rad=rng.uniform(0, np.pi, N_IMAGES),
        phase_shift_rad=zero,
        spherical_aberration_mm=zero + 2.7,
        voltage_kV=zero + 300,
        amplitude_contrast=zero + 0.1,
        bfactor_A2=zero,
        scale=zero + 1,
    )


@cache
def truth() -> tuple[np.ndarray, np.ndarray]:
    """Euler angles and displacements."""
    rng = np.random.default_rng(2)
    euler_rad = rng.uniform(-np.pi, np.pi, (N_IMAGES, 3))
    euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, N_IMAGES))
    return euler_rad, rng.uniform(-9, 9, (N_IMAGES, 2))


@cache
def images(snr: float | None) -> tuple[Tensor, Tensor]:
    """Polar images and CTFs."""
    euler_rad, shift_A = truth()
    pixels = simulate_particles(
        MODEL, parameters(), euler_rad, -shift_A, N_PIXELS, PIXEL_SIZE_A, snr=snr, seed=4
    )
    return transformed(pixels, DESCRIPTOR), ctf_of(parameters(), DESCRIPTOR)


@cache
def search(precision: str = "single", n_x: int = 5) -> PoseSearch:
    """Compare with templates 10° apart and displacements a pixel apart."""
    descriptor = DESCRIPTOR.with_precision(precision)
    templates = templates_of(MODEL, ViewingDirections.of_spacing(SPACING), descriptor)
    return PoseSearch(templates, Displacements.grid(2, n_x, 5, PIXEL_SIZE_A), refine=True)


def refinement(of: PoseSearch) -> Refinement:
    """Give what refines the poses of a search."""
    assert of._refine is not None
    return of._refine


@cache
def found_on_the_grids(snr: float | None, n_x: int = 5) -> tuple[ImageMoments, np.ndarray, Poses]:
    """Moments of images, and the views and poses that a search without refinement finds."""
    of = search(n_x=n_x)
    plain = PoseSearch(of.templates, of.displacements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryoLikeWarning)  # of images without noise
        found = plain.score(*images(snr))
    return of._moments(*images(snr)), found.view, found.poses


def as_matrix(poses: Poses) -> np.ndarray:
    """All columns, (n, 5)."""
    return np.stack([getattr(poses, name) for name in refine._FIELDS], axis=1)


def turned(template: np.ndarray, angle_rad: float) -> np.ndarray:
    """Turn a polar image by any angle, through its angular Fourier series."""
    n = template.shape[1]
    frequencies = np.fft.fftfreq(n, 1 / n)
    series = np.fft.fft(template, axis=1) * np.exp(-1j * frequencies * angle_rad)
    image: np.ndarray = np.fft.ifft(series, axis=1)
    return image


def correlation(
    image: np.ndarray, ctf: np.ndarray, template: np.ndarray, psi_rad: float, shift_A: np.ndarray
) -> float:
    """Correlate an image with a template in one pose, by plain sums."""
    polar, box_A = DESCRIPTOR.polar_grid, DESCRIPTOR.cartesian_grid.box_size_A
    seen = ctf * posed(turned(template, -psi_rad), 0, (shift_A[0], shift_A[1]), polar, box_A)
    powers = product(seen, seen, polar) * product(image, image, polar)
    return product(seen, image, polar) / float(np.sqrt(powers))


@pytest.mark.parametrize("precision", ["single", "double"])
def test_correlations_are_plain_sums(precision: str) -> None:
    """At the views nearby, between the in-plane angles and displacements of the grids."""
    of = refinement(search(precision))
    _, view, poses = found_on_the_grids(0.5)
    moments = search(precision)._moments(*images(0.5))
    given = as_matrix(poses)
    given[:, 2:] += np.random.default_rng(8).uniform(-0.4, 0.4, (N_IMAGES, 3))
    near = of._around(view, rotation_matrices(given[:, :3]))
    x = of._correlations(moments, near, given[:, 3:])
    assert x.shape == (len(near.views), 3, 9)
    templates = search(precision).templates.images.numpy()
    psi_step_rad = 2 * np.pi / DESCRIPTOR.polar_grid.n_inplanes
    image = np.repeat(np.arange(N_IMAGES), near.n)
    rng = np.random.default_rng(9)
    for row, i, j in rng.integers(0, (len(x), 3, 9), (200, 3)):
        expected = correlation(
            images(0.5)[0][image[row]].numpy(),
            images(0.5)[1][image[row]].numpy(),
            templates[near.views[row]],
            near.psi_rad[row] + psi_step_rad * STENCIL[i],
            given[image[row], 3:] + STEP_A * np.array([STENCIL[j % 3], STENCIL[j // 3]]),
        )
        assert x[row, i, j] == pytest.approx(expected, abs=1e-4)


def test_views_around_are_tilts_of_the_pose() -> None:
    """Within two spacings, the view itself among them; tilted so the pose looks along them."""
    of = refinement(search())
    _, view, poses = found_on_the_grids(0.5)
    euler_rad = np.stack([poses.rot_rad, poses.tilt_rad, poses.psi_rad], axis=1)
    base = rotation_matrices(euler_rad)
    near = of._around(view, base)
    spacing = of.spacing_rad
    for i in range(N_IMAGES):
        rows = slice(near.edges[i], near.edges[i + 1])
        cosine = of.views.unit_vectors @ of.views.unit_vectors[view[i]]
        assert set(near.views[rows]) == set(np.flatnonzero(cosine > np.cos(2 * spacing)))
        assert 8 <= near.n[i] <= 16
        for one, tilt, psi in zip(
            near.views[rows], near.tilts[rows], near.psi_rad[rows], strict=True
        ):
            tilted = Rotation.from_rotvec([*(tilt * spacing), 0]).as_matrix() @ base[i]
            there = rotation_matrices(np.array([[*of.views.euler_rad[one, :2], psi]]))[0]
            np.testing.assert_allclose(tilted, there, atol=1e-9)
            if one == view[i]:
                assert np.abs(tilt).max() < 1e-7


# The whole


def test_peaks_at_the_samples_are_their_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tilt, turn and shift combine as they do where correlations are sampled."""
    moments, view, poses = found_on_the_grids(0.5)
    of, psi_step_rad = refinement(search()), 2 * np.pi / DESCRIPTOR.polar_grid.n_inplanes
    given = as_matrix(poses)
    near = of._around(view, rotation_matrices(given[:, :3]))
    chosen = near.edges[:-1] + near.n // 3
    peaks = np.column_stack([near.tilts[chosen], np.tile([0.5, -0.5, 0.25], (N_IMAGES, 1))])
    is_inside = np.abs(peaks).max(axis=1) < 1.4
    assert is_inside.sum() > 6
    x = gaussians(near, peaks, np.tile(0.3 * np.eye(5), (N_IMAGES, 1, 1)), 0.2)
    monkeypatch.setattr(Refinement, "_correlations", lambda *_: x)
    refined = of(moments, view, poses)
    assert refined.has_peak[is_inside].all()
    expected = of.views.euler_rad[near.views[chosen]]
    expected[:, 2] = near.psi_rad[chosen] + 0.5 * psi_step_rad
    ours = rotation_matrices(as_matrix(refined)[:, :3])
    theirs = rotation_matrices(expected)
    np.testing.assert_allclose(ours[is_inside], theirs[is_inside], atol=1e-6)
    moves_A = as_matrix(refined)[:, 3:] - given[:, 3:]
    np.testing.assert_allclose(moves_A[is_inside], [[-2.5, 1.25]] * is_inside.sum(), atol=1e-6)


def test_refined_poses_are_near_the_true_ones() -> None:
    """Without noise within small parts of the steps of all grids."""
    moments, view, poses = found_on_the_grids(None)
    refined = refinement(search())(moments, view, poses)
    euler_rad, shift_A = truth()
    before, after = (pose_errors(p, euler_rad, -shift_A) for p in (poses, refined))
    assert after.shift_A.max() < 0.15 * STEP_A
    assert after.rotation_deg.max() < 0.4 * np.rad2deg(SPACING)
    assert np.median(after.shift_A) < 0.15 * np.median(before.shift_A)
    assert np.median(after.rotation_deg) < 0.35 * np.median(before.rotation_deg)


def assert_same(ours: Poses, theirs: Poses, steps: float) -> None:
    """Compare poses, in steps of the grids."""
    errors = pose_errors(
        ours,
        np.stack([theirs.rot_rad, theirs.tilt_rad, theirs.psi_rad], axis=1),
        -np.stack([theirs.shift_x_A, theirs.shift_y_A], axis=1),
    )
    psi_step_deg = 360 / DESCRIPTOR.polar_grid.n_inplanes
    assert errors.rotation_deg.max() < max(steps * psi_step_deg, 3e-6)
    assert errors.shift_A.max() < max(steps * STEP_A, 1e-9)


def test_images_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, a few at a time, all at once and in another order they come out the same."""
    moments, view, poses = found_on_the_grids(0.5)
    of = refinement(search())
    all_at_once = of(moments, view, poses)
    order = np.random.default_rng(0).permutation(N_IMAGES)
    turned = Poses(**{name: values[order] for name, values in vars(poses).items()})
    ours = as_matrix(of(moments.take(order), view[order], turned))
    np.testing.assert_allclose(ours, as_matrix(all_at_once)[order], atol=1e-9)
    for n in (1, 5):
        monkeypatch.setattr(refine, "_IMAGES_AT_ONCE", n)
        assert_same(of(moments, view, poses), all_at_once, 1e-6)


def test_precision_does_not_matter() -> None:
    """Tensors in double precision give what compiled code gives, to a thousandth of a step."""
    _, view, poses = found_on_the_grids(0.5)
    ours, theirs = (
        refinement(search(name))(search(name)._moments(*images(0.5)), view, poses)
        for name in ("single", "double")
    )
    assert_same(ours, theirs, 1e-3)


def test_one_displacement_stays() -> None:
    """Where no other x is tried it is kept; the other variables are refined."""
    moments, view, poses = found_on_the_grids(None, 1)
    refined = refinement(search(n_x=1))(moments, view, poses)
    np.testing.assert_array_equal(refined.shift_x_A, poses.shift_x_A)
    assert (refined.shift_y_A != poses.shift_y_A).mean() > 0.5
    assert (refined.psi_rad != poses.psi_rad).mean() > 0.5


def test_images_that_keep_their_pose_are_told() -> None:
    """Noise has no peak where it is looked for: the pose given is kept as it is."""
    noise = np.random.default_rng(3).normal(size=(N_IMAGES, N_PIXELS, N_PIXELS))
    of = search()
    rng, views = np.random.default_rng(1), of.templates.views
    view = rng.integers(0, len(views), N_IMAGES)
    given = Poses(
        rot_rad=views.rot_rad[view],
        tilt_rad=views.tilt_rad[view],
        psi_rad=rng.uniform(-np.pi, np.pi, N_IMAGES),
        shift_x_A=rng.uniform(-5, 5, N_IMAGES),
        shift_y_A=rng.uniform(-5, 5, N_IMAGES),
    )
    moments = of._moments(transformed(noise, DESCRIPTOR), images(0.5)[1])
    refined = refinement(of)(moments, view, given)
    is_kept = (as_matrix(refined) == as_matrix(given)).all(axis=1)
    np.testing.assert_array_equal(refined.has_peak, ~is_kept)
    assert is_kept.sum() >= 3


def test_search_tells_which_poses_are_refined() -> None:
    """Its result has them; without refinement poses are plain ones."""
    found = search().score(*images(0.5)).poses
    assert isinstance(found, RefinedPoses)
    assert found.has_peak.shape == (N_IMAGES,)
    assert found.has_peak.all()
    assert not isinstance(found_on_the_grids(0.5)[2], RefinedPoses)


def test_very_few_views() -> None:
    """Too few to tell a peak from: all poses are those of the grids."""
    views = ViewingDirections(
        rot_rad=np.array([0.3, 2.0]), tilt_rad=np.array([0.5, 1.9]), weights=np.array([0.5, 0.5])
    )
    few = PoseSearch(
        templates_of(MODEL, views, DESCRIPTOR), search().displacements, refine=True
    ).score(*images(0.5))
    assert isinstance(few.poses, RefinedPoses)
    assert not few.poses.has_peak.any()
    np.testing.assert_array_equal(few.poses.tilt_rad, views.tilt_rad[few.view])
