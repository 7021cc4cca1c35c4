"""The exact search against an oracle that scores every pose by itself with plain sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tests.scoring import brute
from tests.scoring.brute import AllPoses

from cryolike import ImageDescriptor
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.templates import TemplateSet

PIXEL_A = 2.0
RELATIVE = {"single": 1e-5, "double": 1e-10}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A small problem with nothing regular about it, everything float64 or complex128."""

    descriptor: ImageDescriptor
    images: np.ndarray
    ctf: np.ndarray
    templates: np.ndarray
    views: ViewingDirections
    displacements: Displacements

    @cached_property
    def box(self) -> np.ndarray:
        """Transform of an image of ones."""
        side = self.descriptor.cartesian_grid.side_px
        return brute.direct_transform(np.ones((side, side)), self.descriptor.polar_grid)

    @cached_property
    def displacements_A(self) -> np.ndarray:
        """Columns x and y."""
        return np.stack([self.displacements.x_A, self.displacements.y_A], axis=1)

    @cached_property
    def prior(self) -> np.ndarray:
        """Of the displacements."""
        prior: np.ndarray = np.exp(self.displacements.log_prior)
        return prior

    def expected(self, n_compared: float | None = None) -> list[AllPoses]:
        """Scores of every image at every pose."""
        polar, pixels = self.descriptor.polar_grid, self.descriptor.cartesian_grid
        return [
            brute.score_all_poses(
                image,
                ctf,
                self.templates,
                self.displacements_A,
                polar,
                n_pixels=pixels.side_px,
                box_A=pixels.box_size_A,
                n_compared=n_compared or np.pi * (2 * polar.radius_max) ** 2,
            )
            for image, ctf in zip(self.images, self.ctf, strict=True)
        ]

    def search(self, **options: Any) -> PoseSearch:
        """Set up the exact search of this problem."""
        is_single = self.descriptor.precision == "single"
        images = torch.tensor(self.templates, dtype=torch.complex64 if is_single else None)
        templates = TemplateSet("case", images, self.views, self.descriptor)
        return PoseSearch(templates, self.displacements, mode="exact", **options)

    def score(self, **options: Any) -> PoseScores:
        """Score the images by the exact search."""
        images, ctf = torch.tensor(self.images), torch.tensor(self.ctf)
        if self.descriptor.precision == "single":
            images, ctf = images.to(torch.complex64), ctf.to(torch.float32)
        return self.search(**options).score(images, ctf)


def random_transform(
    rng: np.random.Generator, descriptor: ImageDescriptor, offset: float
) -> np.ndarray:
    """Polar image, of unit norm, of noise on an offset."""
    side, polar = descriptor.cartesian_grid.side_px, descriptor.polar_grid
    image = brute.direct_transform(rng.normal(size=(side, side)) + offset, polar)
    image /= np.sqrt(brute.product(image, image, polar))
    return image


def astigmatic_ctf(rng: np.random.Generator, descriptor: ImageDescriptor) -> np.ndarray:
    """Even function that changes sign and oscillates differently along its two axes."""
    polar = descriptor.polar_grid
    swing = 0.5 * np.cos(2 * (polar.theta_shell - rng.uniform(0, np.pi)))
    squares = (polar.radius_shells / polar.radius_max)[:, None] ** 2
    waves: np.ndarray = np.sin(rng.uniform(4, 7) * squares * (1 + swing[None, :]) + 0.1)
    return waves * rng.uniform(0.5, 2)


def make_case(
    n_pixels: int = 10,
    n_inplanes: int | None = None,
    precision: str = "double",
    *,
    n_images: int = 2,
    n_views: int = 3,
    displacements: Displacements | None = None,
    seed: int = 0,
) -> Case:
    """Images that hold something of a template at some pose, noise and an offset."""
    rng = np.random.default_rng(seed)
    descriptor = ImageDescriptor.from_individual_values(
        n_pixels, PIXEL_A, precision=precision, n_inplanes=n_inplanes
    )
    polar, box_A = descriptor.polar_grid, descriptor.cartesian_grid.box_size_A
    if displacements is None:
        displacements = Displacements.grid(1.5, 3, 2, PIXEL_A, prior_sd_A=2.5)
    templates = np.stack([random_transform(rng, descriptor, 0.5) for _ in range(n_views)])
    ctf = np.stack([astigmatic_ctf(rng, descriptor) for _ in range(n_images)])
    images = np.stack([random_transform(rng, descriptor, 0.3) for _ in range(n_images)])
    for image, of_image in zip(images, ctf, strict=True):
        place = int(rng.integers(len(displacements)))
        at_A = float(displacements.x_A[place]), float(displacements.y_A[place])
        n_steps = int(rng.integers(polar.n_inplanes))
        signal = of_image * brute.posed(
            templates[rng.integers(n_views)], n_steps, at_A, polar, box_A
        )
        image *= 1.3
        image += signal
        image /= np.sqrt(brute.product(image, image, polar))
    weights = rng.uniform(0.2, 3, n_views)
    views = ViewingDirections(
        rot_rad=rng.uniform(-3, 3, n_views),
        tilt_rad=rng.uniform(0, 3, n_views),
        weights=weights / weights.sum(),
    )
    return Case(
        descriptor=descriptor,
        images=images,
        ctf=ctf,
        templates=templates,
        views=views,
        displacements=displacements,
    )


