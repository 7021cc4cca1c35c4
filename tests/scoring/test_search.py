"""The fast search against the exact one, refinement against the truth, and search near poses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tests.scoring.simulated import ctf_of, pose_errors, templates_of, transformed
from torch import Tensor

from cryolike import ImageDescriptor
from cryolike.errors import CryoLikeWarning, UsageError
from cryolike.physics.ctf import CtfParameters
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.search import PoseSearch, SearchMode
from cryolike.simulate import BlobModel, asymmetric_particle, simulate_particles
from cryolike.templates import TemplateSet

N_IMAGES = 24
_MODES: tuple[SearchMode, SearchMode] = "fast", "exact"
SPACING = 0.2
DESCRIPTOR = ImageDescriptor.from_individual_values(32, 5.0, viewing_distance=SPACING)
DISPLACEMENTS = Displacements.grid(3, 7, 7, 5.0)
MODEL = asymmetric_particle(48.0)


@cache
def templates() -> TemplateSet:
    """Templates of the model from directions 11° apart."""
    return templates_of(MODEL, ViewingDirections.of_spacing(SPACING), DESCRIPTOR)


def at_random(
    n: int, *, seed: int, astigmatism_A: float, largest_A: float
) -> tuple[CtfParameters, np.ndarray, np.ndarray]:
    """Draw parameters of n images, Euler angles and origins."""
    rng = np.random.default_rng(seed)
    mean_A = rng.uniform(12_000, 20_000, n)
    parameters = CtfParameters(
        defocus_u_A=mean_A + astigmatism_A / 2,
        defocus_v_A=mean_A - astigmatism_A / 2,
        defocus_angle_rad=rng.uniform(0, np.pi, n),
        phase_shift_rad=np.zeros(n),
        spherical_aberration_mm=np.full(n, 2.7),
        voltage_kV=np.full(n, 300.0),
        amplitude_contrast=np.full(n, 0.1),
        bfactor_A2=np.zeros(n),
        scale=np.ones(n),
    )
    euler_rad = rng.uniform(-np.pi, np.pi, (n, 3))
    euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, n))
    return parameters, euler_rad, rng.uniform(-largest_A, largest_A, (n, 2))


@cache
def truth() -> tuple[CtfParameters, np.ndarray, np.ndarray]:
    """Parameters with strong astigmatism, Euler angles and origins."""
    return at_random(N_IMAGES, seed=1, astigmatism_A=4_000, largest_A=12)


@cache
def images(snr: float) -> tuple[Tensor, Tensor]:
    """Polar images and CTFs of particles with noise."""
    parameters, euler_rad, origins_A = truth()
    pixels = simulate_particles(MODEL, parameters, euler_rad, origins_A, 32, 5.0, snr=snr, seed=2)
    return transformed(pixels, DESCRIPTOR), ctf_of(parameters, DESCRIPTOR)


@cache
def exact(snr: float) -> PoseScores:
    """Compare exactly."""
    return PoseSearch(templates(), DISPLACEMENTS, mode="exact").score(*images(snr))


@pytest.mark.parametrize("snr", [0.5, 0.1, 0.02])
def test_fast_search_finds_what_the_exact_one_does(snr: float) -> None:
    """The same poses, and integrals within what is said to be left out, and 0.1 nats."""
    fast = PoseSearch(templates(), DISPLACEMENTS, mode="fast").score(*images(snr))
    for name in ("view", "inplane", "displacement"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(exact(snr), name))
    lacking = exact(snr).log_likelihood_integrated - fast.log_likelihood_integrated
    assert lacking.min() > -1e-3
    assert lacking.max() < 0.1
    assert (fast.left_out >= 0).all()
    if snr == 0.5:
        assert (fast.left_out > 0).any(), "no image was searched in two passes"


@pytest.mark.parametrize("seed", [1, 2])
def test_fast_search_misses_nothing_between_coarse_grids(seed: int) -> None:
    """With little noise and coarse grids, what inner shells see is far from what the best pose is.

    Two of these images are lost with half of the noise reckoned with, ten with none.
    """
    descriptor = ImageDescriptor.from_individual_values(32, 5.0, viewing_distance=math.radians(8))
    model, steps = asymmetric_particle(32.0), Displacements.grid(3, 9, 9, 5.0)
    drawn = at_random(40, seed=seed, astigmatism_A=2_000, largest_A=15)
    pixels = simulate_particles(model, *drawn, 32, 5.0, snr=1, seed=seed)
    few = transformed(pixels, descriptor), ctf_of(drawn[0], descriptor)
    views = ViewingDirections.of_spacing(math.radians(8))
    of_model = templates_of(model, views, descriptor)
    fast, exact = (PoseSearch(of_model, steps, mode=mode).score(*few) for mode in _MODES)
    np.testing.assert_allclose(
        fast.log_likelihood_integrated, exact.log_likelihood_integrated, atol=0.1, rtol=0
    )
    assert (fast.left_out > 0).mean() > 0.5, "most images were compared with everything"


def test_images_of_the_opposite_contrast_are_found_out() -> None:
    """Where no correlation is positive everything is compared, and a warning says why."""
    ball = BlobModel(centres_A=np.zeros((1, 3)), sigmas_A=np.full(1, 20.0), weights=np.ones(1))
    descriptor = ImageDescriptor.from_individual_values(32, 5.0, viewing_distance=0.4)
    of_ball = templates_of(ball, ViewingDirections.of_spacing(0.4), descriptor)
    steps = Displacements.grid(0, 1, 1, 5.0)
    dark = -of_ball.images[:3]
    for precision in ("single", "double"):
        chosen = of_ball
        if precision == "double":
            chosen = replace(
                of_ball,
                images=of_ball.images.to(torch.complex128),
                descriptor=descriptor.with_precision("double"),
            )
        noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
        noisy = dark + 0.5 * transformed(noise.numpy(), descriptor)
        with pytest.warns(CryoLikeWarning, match="opposite contrast"):
            scores = PoseSearch(chosen, steps, mode="fast").score(noisy, torch.ones_like(dark.real))
        assert (scores.left_out == 0).all()


def test_images_may_lie_in_memory_in_any_order() -> None:
    """A transposed copy of the angles and shells is compared as what it is."""
    polar_images, ctf = (column[:2] for column in images(0.1))
    other = polar_images.mT.contiguous().mT, ctf.mT.contiguous().mT
    assert not other[0].is_contiguous()
    search = PoseSearch(templates(), DISPLACEMENTS)
    ours, theirs = (search.score(*pair) for pair in ((polar_images, ctf), other))
    np.testing.assert_array_equal(ours.view, theirs.view)
    np.testing.assert_array_equal(ours.cross_correlation, theirs.cross_correlation)


def test_templates_may_lie_in_memory_in_any_order() -> None:
    """Nor does it matter whether they are conjugates that nobody has computed."""
    given = templates().images
    scores = []
    for images_of in (given, given.mT.contiguous().mT, given.conj().resolve_conj().conj()):
        search = PoseSearch(replace(templates(), images=images_of), DISPLACEMENTS)
        scores.append(search.score(*(column[:2] for column in images(0.1))))
    for other in scores[1:]:
        np.testing.assert_array_equal(other.view, scores[0].view)
        np.testing.assert_array_equal(other.cross_correlation, scores[0].cross_correlation)


def test_fast_search_on_tensors_is_the_compiled_one() -> None:
    """In double precision tensors do what compiled code does in single."""
    search = PoseSearch(templates(), DISPLACEMENTS, mode="fast")
    compiled = search.score(*images(0.1))
    doubled = replace(
        templates(),
        images=templates().images.to(torch.complex128),
        descriptor=DESCRIPTOR.with_precision("double"),
    )
    on_tensors = PoseSearch(doubled, DISPLACEMENTS, mode="fast").score(*images(0.1))
    np.testing.assert_array_equal(compiled.view, on_tensors.view)
    np.testing.assert_allclose(
        compiled.log_likelihood_integrated, on_tensors.log_likelihood_integrated, atol=0.05
    )


def test_small_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a small budget of memory nor running out of it."""
    polar_images, ctf = (column[:3] for column in images(0.1))
    search = PoseSearch(templates(), DISPLACEMENTS, mode="exact", memory_bytes=3e6)
    few = search.score(polar_images, ctf)
    np.testing.assert_allclose(
        few.log_likelihood_integrated, exact(0.1).log_likelihood_integrated[:3], rtol=1e-7
    )
    whole = search._all_poses._tile
    widths = []

    def short_of_memory(*arguments: object) -> object:
        columns = arguments[3]
        assert isinstance(columns, slice)
        widths.append(columns.stop - columns.start)
        if widths[-1] > 40:
            raise MemoryError
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search._all_poses, "_memory_bytes", 1e9)
    monkeypatch.setattr(search._all_poses, "_tile", short_of_memory)
    tiles = list(search.cross_correlations(polar_images, ctf))
    assert max(widths) > 40
    best = torch.cat([tile.x.amax(dim=(0, 2)) for tile in tiles], dim=1).amax(dim=1)
    np.testing.assert_allclose(best.numpy(), few.cross_correlation, rtol=1e-5)


