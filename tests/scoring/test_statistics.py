"""Likelihoods tell structures apart as well as theory says, and no better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
import torch
from tests.scoring.brute import Sums
from tests.scoring.simulated import ctf_of, templates_of, transformed

from cryolike import ImageDescriptor
from cryolike.physics.ctf import CtfParameters
from cryolike.physics.polar import PolarTransform
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import BlobModel, asymmetric_particle, project, simulate_particles

N_PIXELS, PIXEL_A = 24, 5.0
DESCRIPTOR = ImageDescriptor.from_individual_values(N_PIXELS, PIXEL_A, n_inplanes=40)
N_DISC = np.pi * (2 * DESCRIPTOR.polar_grid.radius_max) ** 2
N_IMAGES = 60
"""Of each structure."""


def two_structures() -> tuple[BlobModel, BlobModel]:
    """Make a particle, and the same with its largest lobe moved."""
    model = asymmetric_particle(0.3 * N_PIXELS * PIXEL_A)
    model = replace(model, sigmas_A=model.sigmas_A * 2)
    centres_A = model.centres_A.copy()
    lobe = (centres_A[:, 0] < -12) & (np.arange(len(centres_A)) >= 40)
    assert 5 <= lobe.sum() <= 15
    centres_A[lobe] += [6.0, 20.0, 0.0]
    return model, replace(model, centres_A=centres_A)


def lenses(rng: np.random.Generator, n: int) -> CtfParameters:
    """Astigmatic, each image its own."""
    mean_A, deviation_A = rng.uniform(9_000, 16_000, n), rng.uniform(-1_000, 1_000, n)
    return CtfParameters(
        defocus_u_A=mean_A + deviation_A,
        defocus_v_A=mean_A - deviation_A,
        defocus_angle_rad=rng.uniform(0, np.pi, n),
        phase_shift_rad=np.zeros(n),
        spherical_aberration_mm=np.full(n, 2.7),
        voltage_kV=np.full(n, 300.0),
        amplitude_contrast=np.full(n, 0.1),
        bfactor_A2=np.zeros(n),
        scale=np.ones(n),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Images of two structures, the first half of the first one, and searches for both."""

    signals: np.ndarray
    ctf: torch.Tensor
    searches: tuple[PoseSearch, PoseSearch]

    @property
    def is_of_first(self) -> np.ndarray:
        """Which structure is the right one."""
        return np.arange(len(self.signals)) < N_IMAGES

    def right_and_wrong(self, of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        """Sort values under the two structures: columns right and wrong."""
        columns = np.stack([of_first, of_second], axis=1)
        return np.where(self.is_of_first[:, None], columns, columns[:, ::-1])

    def explained(self) -> np.ndarray:
        """Share of each signal's power that the best pose of either structure explains."""
        signals = transformed(self.signals, DESCRIPTOR)
        correlations = [s.score(signals, self.ctf).cross_correlation for s in self.searches]
        return self.right_and_wrong(*correlations) ** 2

    @cached_property
    def _left(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Power of each signal, and how much of it the right and the wrong structure leave."""
        centred = self.signals - self.signals.mean(axis=(1, 2), keepdims=True)
        power = (centred**2).sum(axis=(1, 2))
        right, wrong = (power[:, None] * (1 - self.explained())).T
        return power, right, wrong

    def expected_difference(self, noise_variance: np.ndarray) -> np.ndarray:
        """Log-likelihood of the right structure over that of the wrong one, nats.

        A template that leaves R of a signal leaves N v + R of an image whose N values have noise of
        variance v, and log L is −(N/2 − 2) times the logarithm of that.
        """
        _, right, wrong = self._left
        noise = N_DISC * noise_variance
        difference: np.ndarray = (N_DISC / 2 - 2) * np.log((noise + wrong) / (noise + right))
        return difference

    def noise_variance(self, nats: float) -> np.ndarray:
        """Variance of the noise at which so large a difference is expected of every image."""
        power, right, wrong = self._left
        # The equation above, solved for v
        ratio = np.exp(nats / (N_DISC / 2 - 2))
        variance: np.ndarray = (wrong - ratio * right) / (ratio - 1) / N_DISC
        assert (variance > 0).all()
        assert (power > N_DISC * variance / 100).all()
        return variance

    def measured_difference(self, noise_variance: np.ndarray) -> np.ndarray:
        """Right minus wrong of noisy images: integrated, and at the best poses; (2, n_images)."""
        noise = np.random.default_rng(1).normal(size=self.signals.shape)
        noise *= np.sqrt(noise_variance)[:, None, None]
        images = transformed(self.signals + noise, DESCRIPTOR)
        scores = [search.score(images, self.ctf) for search in self.searches]
        integrated = self.right_and_wrong(*(s.log_likelihood_integrated for s in scores))
        optimal = self.right_and_wrong(*(s.log_likelihood_optimal for s in scores))
        return np.stack([integrated[:, 0] - integrated[:, 1], optimal[:, 0] - optimal[:, 1]])


@pytest.fixture(scope="module")
def trial() -> Trial:
    """Images at random poses, without noise as yet."""
    rng = np.random.default_rng(0)
    structures = two_structures()
    views = ViewingDirections.of_spacing(0.25)
    displacements = Displacements.grid(1, 3, 3, PIXEL_A)
    parameters = lenses(rng, 2 * N_IMAGES)
    signals = []
    for number, structure in enumerate(structures):
        euler_rad = rng.uniform(-np.pi, np.pi, (N_IMAGES, 3))
        euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, N_IMAGES))
        origins_A = rng.integers(-1, 2, (N_IMAGES, 2)) * PIXEL_A
        own = parameters.take(slice(number * N_IMAGES, (number + 1) * N_IMAGES))
        signals.append(simulate_particles(structure, own, euler_rad, origins_A, N_PIXELS, PIXEL_A))
    first, second = (
        PoseSearch(templates_of(structure, views, DESCRIPTOR), displacements, mode="exact")
        for structure in structures
    )
    return Trial(
        signals=np.concatenate(signals).astype(np.float64),
        ctf=ctf_of(parameters, DESCRIPTOR),
        searches=(first, second),
    )


@pytest.mark.parametrize("kind", [0, 1], ids=["integrated", "at the best pose"])
def test_the_right_structure_is_likelier(trial: Trial, kind: int) -> None:
    """Where 25 nats are expected of every image, 7 of them noise, 99 % of images tell."""
    variance = trial.noise_variance(25)
    np.testing.assert_allclose(trial.expected_difference(variance), 25, rtol=1e-9)
    difference = trial.measured_difference(variance)[kind]
    assert (difference > 0).mean() >= 0.99
    # Of the difference between two Gaussian log-likelihoods the variance is twice the mean. The
    # mean is a little lower, since the wrong structure has more poses that fit the noise better.
    assert difference.mean() == pytest.approx(25, abs=4)
    assert difference.std() == pytest.approx(np.sqrt(2 * 25), rel=0.25)


def test_an_image_tells_no_more_than_theory_says(trial: Trial) -> None:
    """Where 2 nats are expected, 2 of them noise, some images favour the wrong structure."""
    difference = trial.measured_difference(trial.noise_variance(2))[0]
    assert 0.6 < (difference > 0).mean() < 0.95
    assert -0.5 < difference.mean() < 2.5


def smooth_image(rng: np.random.Generator) -> np.ndarray:
    """Draw Gaussians with nothing beyond Nyquist, around the middle of the box."""
    centres_A = rng.uniform(-25, 25, (8, 3))
    blobs = BlobModel(centres_A=centres_A, sigmas_A=np.full(8, 8.0), weights=rng.normal(size=8))
    image: np.ndarray = project(blobs, np.zeros((1, 3)), np.zeros((1, 2)), N_PIXELS, PIXEL_A)[0]
    return image


def log_likelihood(
    x: np.ndarray, y: np.ndarray, s: np.ndarray, weights: np.ndarray, n_compared: float
) -> float:
    """Of template, image and box, with sums over points that have these weights."""

    def dot(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sum(weights * (a.conj() * b).real))

    sums = Sums(xx=dot(x, x), yy=dot(y, y), xy=dot(x, y), ss=dot(s, s), sx=dot(s, x), sy=dot(s, y))
    return sums.log_likelihood(n_compared)


def test_values_of_the_disc_are_those_compared() -> None:
    """Log-likelihood ratios over the polar grid are those over pixels if the disc's count is N.

    White noise is spread over all pixels, which are N² independent values. The polar grid sees only
    those within the disc; counted as N² they seem to say 4/π times as much as they do.
    """
    rng = np.random.default_rng(3)
    polar = DESCRIPTOR.polar_grid
    transform = PolarTransform.of_descriptor(DESCRIPTOR.with_precision("double"))
    box = np.ones((N_PIXELS, N_PIXELS))
    of_points = polar.point_weight_shells[:, None]
    ratios = []
    for _ in range(40):
        one, other = smooth_image(rng), smooth_image(rng)
        image = one + rng.normal(scale=3 * one.std(), size=one.shape)
        on_pixels = np.stack([one, other, image, box])
        on_points = transform(torch.from_numpy(on_pixels)).numpy()
        ratios.append(
            [
                log_likelihood(a, y, s, weights, n) - log_likelihood(b, y, s, weights, n)
                for (a, b, y, s), weights, n in (
                    (on_pixels, np.ones_like(box), box.size),
                    (on_points, of_points, N_DISC),
                    (on_points, of_points, box.size),
                )
            ]
        )
    over_pixels, in_disc, as_if_in_box = np.sum(ratios, axis=0)
    assert over_pixels > 100
    assert in_disc == pytest.approx(over_pixels, rel=0.05)
    assert as_if_in_box == pytest.approx(over_pixels * 4 / np.pi, rel=0.05)