def assert_agrees(
    scores: PoseScores, case: Case, expected: list[AllPoses], relative: float
) -> None:
    """Compare all numbers, and the pose as long as there is no second one as good."""
    for i, poses in enumerate(expected):
        place = int(scores.view[i]), int(scores.displacement[i]), int(scores.inplane[i])
        largest = poses.cross_correlation[poses.best]
        assert poses.cross_correlation[place] == pytest.approx(largest, rel=relative)
        assert scores.cross_correlation[i] == pytest.approx(largest, rel=relative)
        optimal = poses.log_likelihood[place]
        assert scores.log_likelihood_optimal[i] == pytest.approx(optimal, rel=relative)
        over_poses = brute.integrated(poses.log_likelihood, case.views.weights, case.prior)
        assert scores.log_likelihood_integrated[i] == pytest.approx(over_poses, rel=relative)
        assert scores.left_out[i] == 0


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(("n_pixels", "n_inplanes"), [(10, None), (11, 22), (12, 30), (9, 16)])
def test_equals_the_oracle(n_pixels: int, n_inplanes: int | None, precision: str) -> None:
    """Best pose, its correlation and likelihood, and the integral, for even and odd boxes."""
    case = make_case(n_pixels, n_inplanes, precision)
    assert_agrees(case.score(), case, case.expected(), RELATIVE[precision])


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_equals_the_oracle_for_any_scale_of_the_ctf(factor: float, precision: str) -> None:
    """No tolerance is one of absolute values: a scale factor may be in the metadata."""
    case = make_case(10, precision=precision)
    scaled = replace(case, ctf=case.ctf * factor)
    assert_agrees(scaled.score(), scaled, scaled.expected(), RELATIVE[precision])