def test_refined_poses_are_nearer_to_the_truth() -> None:
    """Shifts to a fifth of a step; rotations as far as a resolution of 10 Å lets them."""
    _, euler_rad, origins_A = truth()
    spacing = 0.12
    descriptor = replace(DESCRIPTOR, viewing_distance=spacing)
    finer = templates_of(MODEL, ViewingDirections.of_spacing(spacing), descriptor)
    on_grid, refined = (
        PoseSearch(finer, DISPLACEMENTS, refine=refine).score(*images(0.5))
        for refine in (False, True)
    )
    before, after = (pose_errors(found.poses, euler_rad, origins_A) for found in (on_grid, refined))
    assert np.median(after.shift_A) < 0.2 * 5.0
    assert np.median(after.shift_A) < 0.5 * np.median(before.shift_A)
    assert np.median(after.rotation_deg) < 0.7 * np.median(before.rotation_deg)
    np.testing.assert_array_equal(refined.view, on_grid.view)


def test_best_of_views_and_of_rotations_are_of_all_poses() -> None:
    """Each reduction is that of the whole array."""
    polar_images, ctf = (column[:2] for column in images(0.1))
    search = PoseSearch(templates(), DISPLACEMENTS, mode="exact")
    whole = torch.cat([tile.x for tile in search.cross_correlations(polar_images, ctf)], dim=3)
    of_views = search.score_views(polar_images, ctf)
    np.testing.assert_allclose(of_views.cross_correlation, whole.amax(dim=(0, 2)), atol=2e-6)
    chosen = of_views.inplane, torch.arange(2)[:, None], of_views.displacement
    at_best = whole[*chosen, torch.arange(whole.shape[3])]
    np.testing.assert_allclose(of_views.cross_correlation, at_best, atol=2e-6)
    of_rotations = search.score_rotations(polar_images, ctf)
    np.testing.assert_allclose(of_rotations, whole.amax(dim=(2, 3)).T, atol=2e-6)


