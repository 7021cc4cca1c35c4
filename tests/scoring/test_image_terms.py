"""Compiled terms of displaced images against direct sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.grids import PolarGrid
from cryolike.physics.polar import PolarTransform
from cryolike.scoring.image_terms import ImageTerms
from cryolike.scoring.template_terms import RadialBasis

BOX_A = 50.0
BOUND = 5e-7


def make_grid(n_shells: int, n_angles: int) -> PolarGrid:
    """Grid with these numbers of points."""
    return PolarGrid(8.0, 8.0 / (n_shells - 1), n_angles)


def make_basis(
    n_shells: int, n_angles: int, n_frequencies: int | None = None, seed: int = 0
) -> RadialBasis:
    """Between no and ten random functions for each frequency."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 11, n_angles // 2 + 1 if n_frequencies is None else n_frequencies)
    counts[0] += 1
    first_term = np.concatenate([[0], np.cumsum(counts)])
    rows = rng.standard_normal((first_term[-1], n_shells)) * np.linspace(0.1, 1, n_shells)
    return RadialBasis(n_angles, first_term, torch.tensor(rows, dtype=torch.float32))


def make_images(polar: PolarGrid, n: int = 1, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Noise with the symmetry that real images have, and CTFs with that of CTFs."""
    rng = np.random.default_rng(seed)
    real, imaginary, ctf = rng.standard_normal((3, n, polar.n_shells, polar.n_inplanes // 2))
    half = (real + 1j * imaginary).astype(np.complex64)
    images = np.concatenate([half, half.conj()], axis=2)
    return images, np.concatenate([ctf, ctf], axis=2).astype(np.float32)


def make_displacements(n: int, largest_A: float = 12.0, seed: int = 2) -> np.ndarray:
    """Displacements anywhere in a square."""
    return np.random.default_rng(seed).uniform(-largest_A, largest_A, (n, 2))


def direct_terms(
    basis: RadialBasis,
    polar: PolarGrid,
    image: np.ndarray,
    ctf: np.ndarray,
    displacements_A: np.ndarray,
) -> np.ndarray:
    """Σ_kθ row(k) I C exp(2πi s·δ) exp(−iqθ) in double precision, (n_displacements, n_terms)."""
    rows = basis.rows.numpy().astype(np.float64)
    n_shells, theta = rows.shape[1], polar.theta_shell
    weighted = image[:n_shells].astype(complex) * ctf[:n_shells].astype(float)
    result = np.empty((len(displacements_A), basis.n_terms), complex)
    for i, (x_A, y_A) in enumerate(displacements_A):
        along_A = x_A * np.cos(theta) + y_A * np.sin(theta)
        frequency_per_A = 2 * polar.radius_shells[:n_shells, None] / BOX_A
        displaced = weighted * np.exp(2j * np.pi * frequency_per_A * along_A)
        for q, terms in enumerate(basis.terms):
            result[i, terms] = rows[terms] @ (displaced @ np.exp(-1j * q * theta))
    return result


def by_displacement(parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Terms in the order of displacements, (all lanes, n_terms)."""
    terms = parts[0] + 1j * parts[1]
    return terms.swapaxes(1, 2).reshape(-1, terms.shape[1])


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("n_angles", [2, 4, 6, 8, 10, 12, 14, 18, 22, 30, 44, 48, 70, 98, 128])
@pytest.mark.parametrize("n_shells", [4, 9, 11])
@pytest.mark.parametrize("n_displacements", [3, 7, 19])
def test_terms_equal_direct_sums(n_shells: int, n_angles: int, n_displacements: int) -> None:
    """Terms are those of sums in double precision; lanes beyond the last displacement are 0."""
    polar, basis = make_grid(n_shells, n_angles), make_basis(n_shells, n_angles)
    (image,), (ctf,) = make_images(polar)
    displacements_A = make_displacements(n_displacements)
    terms = ImageTerms(basis, polar, BOX_A)
    found = by_displacement(terms(image, ctf, displacements_A))
    expected = direct_terms(basis, polar, image, ctf, displacements_A)
    assert len(found) == -(-n_displacements // 16) * 16
    assert relative_error(found[:n_displacements], expected) < BOUND
    assert not found[n_displacements:].any()


def test_large_displacements_cost_no_accuracy() -> None:
    """Phases of a hundred turns are as exact as small ones."""
    polar, basis = make_grid(9, 24), make_basis(9, 24)
    (image,), (ctf,) = make_images(polar)
    displacements_A = make_displacements(16, 8 * BOX_A)
    found = by_displacement(ImageTerms(basis, polar, BOX_A)(image, ctf, displacements_A))
    expected = direct_terms(basis, polar, image, ctf, displacements_A)
    assert relative_error(found, expected) < BOUND


@pytest.mark.parametrize("n_frequencies", [1, 2, 3, 7, 8, 13])
def test_low_frequencies_alone(n_frequencies: int) -> None:
    """The terms of the lowest frequencies are the first ones of all terms."""
    polar, basis = make_grid(9, 24), make_basis(9, 24)
    (image,), (ctf,) = make_images(polar)
    displacements_A = make_displacements(5)
    low = ImageTerms(basis, polar, BOX_A, n_frequencies=n_frequencies)
    found = by_displacement(low(image, ctf, displacements_A))[:5]
    expected = direct_terms(basis, polar, image, ctf, displacements_A)
    assert low.n_terms == basis.first_term[n_frequencies]
    assert relative_error(found, expected[:, : low.n_terms]) < BOUND


@pytest.mark.parametrize(("n_shells", "n_frequencies"), [(5, 4), (8, 9), (1, 13)])
def test_basis_of_a_part_of_the_grid(n_shells: int, n_frequencies: int) -> None:
    """A basis on inner shells and of low frequencies ignores everything beyond."""
    polar, basis = make_grid(12, 24), make_basis(n_shells, 16, n_frequencies)
    (image,), (ctf,) = make_images(polar)
    displacements_A = make_displacements(5)
    expected = direct_terms(basis, polar, image, ctf, displacements_A)
    image[n_shells:] = np.nan
    found = by_displacement(ImageTerms(basis, polar, BOX_A)(image, ctf, displacements_A))[:5]
    assert relative_error(found, expected) < BOUND


def test_displaced_image_is_moved_back() -> None:
    """An image whose content is at +δ has, at δ, the terms of the centred one at 0."""
    descriptor = ImageDescriptor.from_individual_values(24, 2.0)
    polar, transform = descriptor.polar_grid, PolarTransform.of_descriptor(descriptor)
    pixels = torch.zeros(2, 24, 24)
    pixels[0, 9:15, 9:15] = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    pixels[1] = pixels[0].roll((-3, 5), dims=(0, 1))  # rows are y
    centred, moved = transform(pixels).numpy()
    ctf = np.ones(centred.shape, np.float32)
    terms = ImageTerms(make_basis(polar.n_shells, polar.n_inplanes), polar, 48.0)
    expected = by_displacement(terms(centred, ctf, np.zeros((1, 2))))[0]
    found = by_displacement(terms(moved, ctf, np.array([[10.0, -6.0]])))[0]
    assert relative_error(found, expected) < 5e-6


def test_threads_may_share_one() -> None:
    """Memory that is used again belongs to one thread alone."""
    polar, basis = make_grid(9, 24), make_basis(9, 24)
    images, ctf = make_images(polar, 40)
    displacements_A, terms = make_displacements(18), ImageTerms(basis, polar, BOX_A)
    expected = list(map(terms, images, ctf, [displacements_A] * 40))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(terms, images, ctf, [displacements_A] * 40))
    np.testing.assert_array_equal(np.array(found), np.array(expected))


def test_arrays_of_other_types() -> None:
    """Double precision, memory that is not contiguous and memory that is read-only are welcome."""
    polar, basis = make_grid(5, 12), make_basis(5, 12)
    (image,), (ctf,) = make_images(polar)
    displacements_A = make_displacements(3)
    terms = ImageTerms(basis, polar, BOX_A)
    expected = by_displacement(terms(image, ctf, displacements_A))
    doubled = np.repeat(image.astype(complex), 2, axis=1)[:, ::2]
    fixed_A = np.asfortranarray(displacements_A)
    for array in (doubled, fixed_A):
        array.setflags(write=False)
    found = by_displacement(terms(doubled, ctf.astype(float), fixed_A))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("n_shells", "n_angles", "options", "message"),
    [
        (5, 9, {}, "even number"),
        (5, 6, {}, "same descriptor"),
        (4, 8, {}, "same descriptor"),
        (5, 8, {"n_frequencies": 0}, "no terms"),
    ],
)
def test_wrong_bases_are_refused(
    n_shells: int, n_angles: int, options: dict[str, int], message: str
) -> None:
    """What does not fit the grid is an error when it is given."""
    with pytest.raises(UsageError, match=message):
        ImageTerms(make_basis(5, 8), make_grid(n_shells, n_angles), BOX_A, **options)


def test_arrays_that_do_not_fit_are_refused() -> None:
    """Compiled code never gets arrays that it would read beyond."""
    polar, basis = make_grid(5, 8), make_basis(5, 8)
    terms = ImageTerms(basis, polar, BOX_A)
    (image,), (ctf,) = make_images(polar)
    (other_image,), (other_ctf,) = make_images(make_grid(6, 8))
    some = make_displacements(4)
    with pytest.raises(UsageError, match="grid"):
        terms(other_image, other_ctf, some)
    with pytest.raises(UsageError, match="displacements"):
        terms(image, ctf, some[:0])