def test_equals_the_oracle_for_an_odd_number_of_angles() -> None:
    """Then no angle has its opposite on the grid."""
    case = make_case(10, 21)
    assert_agrees(case.score(), case, case.expected(), RELATIVE["double"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_poses_are_those_of_the_oracle(seed: int) -> None:
    """The very indices of view, displacement and in-plane angle, for more views and images."""
    case = make_case(8, n_images=5, n_views=4, seed=seed)
    scores = case.score()
    found = np.stack([scores.view, scores.displacement, scores.inplane], axis=1)
    expected = case.expected()
    np.testing.assert_array_equal(found, [poses.best for poses in expected])
    assert len(np.unique(found, axis=0)) > 1
    assert_agrees(scores, case, expected, RELATIVE["double"])


@pytest.mark.parametrize("counted", ["disc", "box"])
def test_counts_values_as_asked(counted: str) -> None:
    """The likelihood is that for the number of values in the disc, or in the box."""
    case = make_case()
    n_compared = {"disc": np.pi * 5**2, "box": 10**2}[counted]
    scores = case.score(n_compared=counted)
    assert_agrees(scores, case, case.expected(n_compared), RELATIVE["double"])


@pytest.mark.parametrize(
    "displacements",
    [
        Displacements.grid(0, 1, 1, PIXEL_A),
        Displacements.grid(2, 1, 3, PIXEL_A),
        Displacements.grid(1, 2, 2, PIXEL_A),
        Displacements(
            x_A=np.array([0.3, -2.2]), y_A=np.array([1.1, 0.4]), log_prior=np.log([0.9, 0.1])
        ),
    ],
    ids=["one", "along y", "zero added", "off the grid"],
)
def test_any_displacements(displacements: Displacements) -> None:
    """One, a line, an even grid with zero added, and whatever a caller makes up."""
    case = make_case(displacements=displacements)
    assert_agrees(case.score(), case, case.expected(), RELATIVE["double"])


def test_result_does_not_depend_on_how_the_work_is_cut() -> None:
    """However little memory there is, and on one thread or two, the scores are the same."""
    case = make_case(n_images=5, n_views=7, precision="single")
    expected = case.score()
    for options in ({"memory_bytes": 2e6}, {"memory_bytes": 3e5}):
        scores = case.score(**options)
        for name in ("view", "inplane", "displacement"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(expected, name))
        for name in ("log_likelihood_optimal", "log_likelihood_integrated", "cross_correlation"):
            np.testing.assert_allclose(getattr(scores, name), getattr(expected, name), rtol=1e-6)


# What the oracle is to notice. Each of these would be an easy mistake, and each changes the result
# by far more than the tolerance with which the search is compared with the oracle.


def likelihood_with_box_terms_of(case: Case, *, rotated: bool, displaced: bool) -> np.ndarray:
    """Log-likelihoods of the first image with ⟨s, CT⟩ of a template that is not fully posed."""
    polar, pixels = case.descriptor.polar_grid, case.descriptor.cartesian_grid
    image, ctf, box = case.images[0], case.ctf[0], case.box
    shape = len(case.templates), len(case.displacements), polar.n_inplanes
    values = np.empty(shape)
    for view, place, inplane in np.ndindex(shape):
        x_A, y_A = case.displacements_A[place]
        x = ctf * brute.posed(case.templates[view], inplane, (x_A, y_A), polar, pixels.box_size_A)
        in_mean_term = ctf * brute.posed(
            case.templates[view],
            inplane if rotated else 0,
            (x_A, y_A) if displaced else (0.0, 0.0),
            polar,
            pixels.box_size_A,
        )
        sums = brute.Sums(
            xx=brute.product(x, x, polar),
            yy=brute.product(image, image, polar),
            xy=brute.product(image, x, polar),
            ss=brute.product(box, box, polar),
            sx=brute.product(box, in_mean_term, polar),
            sy=brute.product(box, image, polar),
        )
        values[view, place, inplane] = sums.log_likelihood(np.pi * (2 * polar.radius_max) ** 2)
    return values


def test_mean_term_is_that_of_the_posed_template() -> None:
    """With the mean term of the template before its rotation or displacement nothing agrees."""
    case = make_case()
    scores, expected = case.score(), case.expected()[0]
    ours = scores.log_likelihood_integrated[0]

    def integrated(*, rotated: bool, displaced: bool) -> float:
        logs = likelihood_with_box_terms_of(case, rotated=rotated, displaced=displaced)
        if rotated and displaced:
            np.testing.assert_allclose(logs, expected.log_likelihood, rtol=1e-12)
        return brute.integrated(logs, case.views.weights, case.prior)

    assert ours == pytest.approx(integrated(rotated=True, displaced=True), rel=1e-10)
    assert abs(ours - integrated(rotated=False, displaced=True)) > 1e-3 * abs(ours)
    assert abs(ours - integrated(rotated=True, displaced=False)) > 1e-3 * abs(ours)


def test_weights_of_views_count_by_their_logarithms() -> None:
    """Added to log-likelihoods as they are, or left out, weights give another integral."""
    case = make_case()
    ours = case.score().log_likelihood_integrated[0]
    logs = case.expected()[0].log_likelihood
    weights = case.views.weights[:, None, None]
    share = case.prior[None, :, None] / logs.shape[2]
    assert ours == pytest.approx(logsumexp(logs, b=weights * share), rel=1e-10)
    assert abs(ours - logsumexp(logs + weights, b=share / len(weights))) > 1e-3 * abs(ours)
    assert abs(ours - logsumexp(logs, b=share / len(weights))) > 1e-3 * abs(ours)


def test_prior_of_displacements_counts() -> None:
    """A flat prior in place of the Gaussian one gives another integral, and no other pose."""
    case = make_case()
    n = len(case.displacements)
    flat = Displacements(
        case.displacements.x_A, case.displacements.y_A, log_prior=np.full(n, -np.log(n))
    )
    one, other = case.score(), replace(case, displacements=flat).score()
    np.testing.assert_array_equal(one.cross_correlation, other.cross_correlation)
    assert (np.abs(one.log_likelihood_integrated - other.log_likelihood_integrated) > 0.01).all()


def test_integrals_differ_between_images() -> None:
    """Every image has its own, and it is never above that of the best pose."""
    case = make_case(n_images=6)
    scores = case.score()
    values = scores.log_likelihood_integrated
    assert np.diff(np.sort(values)).min() > 1e-3
    highest = [poses.log_likelihood.max() for poses in case.expected()]
    assert (values < highest).all()


# Symmetries


@pytest.mark.parametrize("n_steps", [1, 5, -3])
def test_rotating_image_and_templates_together_changes_nothing(n_steps: int) -> None:
    """By steps of the in-plane grid: with the CTF and the displacements turned as well."""
    case = make_case(12)
    polar = case.descriptor.polar_grid
    gamma = 2 * np.pi * n_steps / polar.n_inplanes
    x_A, y_A = case.displacements_A.T
    turned = replace(
        case,
        images=np.roll(case.images, n_steps, axis=2),
        ctf=np.roll(case.ctf, n_steps, axis=2),
        templates=np.roll(case.templates, n_steps, axis=2),
        displacements=Displacements(
            x_A * np.cos(gamma) - y_A * np.sin(gamma),
            x_A * np.sin(gamma) + y_A * np.cos(gamma),
            case.displacements.log_prior,
        ),
    )
    # The box has corners: only the correlation knows nothing of it
    one, other = case.score(), turned.score()
    for name in ("view", "inplane", "displacement"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.cross_correlation, other.cross_correlation, rtol=1e-10)


def test_a_quarter_turn_of_everything_changes_nothing() -> None:
    """An odd box is turned onto itself, so likelihoods agree as well."""
    case = make_case(9, 20)
    x_A, y_A = case.displacements_A.T
    turned = replace(
        case,
        images=np.roll(case.images, 5, axis=2),
        ctf=np.roll(case.ctf, 5, axis=2),
        templates=np.roll(case.templates, 5, axis=2),
        displacements=Displacements(-y_A, x_A, case.displacements.log_prior),
    )
    assert_same_scores(case.score(), turned.score())


def assert_same_scores(one: PoseScores, other: PoseScores) -> None:
    """Compare poses and all numbers of two searches."""
    for name in ("view", "inplane", "displacement"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("cross_correlation", "log_likelihood_optimal", "log_likelihood_integrated"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10)


def test_rotating_the_templates_moves_the_in_plane_angle() -> None:
    """Templates turned by three steps match three steps earlier; all else is as before."""
    case = make_case()
    turned = replace(case, templates=np.roll(case.templates, 3, axis=2))
    one, other = case.score(), turned.score()
    n_inplanes = case.descriptor.polar_grid.n_inplanes
    np.testing.assert_array_equal((other.inplane + 3) % n_inplanes, one.inplane)
    for name in ("cross_correlation", "log_likelihood_optimal", "log_likelihood_integrated"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10)


def test_scale_of_the_image_changes_all_likelihoods_alike() -> None:
    """Correlations and poses stay, and log-likelihoods change by 4 − N powers of the factor."""
    case = make_case()
    one, other = case.score(), replace(case, images=case.images * 3.0).score()
    np.testing.assert_allclose(one.cross_correlation, other.cross_correlation, rtol=1e-10)
    expected = (4 - np.pi * 5**2) * np.log(3)
    for name in ("log_likelihood_optimal", "log_likelihood_integrated"):
        np.testing.assert_allclose(getattr(other, name) - getattr(one, name), expected, rtol=1e-9)


def test_scale_of_the_templates_changes_no_correlation() -> None:
    """A factor c on CTF or template is 1/c on the scale that is integrated over."""
    case = make_case()
    one, other = case.score(), replace(case, ctf=case.ctf * 0.25).score()
    np.testing.assert_allclose(one.cross_correlation, other.cross_correlation, rtol=1e-10)
    for name in ("log_likelihood_optimal", "log_likelihood_integrated"):
        np.testing.assert_allclose(getattr(other, name) - getattr(one, name), np.log(4), rtol=1e-9)


def test_an_offset_of_the_image_changes_no_likelihood() -> None:
    """It is integrated out, though correlations change."""
    case = make_case()
    offset = 0.2 * case.box / np.sqrt(brute.product(case.box, case.box, case.descriptor.polar_grid))
    one, other = case.score(), replace(case, images=case.images + offset).score()
    assert (np.abs(one.cross_correlation - other.cross_correlation) > 1e-3).all()
    np.testing.assert_allclose(
        one.log_likelihood_integrated, other.log_likelihood_integrated, rtol=1e-10
    )