def near_truth(change: Callable[[Poses], Poses] = lambda poses: poses) -> Poses:
    """Take the true poses, changed."""
    _, euler_rad, origins_A = truth()
    rot, tilt, psi = euler_rad.T
    return change(
        Poses(
            rot_rad=rot,
            tilt_rad=tilt,
            psi_rad=psi,
            shift_x_A=-origins_A[:, 0],
            shift_y_A=-origins_A[:, 1],
        )
    )


def test_search_near_the_truth_stays_there() -> None:
    """Displacements are counted from those given: a shift beyond the grid's reach is found."""
    _, euler_rad, origins_A = truth()
    few = Displacements.grid(1, 3, 3, 2.5)
    search = PoseSearch(templates(), few, mode="exact")
    found = search.score(*images(0.1), near=near_truth(), within_rad=2 * SPACING)
    errors = pose_errors(found.poses, euler_rad, origins_A)
    assert errors.direction_deg.max() < np.rad2deg(2.01 * SPACING)
    assert errors.shift_A.max() <= 2.5 * math.sqrt(2) + 1e-6
    assert np.median(errors.direction_deg) < np.rad2deg(SPACING)
    # Part of an integral is not more than all of it would be
    everywhere = PoseSearch(templates(), DISPLACEMENTS, mode="exact").score(
        *images(0.1), near=near_truth(), within_rad=np.pi
    )
    narrow = PoseSearch(templates(), DISPLACEMENTS, mode="exact").score(
        *images(0.1), near=near_truth(), within_rad=0.3
    )
    assert (narrow.log_likelihood_integrated <= everywhere.log_likelihood_integrated + 1e-4).all()


def test_images_without_a_pose_are_searched_everywhere() -> None:
    """Those whose pose is not finite; the others near theirs."""

    def forget_some(poses: Poses) -> Poses:
        rot_rad = poses.rot_rad.copy()
        rot_rad[::2] = np.nan
        return replace(poses, rot_rad=rot_rad)

    search = PoseSearch(templates(), DISPLACEMENTS, mode="exact")
    found = search.score(*images(0.1), near=near_truth(forget_some), within_rad=SPACING)
    np.testing.assert_array_equal(found.view[::2], exact(0.1).view[::2])
    np.testing.assert_allclose(
        found.log_likelihood_integrated[::2], exact(0.1).log_likelihood_integrated[::2], rtol=1e-6
    )
    assert (np.abs(found.poses.shift_x_A[1::2]) > 0).all()


def test_bad_use_is_refused() -> None:
    """Grids that differ, displacements beyond the box, half of what a local search needs."""
    search = PoseSearch(templates(), DISPLACEMENTS, mode="exact")
    polar_images, ctf = images(0.1)
    with pytest.raises(UsageError, match="both or none"):
        search.score(polar_images, ctf, within_rad=0.1)
    with pytest.raises(UsageError, match="same descriptor"):
        search.score(polar_images[:, :-1], ctf[:, :-1])
    without_ctf, with_nan = ctf.clone(), polar_images.clone()
    without_ctf[3] = 0
    with_nan[5, 2, 7] = torch.nan
    with pytest.raises(UsageError, match=r"\[3\].*CTF is zero"):
        search.score(polar_images, without_ctf)
    with pytest.raises(UsageError, match=r"\[5\].*not finite"):
        search.score(with_nan, ctf)
    with pytest.raises(UsageError, match="smaller displacements"):
        PoseSearch(templates(), Displacements.grid(17, 3, 3, 5.0))
