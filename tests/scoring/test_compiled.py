"""The compiled comparison with views, against its formulas in double precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.special import logsumexp

from cryolike.errors import UsageError
from cryolike.scoring.comparison import BestOfViews
from cryolike.scoring.compiled import (
    DisplacedImage,
    Integration,
    TemplateViews,
    ViewScales,
    score_views,
)
from cryolike.scoring.lanes import RealLanePlan, aligned_zeros
from cryolike.scoring.vectors import N_LANES

N_VIEWS = 13
"""No multiple of what is compared at once."""

MEAN = 0.07
ALL_POSES = Integration(exponent=300, ones_bound=0.3, cutoff=np.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Random terms, and what follows from them, (n_views, n_displacements, n_angles)."""

    image: DisplacedImage
    templates: TemplateViews
    scales: ViewScales
    x: np.ndarray
    u: np.ndarray

    @property
    def n_displacements(self) -> int:
        """Lanes that stand for one."""
        return int(self.x.shape[1])

    @property
    def log_prior(self) -> np.ndarray:
        """Of these."""
        return self.image.log_prior[: self.n_displacements]

    def log_likelihood(self, p: float) -> np.ndarray:
        """Of all poses."""
        free = 1 - self.u**2
        unexplained = 1 - self.image.mean**2 - (self.x - self.u * self.image.mean) ** 2 / free
        rest = self.scales.half_log_power.astype(np.float64)[:, None]
        log_likelihood = -p * np.log(np.maximum(unexplained, 1e-30)) - np.log(free) / 2 - rest
        return np.asarray(log_likelihood)

    def integrated(self, p: float) -> np.ndarray:
        """Over displacements and angles, (n_views,)."""
        weighted = self.log_likelihood(p) + self.log_prior[:, None] - np.log(self.x.shape[2])
        return np.asarray(logsumexp(weighted, axis=(1, 2)))

    def scored(
        self,
        p: float,
        cutoff: float = np.inf,
        reference: np.ndarray | None = None,
    ) -> BestOfViews:
        """Score all views by the compiled code."""
        integration = Integration(exponent=p, ones_bound=np.abs(self.u).max(), cutoff=cutoff)
        views = np.arange(len(self.x))
        return score_views(self.image, self.templates, views, self.scales, integration, reference)


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random complex numbers in single precision."""
    parts = rng.standard_normal((2, *shape), dtype=np.float32)
    return np.asarray(parts[0] + 1j * parts[1])


def correlations(image: np.ndarray, views: np.ndarray, first: np.ndarray, n: int) -> np.ndarray:
    """Sum of products at each angular frequency, and NumPy's transform to angles."""
    spectra = np.zeros((len(views), len(image), n // 2 + 1), np.complex128)
    for q in range(len(first) - 1):
        part = slice(first[q], first[q + 1])
        spectra[:, :, q] = views[:, part].conj().astype(complex) @ image[:, part].T.astype(complex)
    return np.fft.irfft(spectra, n, axis=-1)


def in_lanes(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n_displacements, n_terms) as blocks of lanes, real and imaginary."""
    n, n_terms = terms.shape
    n_blocks = -(-n // N_LANES)
    padded = np.zeros((n_blocks * N_LANES, n_terms), terms.dtype)
    padded[:n] = terms
    both = aligned_zeros(2, n_blocks, n_terms, N_LANES)
    both[0], both[1] = (
        part.reshape(n_blocks, N_LANES, n_terms).swapaxes(1, 2)
        for part in (padded.real, padded.imag)
    )
    return both[0], both[1]


def make_case(
    n_angles: int,
    n_displacements: int,
    *,
    largest: float,
    largest_u: float = 0.0,
    mean: float = MEAN,
    seed: int = 0,
) -> Case:
    """Draw terms; some angular frequencies have none, and those of ones are the lowest."""
    rng = np.random.default_rng(seed)
    n_frequencies = n_angles // 2 + 1
    first = np.concatenate([[0], rng.integers(0, 6, n_frequencies).cumsum()])
    n_low = max(1, n_frequencies // 5) if largest_u else 0
    terms = complex_normal(rng, n_displacements, first[-1])
    terms_of_ones = complex_normal(rng, n_displacements, first[n_low])
    views = complex_normal(rng, N_VIEWS, first[-1])
    x = correlations(terms, views, first, n_angles)
    u = correlations(terms_of_ones, views, first[: n_low + 1], n_angles)
    scale, scale_u = rng.uniform(0.7, 1.3, (2, N_VIEWS, n_angles)).astype(np.float32)
    scale *= np.float32(largest / np.abs(x * scale[:, None]).max())
    scale_u *= np.float32(largest_u / max(1e-9, np.abs(u * scale_u[:, None]).max()))
    log_prior = np.full(-(-n_displacements // N_LANES) * N_LANES, -np.inf)
    prior = rng.uniform(0.1, 1, n_displacements)
    log_prior[:n_displacements] = np.log(prior / prior.sum())
    (real, imaginary), (ones_real, ones_imaginary) = in_lanes(terms), in_lanes(terms_of_ones)
    return Case(
        image=DisplacedImage(
            real=real,
            imaginary=imaginary,
            log_prior=log_prior,
            ones_real=ones_real,
            ones_imaginary=ones_imaginary,
            mean=mean,
        ),
        templates=TemplateViews(
            real=views.real.copy(),
            imaginary=views.imag.copy(),
            first_term=first,
            plan=RealLanePlan.of_length(n_angles),
        ),
        scales=ViewScales(
            inverse_norm=scale,
            ones_scale=scale_u,
            half_log_power=(5 + 0.3 * rng.standard_normal(scale.shape)).astype(np.float32),
        ),
        x=x * scale[:, None].astype(np.float64),
        u=u * scale_u[:, None].astype(np.float64),
    )


SIZES = [(48, 5), (30, 20), (33, 18), (31, 3), (64, 81), (2, 1), (1, 2), (36, 48)]


@pytest.mark.parametrize(("n_angles", "n_displacements"), SIZES)
def test_best_poses_are_those_of_all_correlations(n_angles: int, n_displacements: int) -> None:
    """The best of each view and its place."""
    case = make_case(n_angles, n_displacements, largest=0.4)
    views = np.arange(N_VIEWS)
    found = score_views(case.image, case.templates, views, case.scales, ALL_POSES)
    flat = case.x.reshape(N_VIEWS, -1)
    np.testing.assert_allclose(found.cross_correlation, flat.max(axis=1), atol=2e-7)
    place = found.displacement * n_angles + found.inplane
    np.testing.assert_array_equal(place, flat.argmax(axis=1))


@pytest.mark.parametrize(("n_angles", "n_displacements"), SIZES)
@pytest.mark.parametrize(
    ("p", "largest", "largest_u"),
    [
        (300, 0.3, 0.04),
        (3000, 0.5, 0.05),
        (500, 0.02, 0.05),  # all poses matter
        (100, 0.1, 0.0),  # no correlation with ones
        (400, 0.2, 0.3),  # more of it than series are for
        (5e4, 0.55, 0.05),
    ],
)
def test_integrated_likelihoods_are_sums_over_all_poses(
    n_angles: int, n_displacements: int, p: float, largest: float, largest_u: float
) -> None:
    """To what correlations in single precision allow: dx of x changes log L by 2p·x·dx/(1 − x²)."""
    case = make_case(n_angles, n_displacements, largest=largest, largest_u=largest_u)
    found = case.scored(p)
    allowed = 2e-6 + 2 * p * largest / (1 - largest**2) * 2e-7 * largest
    np.testing.assert_allclose(
        found.log_likelihood_integrated, case.integrated(p), rtol=0, atol=allowed
    )


@pytest.mark.parametrize("p", [300, 5e4])
def test_likelihoods_are_exact_where_correlations_are(p: float) -> None:
    """Sums of likelihoods err by less than 1e-4 nats where all angles have one known correlation.

    A single product of numbers of few digits is exact in single precision.
    """
    case = make_case(32, 20, largest=0.55)
    rng = np.random.default_rng(3)
    of_image, of_views = rng.integers(-256, 257, (2, 32)) / 256
    first = np.minimum(np.arange(18), 1)
    terms = np.where(np.arange(32) < 20, of_image, 0).astype(np.float32).reshape(2, 1, 16)
    views = of_views[:N_VIEWS, None].astype(np.float32)
    templates = replace(
        case.templates, real=views, imaginary=np.zeros_like(views), first_term=first
    )
    image = replace(
        case.image,
        real=terms,
        imaginary=np.zeros_like(terms),
        ones_real=terms[:, :0],
        ones_imaginary=terms[:, :0],
    )
    scales = replace(case.scales, inverse_norm=np.full((N_VIEWS, 32), 16, np.float32))
    x = np.repeat((views * of_image[:20] / 2)[:, :, None], 32, axis=2).astype(np.float64)
    exact = Case(image=image, templates=templates, scales=scales, x=x, u=np.zeros_like(x))
    found = exact.scored(p).log_likelihood_integrated
    np.testing.assert_allclose(found, exact.integrated(p), rtol=0, atol=1e-4)


def test_images_that_are_explained_entirely_have_finite_likelihoods() -> None:
    """A correlation of 1 leaves nothing, of which the logarithm would be infinite."""
    case = make_case(24, 3, largest=1.0, mean=0.0)
    found = case.scored(3000.0)
    assert np.isfinite(found.log_likelihood_integrated).all()
    assert found.log_likelihood_integrated.argmax() == np.abs(case.x).max(axis=(1, 2)).argmax()


def test_poses_far_below_the_best_are_left_out() -> None:
    """No view differs by more than the cutoff allows, and some have nothing left."""
    case, p, cutoff = make_case(48, 40, largest=0.5, largest_u=0.05), 3000.0, 20.0
    reference = np.full(1, -np.inf)
    first = case.scored(p, cutoff, reference=reference)
    best = case.log_likelihood(p).max()
    assert reference[0] == pytest.approx(best, abs=1e-3)
    again = case.scored(p, cutoff, reference=reference)
    exact = case.integrated(p)
    for found in (first, again):
        assert (found.log_likelihood_integrated <= exact + 1e-3).all()
        lost = np.exp(exact - best) - np.exp(found.log_likelihood_integrated - best)
        assert lost.max() < np.exp(-cutoff) + 1e-3 * np.exp(exact - best).max()
    assert np.isneginf(again.log_likelihood_integrated).any()
    best_view = exact.argmax()
    assert again.log_likelihood_integrated[best_view] == pytest.approx(exact[best_view], abs=1e-3)


def test_views_can_be_chosen() -> None:
    """In any order, more than once; scales belong to their places in the list."""
    case, views = make_case(48, 20, largest=0.3, largest_u=0.04), np.array([7, 2, 2, 12, 0])
    scales = ViewScales(**{name: getattr(case.scales, name)[views] for name in vars(case.scales)})
    integration = Integration(exponent=300, ones_bound=0.04, cutoff=np.inf)
    every = case.scored(300.0)
    found = score_views(case.image, case.templates, views, scales, integration)
    for name in ("cross_correlation", "displacement", "inplane", "log_likelihood_integrated"):
        np.testing.assert_allclose(getattr(found, name), getattr(every, name)[views], rtol=1e-6)
    of_none = ViewScales(**{name: getattr(scales, name)[:0] for name in vars(scales)})
    none = score_views(case.image, case.templates, views[:0], of_none, integration)
    assert none.cross_correlation.size == 0


def test_the_first_of_equal_poses_is_taken() -> None:
    """Equal displacements, in one block and in others, and angles of a template with a symmetry."""
    case = make_case(48, 40, largest=0.4)
    terms = case.image.real + 1j * case.image.imaginary
    terms[:] = terms[0, :, :1]
    odd = np.repeat(np.arange(25), np.diff(case.templates.first_term)) % 2 == 1
    terms[:, odd] = 0  # so that half a turn changes nothing
    image = replace(
        case.image, real=terms.real.copy(), imaginary=terms.imag.copy(), log_prior=np.zeros(48)
    )
    scales = replace(case.scales, inverse_norm=np.ones_like(case.scales.inverse_norm))
    found = score_views(image, case.templates, np.arange(N_VIEWS), scales, ALL_POSES)
    assert not found.displacement.any()
    half_a_turn = correlations(
        terms[0, :, :1].T,
        case.templates.real + 1j * case.templates.imaginary,
        case.templates.first_term,
        48,
    )[:, 0, :24]
    np.testing.assert_array_equal(found.inplane, half_a_turn.argmax(axis=1))


def test_lanes_that_stand_for_no_displacement_never_win() -> None:
    """Not even where all correlations are negative, nor where such lanes lie between others."""
    case = make_case(48, 20, largest=0.4)
    lone = np.full(32, -np.inf)
    lone[[3, 17]] = np.log([0.25, 0.75])
    image = replace(case.image, log_prior=lone)
    flipped = -np.abs(case.scales.inverse_norm) * np.sign(case.x[:, 3].clip(1e-9, None))
    for scale in (case.scales.inverse_norm, flipped.astype(np.float32)):
        scales = replace(case.scales, inverse_norm=scale)
        x = case.x[:, [3, 17]] * (scale / case.scales.inverse_norm)[:, None]
        integration = Integration(exponent=300, ones_bound=0, cutoff=np.inf)
        found = score_views(image, case.templates, np.arange(N_VIEWS), scales, integration)
        np.testing.assert_allclose(found.cross_correlation, x.max(axis=(1, 2)), atol=2e-7)
        assert set(found.displacement) <= {3, 17}
        expected = Case(
            image=replace(image, log_prior=np.log([0.25, 0.75])),
            templates=case.templates,
            scales=scales,
            x=x,
            u=np.zeros_like(x),
        ).integrated(300)
        np.testing.assert_allclose(found.log_likelihood_integrated, expected, atol=1e-3)


def test_negative_correlations_are_as_likely_as_positive_ones() -> None:
    """The scale of an image is integrated over negative values too."""
    case = make_case(48, 20, largest=0.4)
    scales = replace(case.scales, inverse_norm=-case.scales.inverse_norm)
    turned = replace(case, scales=scales, x=-case.x)
    np.testing.assert_allclose(
        turned.scored(3000, 30).log_likelihood_integrated,
        case.scored(3000, 30).log_likelihood_integrated,
    )


def test_frequencies_without_terms_need_not_be_named() -> None:
    """As where the band of frequencies is narrower than the angles allow."""
    case = make_case(48, 20, largest=0.4)
    first = case.templates.first_term
    n_terms, image, every = first[11], case.image, case.templates
    few = replace(
        every,
        real=every.real[:, :n_terms].copy(),
        imaginary=every.imaginary[:, :n_terms].copy(),
        first_term=first[:12].copy(),
    )
    same = replace(few, first_term=np.append(few.first_term, [n_terms] * 14))
    image = replace(
        image,
        real=image.real[:, :n_terms].copy(),
        imaginary=image.imaginary[:, :n_terms].copy(),
    )
    views = np.arange(N_VIEWS)
    x, expected = (
        score_views(image, templates, views, case.scales, ALL_POSES).cross_correlation
        for templates in (few, same)
    )
    np.testing.assert_array_equal(x, expected)
    assert np.abs(x).max() > 0.01


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    """Each is named: compiled code would read beyond their ends."""
    case = make_case(48, 20, largest=0.4, largest_u=0.04)
    image = replace(
        case.image,
        real=case.image.real[:, :-1],
        ones_real=case.image.ones_real[:, :0],
        log_prior=case.image.log_prior[:-1],
    )
    templates = replace(case.templates, first_term=np.append(case.templates.first_term, 99))
    scales = replace(case.scales, ones_scale=case.scales.ones_scale[:, :-1].copy())
    with pytest.raises(UsageError) as error:
        score_views(image, templates, np.arange(N_VIEWS), scales, ALL_POSES)
    named = ("real is", "imaginary is", "ones_imaginary is", "ones_scale is", "log_prior", "angles")
    assert [name for name in named if name not in str(error.value)] == []


@pytest.mark.parametrize("views", [[0, N_VIEWS], [-1]])
def test_views_that_do_not_exist_are_refused(views: list[int]) -> None:
    """Compiled code would read what lies beyond the arrays."""
    case = make_case(8, 2, largest=0.4)
    with pytest.raises(UsageError, match="numbered 0 to 12"):
        score_views(case.image, case.templates, np.array(views), case.scales, ALL_POSES)
