"""Form factors against integrals over the shapes, and against gemmi's structure factors."""

from __future__ import annotations

from collections.abc import Callable

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from cryolike.errors import UsageError
from cryolike.physics.scattering import (
    AtomicModel,
    DensityMap,
    FormFactors,
    bead_form_factors,
    electron_form_factors,
    scatters_electrons,
    separable,
)

FREQUENCIES_PER_A = np.array([0.0, 0.003, 0.05, 0.11, 0.2, 0.37, 0.5])
RADII_A = np.array([1.0, 2.25, 3.4])


def transform_of_shells(
    density: Callable[[float], float], radius_max_A: float, s_per_A: float
) -> float:
    """Integrate 4πr² ρ(r) sin(2πsr)/(2πsr) numerically."""

    def shell(radius_A: float) -> float:
        wave = float(np.sinc(2 * s_per_A * radius_A))
        return 4 * np.pi * radius_A**2 * density(radius_A) * wave

    return float(quad(shell, 0, radius_max_A, epsabs=1e-12, epsrel=1e-12, limit=500)[0])


def test_gaussian_bead_is_the_transform_of_a_normalised_gaussian() -> None:
    """The radius is the standard deviation, and the Gaussian's integral is 1."""
    values = bead_form_factors(RADII_A, "gaussian")(FREQUENCIES_PER_A)
    for radius_A, of_kind in zip(RADII_A, values, strict=True):

        def density(r: float, sigma: float = radius_A) -> float:
            return float(np.exp(-(r**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2) ** 1.5)

        expected = [transform_of_shells(density, 12 * radius_A, s) for s in FREQUENCIES_PER_A]
        np.testing.assert_allclose(of_kind, expected, atol=1e-11)


def test_hard_sphere_is_the_transform_of_a_homogeneous_sphere() -> None:
    """f(s) is the integral over the sphere's sections, whose area is π(R² − z²)."""
    values = bead_form_factors(RADII_A, "hard-sphere")(FREQUENCIES_PER_A)
    for radius_A, of_kind in zip(RADII_A, values, strict=True):
        volume = 4 / 3 * np.pi * radius_A**3

        def section(z: float, s: float, radius: float = radius_A) -> float:
            return float(np.pi * (radius**2 - z**2) * np.cos(2 * np.pi * s * z))

        expected = [
            quad(section, -radius_A, radius_A, args=(s,), epsabs=1e-12)[0] / volume
            for s in FREQUENCIES_PER_A
        ]
        np.testing.assert_allclose(of_kind, expected, atol=1e-11)


def test_hard_sphere_is_accurate_near_zero() -> None:
    """For small x the form factor is 1 − x²/10 + x⁴/280, without cancellation."""
    frequency_per_A = np.concatenate([[0.0], np.logspace(-15, -3, 60)])
    x = 2 * np.pi * 2.25 * frequency_per_A
    values = bead_form_factors(np.array([2.25]), "hard-sphere")(frequency_per_A)[0]
    np.testing.assert_allclose(values, 1 - x**2 / 10 + x**4 / 280, rtol=1e-14)


@pytest.mark.parametrize("element", ["H", "D", "C", "N", "O", "P", "S", "Se", "Fe", "U"])
def test_electron_form_factor_is_gemmi_s(element: str) -> None:
    """At sin θ/λ = s/2 it is gemmi's value of table 4.3.2.2, damped by exp(−B s²/4)."""
    b_factors_A2 = np.array([0.0, 20.0, 133.3])
    values = electron_form_factors([element] * 3, b_factors_A2)(FREQUENCIES_PER_A)
    for b_factor_A2, of_kind in zip(b_factors_A2, values, strict=True):
        squared = [(s / 2) ** 2 for s in FREQUENCIES_PER_A]
        table = gemmi.Element(element).c4322
        expected = [table.calculate_sf(x) * np.exp(-b_factor_A2 * x) for x in squared]
        np.testing.assert_allclose(of_kind, expected, rtol=2e-6)


def test_electron_form_factor_of_carbon_at_zero() -> None:
    """The scattering of carbon forwards is 2.509 Å, as International Tables C, 4.3.1.1, say."""
    value = electron_form_factors(["C"], np.zeros(1))(np.zeros(1))
    np.testing.assert_allclose(value, [[2.509]], atol=2e-3)


def test_model_s_transform_is_gemmi_s_structure_factor() -> None:
    """Σ w f(|s|) exp(−2πi s·r) is the conjugate of gemmi's sum over atoms in a P1 cell."""
    random = np.random.default_rng(3)
    edge_A, elements = 30.0, ["C", "N", "O", "S", "Fe"]
    positions_A = random.uniform(-10, 10, (5, 3))
    occupancy, b_factors_A2 = random.uniform(0.2, 1, 5), random.uniform(5, 80, 5)
    small = gemmi.Model(1)
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    for i, element in enumerate(elements):
        atom = gemmi.Atom()
        atom.element, atom.pos = gemmi.Element(element), gemmi.Position(*positions_A[i])
        atom.occ, atom.b_iso = float(occupancy[i]), float(b_factors_A2[i])
        residue.add_atom(atom)
    chain.add_residue(residue)
    small.add_chain(chain)
    cell = gemmi.UnitCell(edge_A, edge_A, edge_A, 90, 90, 90)
    calculator = gemmi.StructureFactorCalculatorE(cell)
    form_factors = electron_form_factors(elements, b_factors_A2)
    model = AtomicModel("m", positions_A, np.arange(5), occupancy, form_factors)
    for index in [(0, 0, 0), (1, 0, 0), (2, -3, 5), (-7, 4, 9)]:
        s_per_A = np.array(index) / edge_A
        factors = model.form_factors(np.array([np.linalg.norm(s_per_A)]))[model.kind, 0]
        ours = (model.weight * factors * np.exp(-2j * np.pi * model.positions_A @ s_per_A)).sum()
        theirs = calculator.calculate_sf_from_model(small, index)
        np.testing.assert_allclose(ours, np.conj(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", ["gaussian", "hard-sphere"])
def test_reach_holds_nearly_all_of_a_bead(shape: str) -> None:
    """Beyond a plane at the reach there lies less than 0.2 per cent of a bead."""
    form_factors = bead_form_factors(np.array([2.0]), shape)
    reach_A = float(form_factors.reach_A[0])
    spread_A = 2.0 if shape == "gaussian" else 2.0 / np.sqrt(5)
    outside = quad(lambda z: np.exp(-(z**2) / (2 * spread_A**2)), reach_A, np.inf)[0]
    assert outside / (spread_A * np.sqrt(2 * np.pi)) < (0.002 if shape == "gaussian" else 0.02)
    assert reach_A == pytest.approx({"gaussian": 6.0, "hard-sphere": 2.0}[shape])


def test_extent_is_that_of_the_farthest_bead_with_its_shape() -> None:
    """The farthest centre need not be the farthest edge."""
    form_factors = bead_form_factors(np.array([1.0, 8.0]), "hard-sphere")
    positions_A = np.array([[0.0, 0.0, 10.0], [0.0, -6.0, 0.0]])
    model = AtomicModel("m", positions_A, np.array([0, 1]), np.ones(2), form_factors)
    assert model.extent_A == pytest.approx(14.0)
    assert len(model) == 2


def test_box_of_a_map_is_its_shape_times_the_voxel_size() -> None:
    """Edges are given along z, y, x."""
    density = DensityMap("m", np.zeros((2, 3, 4), np.float32), 1.5)
    assert density.box_A == (3.0, 4.5, 6.0)


def many_kinds(model: str, n_kinds: int) -> FormFactors:
    """Kinds such as a large structure has."""
    random = np.random.default_rng(5)
    if model == "electron":
        elements = random.choice(["H", "C", "N", "O", "P", "S", "Zn"], n_kinds)
        return electron_form_factors(elements.tolist(), random.uniform(0, 250, n_kinds))
    return bead_form_factors(random.uniform(1.0, 40.0, n_kinds), model)


@pytest.mark.parametrize("model", ["electron", "gaussian", "hard-sphere"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_separable_form_factors_are_as_accurate_as_asked(model: str, tolerance: float) -> None:
    """At frequencies between those of the fit, each kind's error is within the tolerance."""
    form_factors = many_kinds(model, 400)
    found = separable(form_factors, 0.4, tolerance)
    frequency_per_A = np.random.default_rng(6).uniform(0, 0.4, 500)
    expected = form_factors(frequency_per_A)
    error = np.abs(found.coefficients @ found.basis(frequency_per_A) - expected).max(axis=1)
    assert (error <= tolerance * form_factors(np.zeros(1))[:, 0]).all()
    assert found.coefficients.shape == (400, found.basis.n_kinds)


def test_few_functions_do_for_all_atoms() -> None:
    """Thousands of B-factors need about ten transforms at single precision, and gently."""
    found = separable(many_kinds("electron", 3000), 0.4, 1e-6)
    assert found.basis.n_kinds <= 14
    assert np.abs(found.coefficients).sum(axis=1).max() < 200


def test_residues_need_few_functions() -> None:
    """Twenty radii of residues need at most seven transforms."""
    form_factors = bead_form_factors(np.linspace(2.25, 3.4, 20), "gaussian")
    assert separable(form_factors, 0.2).basis.n_kinds <= 7


def test_one_kind_is_its_own_basis() -> None:
    """A single kind is left as it is."""
    form_factors = bead_form_factors(np.array([2.5]), "gaussian")
    found = separable(form_factors, 0.3)
    assert found.basis is form_factors
    assert found.coefficients.tolist() == [[1.0]]


@given(st.lists(st.floats(0.5, 50.0), min_size=1, max_size=8), st.sampled_from([1e-4, 1e-8]))
def test_any_radii_are_separable(radii_A: list[float], tolerance: float) -> None:
    """Equal, close and very different radii alike."""
    form_factors = bead_form_factors(np.array(radii_A), "gaussian")
    found = separable(form_factors, 0.25, tolerance)
    frequency_per_A = np.linspace(0, 0.25, 77)
    approximate = found.coefficients @ found.basis(frequency_per_A)
    np.testing.assert_allclose(approximate, form_factors(frequency_per_A), atol=tolerance)


def test_kinds_can_be_chosen() -> None:
    """`of_kinds` keeps the values, in the order asked for."""
    for form_factors in (many_kinds("electron", 9), many_kinds("hard-sphere", 9)):
        chosen = form_factors.of_kinds(np.array([7, 0, 7]))
        expected = form_factors(FREQUENCIES_PER_A)[[7, 0, 7]]
        np.testing.assert_array_equal(chosen(FREQUENCIES_PER_A), expected)
        assert chosen.n_kinds == 3


@pytest.mark.parametrize("radius_A", [0.0, -2.0, np.nan, np.inf])
def test_radii_must_be_positive(radius_A: float) -> None:
    """No bead has a radius that is zero, negative or no number."""
    with pytest.raises(UsageError, match="positive"):
        bead_form_factors(np.array([2.0, radius_A]), "gaussian")


def test_unknown_shape_is_an_error() -> None:
    """The message names the shapes there are."""
    with pytest.raises(UsageError, match="gaussian or hard-sphere"):
        bead_form_factors(np.array([2.0]), "cube")


def test_elements_without_factors_are_named() -> None:
    """Unknown elements, and those beyond the table, are an error."""
    assert [scatters_electrons(symbol) for symbol in ("C", "Cf", "Es", "X", "??")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(UsageError, match="Es, X"):
        electron_form_factors(["C", "X", "Es"], np.zeros(3))


def test_b_factor_must_not_make_an_atom_sharper_than_a_point() -> None:
    """A strongly negative B-factor would make a form factor grow with s."""
    with pytest.raises(UsageError, match="-5"):
        electron_form_factors(["C"], np.array([-5.0]))


@pytest.mark.parametrize(
    ("largest", "tolerance"), [(0.0, 1e-6), (np.inf, 1e-6), (0.3, 0.0), (0.3, 2.0)]
)
def test_separable_checks_what_it_is_asked_for(largest: float, tolerance: float) -> None:
    """Frequencies and tolerances that make no sense are an error."""
    with pytest.raises(UsageError, match="tolerance"):
        separable(many_kinds("gaussian", 3), largest, tolerance)
