"""Structures: beads and atoms out of files that the tests write by hand, and the box they need."""

from __future__ import annotations

import gzip
import tracemalloc
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from tests.structures import Row, mmcif_text, pdb_text, small_model

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeError,
    CryoLikeWarning,
    ImageError,
    MetadataError,
    MissingFileError,
    StackError,
    UsageError,
)
from cryolike.io.structure import (
    AtomicModel,
    AtomSettings,
    DensityMap,
    check_fits,
    read_structure,
    structure_name,
)
from cryolike.physics.scattering import bead_form_factors

FREQUENCY_PER_A = np.linspace(0, 0.4, 9)
PROTEIN = [row for row in small_model() if row.chain in "AB" and not row.is_hetero]


def written(folder: Path, rows: Iterable[Row], name: str = "model.pdb") -> Path:
    """Write a PDB or an mmCIF file."""
    path = folder / name
    path.write_text(mmcif_text(rows) if name.endswith("cif") else pdb_text(rows))
    return path


def model_of(path: Path, **settings: Any) -> AtomicModel:
    """Read an atomic model."""
    model = read_structure(path, AtomSettings(**settings))
    assert isinstance(model, AtomicModel)
    return model


def transform(model: AtomicModel, s_per_A: np.ndarray) -> complex:
    """Sum the model's scattering at one spatial frequency."""
    factors = model.form_factors(np.array([np.linalg.norm(s_per_A)]))[model.kind, 0]
    waves = np.exp(-2j * np.pi * model.positions_A @ s_per_A)
    return complex((model.weight * factors * waves).sum())


def test_beads_are_alpha_carbons_with_their_residues_radii(tmp_path: Path) -> None:
    """The usual settings: four beads about their mean, each with the radius of its residue."""
    model = model_of(written(tmp_path, PROTEIN, "small.pdb"))
    positions_A = np.array([row.position_A for row in PROTEIN if row.name == "CA"])
    np.testing.assert_allclose(model.positions_A, positions_A - positions_A.mean(axis=0))
    np.testing.assert_array_equal(model.weight, np.ones(4))
    assert model.name == "small"
    expected = bead_form_factors(np.array([2.50, 2.25, 3.40, 3.40]), "gaussian")
    values = model.form_factors(FREQUENCY_PER_A)[model.kind]
    np.testing.assert_array_equal(values, expected(FREQUENCY_PER_A))
    assert model.form_factors.n_kinds == 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"atom_selection": "all", "atom_radii": 1.5},
        {"atom_selection": "not water", "atom_model": "electron"},
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pdb_and_mmcif_give_the_same_model(
    tmp_path: Path, settings: dict[str, Any], ending: str
) -> None:
    """Positions, kinds, weights and form factors are equal."""
    rows = [replace(row, residue="U") if row.residue == "DA" else row for row in small_model()]
    models = []
    for name in ("model.pdb", "model.cif"):
        path = written(tmp_path, rows, name)
        if ending:
            path = path.with_name(path.name + ending)
            path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryoLikeWarning)
            models.append(model_of(path, **settings))
    first, second = models
    np.testing.assert_array_equal(first.positions_A, second.positions_A)
    np.testing.assert_array_equal(first.kind, second.kind)
    np.testing.assert_array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(
        first.form_factors(FREQUENCY_PER_A), second.form_factors(FREQUENCY_PER_A)
    )
    assert first.name == second.name == "model"


def test_model_does_not_depend_on_where_it_is(tmp_path: Path) -> None:
    """Moving all atoms of the file changes nothing."""
    moved = []
    for row in PROTEIN:
        x, y, z = row.position_A
        moved.append(replace(row, position_A=(x + 50.0, y - 7.5, z + 3.25)))
    first = model_of(written(tmp_path, PROTEIN))
    second = model_of(written(tmp_path, moved))
    np.testing.assert_allclose(first.positions_A, second.positions_A, atol=1e-12)


def test_one_radius_for_all(tmp_path: Path) -> None:
    """It takes precedence over the residues' radii, with either shape."""
    path = written(tmp_path, PROTEIN)
    for shape in ("gaussian", "hard-sphere"):
        model = model_of(path, atom_selection="all", atom_radii=1.75, atom_shape=shape)
        assert len(model) == len(PROTEIN)
        expected = bead_form_factors(np.array([1.75]), shape)(FREQUENCY_PER_A)
        np.testing.assert_array_equal(model.form_factors(FREQUENCY_PER_A), expected)
        assert not model.kind.any()


def test_extent_reaches_the_farthest_bead_s_edge(tmp_path: Path) -> None:
    """A sphere of that radius holds all beads."""
    model = model_of(written(tmp_path, PROTEIN), atom_radii=2.0, atom_shape="hard-sphere")
    distance_A = np.linalg.norm(model.positions_A, axis=1).max()
    assert model.extent_A == pytest.approx(distance_A + 2.0)


def test_atoms_scatter_as_gemmi_says(tmp_path: Path) -> None:
    """The transform of atoms is gemmi's of the same file, but for the phase of the centre."""
    rows = [replace(row, occupancy=0.5 if i % 3 else 1.0) for i, row in enumerate(PROTEIN)]
    path = written(tmp_path, rows)
    model = model_of(path, atom_selection="all", atom_model="electron")
    edge_A = 40.0
    cell = gemmi.UnitCell(edge_A, edge_A, edge_A, 90, 90, 90)
    calculator = gemmi.StructureFactorCalculatorE(cell)
    theirs_model = gemmi.read_structure(str(path))[0]
    centre_A = np.mean([row.position_A for row in rows], axis=0)
    for index in [(0, 0, 0), (1, 2, 3), (-4, 0, 7), (6, -6, 2)]:
        s_per_A = np.array(index) / edge_A
        theirs = np.conj(calculator.calculate_sf_from_model(theirs_model, index))
        theirs *= np.exp(2j * np.pi * centre_A @ s_per_A)
        assert transform(model, s_per_A) == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def alternatives() -> list[Row]:
    """One residue in two conformations, A with three quarters of the occupancy."""
    other = {"A": 0.75, "B": 0.25}
    return [
        Row("CA", "ALA", "A", 1, (0.0, 0.0, 0.0), "C"),
        *(
            Row("CA", "SER", "A", 2, (4.0, 0.0, 1.0 * i), "C", weight, 0.0, letter)
            for i, (letter, weight) in enumerate(other.items())
        ),
        Row("CA", "GLY", "A", 3, (8.0, 0.0, 0.0), "C"),
    ]


def test_beads_take_the_first_alternative(tmp_path: Path) -> None:
    """One bead for each residue, with a warning that counts what was left out."""
    path = written(tmp_path, alternatives())
    with pytest.warns(CryoLikeWarning, match="1 alternative position of 4 left out"):
        model = model_of(path)
    np.testing.assert_allclose(model.positions_A[:, 0], [-4, 0, 4])
    np.testing.assert_allclose(model.positions_A[:, 2], 0)


def test_alternatives_are_chosen_atom_by_atom(tmp_path: Path) -> None:
    """Of two atoms with two positions each, two beads are left."""
    rows = [
        Row(name, "SER", "A", 1, (x, 0.0, z), "C", 0.5, 0.0, letter)
        for name, x in (("CA", 0.0), ("CB", 1.5))
        for letter, z in (("A", 0.0), ("B", 1.0))
    ]
    with pytest.warns(CryoLikeWarning, match="2 alternative positions of 4"):
        model = model_of(written(tmp_path, rows), atom_selection="all", atom_radii=2.0)
    np.testing.assert_allclose(model.positions_A[:, 0], [-0.75, 0.75])


def test_selection_precedes_the_choice_of_alternatives(tmp_path: Path) -> None:
    """Two residues in the place of one: the first of those that are selected is the bead."""
    rows = alternatives()
    rows[2] = replace(rows[2], residue="THR")
    path = written(tmp_path, rows)
    with pytest.warns(CryoLikeWarning, match="left out"):
        assert len(model_of(path)) == 3
    model = model_of(path, atom_selection="name CA and resname THR GLY")
    assert len(model) == 2
    assert model.positions_A[0, 2] == pytest.approx(0.5)


def test_atoms_take_all_alternatives_by_occupancy(tmp_path: Path) -> None:
    """All positions scatter, weighted."""
    model = model_of(written(tmp_path, alternatives()), atom_selection="all", atom_model="electron")
    assert sorted(model.weight.tolist()) == [0.25, 0.75, 1.0, 1.0]


def test_insertion_codes_tell_residues_apart(tmp_path: Path) -> None:
    """Residues 52 and 52A are two beads, even where both have alternatives."""
    rows = [
        Row("CA", "SER", "A", 52, (float(i), 0.0, 0.0), "C", 0.5, 0.0, letter, insertion)
        for i, (letter, insertion) in enumerate([("A", " "), ("B", " "), ("A", "A"), ("B", "A")])
    ]
    with pytest.warns(CryoLikeWarning, match="2 alternative positions of 4"):
        model = model_of(written(tmp_path, rows))
    np.testing.assert_allclose(model.positions_A[:, 0], [-1, 1])


def test_first_model_is_taken(tmp_path: Path) -> None:
    """The warning says how many there are."""
    lines = "\n".join(row.pdb(1) for row in PROTEIN)
    path = tmp_path / "models.pdb"
    path.write_text(f"MODEL        1\n{lines}\nENDMDL\nMODEL        2\n{lines}\nENDMDL\nEND\n")
    with pytest.warns(CryoLikeWarning, match="holds 2 models; the first one is taken"):
        assert len(model_of(path)) == 4


def test_assembly_is_not_made(tmp_path: Path) -> None:
    """The warning says how many copies there would be."""
    matrix = "".join(
        f"MTRIX{row}   2{values}        9.00000\n"
        for row, values in enumerate(
            (
                "  1.000000  0.000000  0.000000",
                "  0.000000  1.000000  0.000000",
                "  0.000000  0.000000  1.000000",
            ),
            1,
        )
    )
    path = tmp_path / "copies.pdb"
    path.write_text(matrix + pdb_text(PROTEIN))
    with pytest.warns(CryoLikeWarning, match="2 copies"):
        assert len(model_of(path)) == 4


def residue(name: str, number: int) -> Row:
    """One alpha carbon."""
    return Row("CA", name, "A", number, (3.8 * number, 0.0, 1.0), "C")


def test_modified_residues_have_their_parent_s_radius(tmp_path: Path) -> None:
    """Selenomethionine is as large as methionine, and a warning says so."""
    path = written(tmp_path, [residue("MSE", 1), residue("GLY", 2)])
    with pytest.warns(CryoLikeWarning, match=r"MSE \(1\) as MET, 3.10 Å"):
        model = model_of(path, strict=True)
    expected = bead_form_factors(np.array([3.10, 2.25]), "gaussian")(FREQUENCY_PER_A)
    np.testing.assert_array_equal(model.form_factors(FREQUENCY_PER_A)[model.kind], expected)


def test_protonation_has_no_warning(tmp_path: Path) -> None:
    """Names of simulation programs are those of the same residue."""
    model = model_of(written(tmp_path, [residue("HSD", 1), residue("CYX", 2)]))
    expected = bead_form_factors(np.array([3.05, 2.75]), "gaussian")(FREQUENCY_PER_A)
    np.testing.assert_array_equal(model.form_factors(FREQUENCY_PER_A)[model.kind], expected)


def test_unknown_residue_is_a_warning_or_an_error(tmp_path: Path) -> None:
    """The warning has its name and the radius used; in strict use it is an error."""
    path = written(tmp_path, [residue("XYZ", 1), residue("UNK", 2), residue("GLY", 3)])
    with pytest.warns(CryoLikeWarning, match=r"2.95 Å: UNK \(1\), XYZ \(1\)"):
        model = model_of(path)
    expected = bead_form_factors(np.array([2.95, 2.95, 2.25]), "gaussian")(FREQUENCY_PER_A)
    np.testing.assert_array_equal(model.form_factors(FREQUENCY_PER_A)[model.kind], expected)
    with pytest.raises(MetadataError, match=r"UNK \(1\), XYZ \(1\)"):
        model_of(path, strict=True)
    assert len(model_of(path, strict=True, atom_radii=2.0)) == 3


def test_several_beads_of_one_residue_are_a_warning(tmp_path: Path) -> None:
    """The radius of a residue is not that of its atoms."""
    with pytest.warns(CryoLikeWarning, match="several of the 10 selected atoms"):
        model_of(written(tmp_path, PROTEIN), atom_selection="protein")


def test_nucleic_acid_left_out_is_a_warning(tmp_path: Path) -> None:
    """The usual selection takes no nucleotide; another one is what the user wants."""
    path = written(tmp_path, small_model())
    with pytest.warns(CryoLikeWarning, match="1 nucleotide in the file"):
        model_of(path)
    assert len(model_of(path, atom_selection="protein and name CA")) == 4


def test_empty_selection_says_what_the_file_holds(tmp_path: Path) -> None:
    """Chains, names and counts."""
    with pytest.raises(UsageError, match=r"'name XX' takes no atom. The file holds") as error:
        model_of(written(tmp_path, PROTEIN), atom_selection="name XX")
    for part in ("CA (4)", "A (7), B (3)", "TRP (3)"):
        assert part in str(error.value)


def test_few_atoms_that_scatter_are_a_warning(tmp_path: Path) -> None:
    """The usual selection is one for beads."""
    with pytest.warns(CryoLikeWarning, match="only 4 of 10 atoms scatter"):
        model_of(written(tmp_path, PROTEIN), atom_model="electron")


def test_predicted_structure_s_confidences_are_a_warning(tmp_path: Path) -> None:
    """AlphaFold writes confidences where B-factors belong."""
    path = tmp_path / "model.pdb"
    path.write_text("TITLE     ALPHAFOLD PREDICTION\n" + pdb_text(PROTEIN))
    with pytest.warns(CryoLikeWarning, match="confidences"):
        model_of(path, atom_selection="all", atom_model="electron")


ELECTRON_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown element": ({"element": "X"}, "without electron scattering factors"),
    "element beyond the table": ({"element": "Es"}, "without electron scattering factors"),
    "alpha carbon taken for calcium": ({"element": "Ca"}, "that the residue does not have"),
    "negative occupancy": ({"occupancy": -0.5}, "not from 0 to 1"),
    "occupancy above one": ({"occupancy": 1.5}, "not from 0 to 1"),
    "negative B-factor": ({"b_factor_A2": -3.0}, "negative B-factors"),
}


@pytest.mark.parametrize(("change", "why"), ELECTRON_FAULTS.values(), ids=ELECTRON_FAULTS)
def test_atom_that_cannot_scatter_is_an_error(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    """The error names the atom; beads do not mind."""
    rows = [replace(row, **change) if row.number == 2 else row for row in PROTEIN]
    path = written(tmp_path, rows, "model.cif")
    with pytest.raises(MetadataError, match=why) as error:
        model_of(path, atom_selection="all", atom_model="electron")
    assert "CA of GLY A 2" in str(error.value)
    assert len(model_of(path)) == 4
    assert len(model_of(path, atom_selection="chain B", atom_model="electron")) == 3


def test_all_that_is_wrong_with_atoms_is_told_at_once(tmp_path: Path) -> None:
    """One error lists elements, occupancies and B-factors."""
    changes = {"element": "X", "occupancy": 2.0, "b_factor_A2": -3.0}
    rows = [replace(row, **changes) for row in PROTEIN]  # type: ignore[arg-type]
    with pytest.raises(MetadataError, match="3 problems"):
        model_of(written(tmp_path, rows, "m.cif"), atom_selection="all", atom_model="electron")


def test_occupancies_of_zero_are_an_error(tmp_path: Path) -> None:
    """Some atoms may have none, but not all."""
    rows = [replace(row, occupancy=0.0) for row in PROTEIN]
    path = written(tmp_path, rows)
    with pytest.raises(MetadataError, match="nothing scatters"):
        model_of(path, atom_selection="all", atom_model="electron")
    path = written(tmp_path, [replace(rows[0], occupancy=1.0), *rows[1:]])
    model = model_of(path, atom_selection="all", atom_model="electron")
    assert model.weight.tolist() == [1.0] + [0.0] * 9


def test_missing_weights_matter_only_to_atoms(tmp_path: Path) -> None:
    """Beads need neither occupancies nor B-factors."""
    path = tmp_path / "short.pdb"
    path.write_text("\n".join(line[:54] for line in pdb_text(PROTEIN).splitlines()))
    assert len(model_of(path)) == 4
    with pytest.raises(MetadataError, match="occupancies or B-factors are missing"):
        model_of(path, atom_selection="all", atom_model="electron")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"atom_selection": "nonsense"}, "no keyword"),
        ({"atom_radii": -1.0}, "atom_radii is -1.0"),
        ({"atom_radii": float("nan")}, "atom_radii is nan"),
        ({"atom_shape": "cube"}, "atom_shape is 'cube'"),
        ({"use_protein_residue_model": False}, "beads without a radius"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], why: str) -> None:
    """Before any file is read."""
    with pytest.raises(UsageError, match=why):
        AtomSettings(**settings)


def test_all_wrong_settings_are_told_at_once() -> None:
    """One error lists them."""
    with pytest.raises(UsageError, match="3 problems"):
        AtomSettings(atom_selection="", atom_radii=0.0, atom_shape="cube")


def test_settings_come_from_a_descriptor() -> None:
    """All four that it carries."""
    descriptor = ImageDescriptor.from_individual_values(
        64,
        2.0,
        atom_radii=1.5,
        atom_selection="all",
        use_protein_residue_model=False,
        atom_shape="hard-sphere",
    )
    found = AtomSettings.from_descriptor(descriptor, atom_model="electron", strict=True)
    assert found == AtomSettings("all", 1.5, False, "hard-sphere", "electron", True)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("folder/1abc.pdb", "1abc"),
        ("1abc.v2.cif.gz", "1abc.v2"),
        (Path("emd_3197.map.bz2"), "emd_3197"),
        ("map.MRC.GZ", "map"),
        ("model", "model"),
    ],
)
def test_names_are_those_of_files(source: str | Path, name: str) -> None:
    """Without folder, ending, and ending of compression."""
    assert structure_name(source) == name


def test_name_of_an_array_is_its_number() -> None:
    """Arrays and tensors count from 0."""
    assert structure_name(np.zeros((2, 2, 2))) == "tensor_0"
    assert structure_name(torch.zeros((2, 2, 2)), 3) == "tensor_3"


def test_maps_and_arrays_are_densities(tmp_path: Path) -> None:
    """A map, whatever its name, and the same values in memory."""
    values = np.random.default_rng(2).normal(size=(6, 6, 6)).astype(np.float32)
    path = tmp_path / "map.pdb"
    with mrcfile.new(path, values) as file:
        file.voxel_size = 3.0
    for source in (path, str(path), values, torch.from_numpy(values)):
        density = read_structure(source, voxel_size_A=3.0)
        assert isinstance(density, DensityMap)
        np.testing.assert_array_equal(density.values, values)
        assert density.voxel_size_A == 3.0
    assert read_structure(path).name == "map"
    assert read_structure(path, name="other").name == "other"


@pytest.mark.parametrize(
    "content", [b"", b"nothing of the kind", bytes(2000), b"\x93NUMPY\x01\0", b"PK\x03\x04" * 400]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """One error of ours with a remedy; nothing is unpickled."""
    path = tmp_path / "other.mrc"
    path.write_bytes(content)
    with pytest.raises(CryoLikeError, match="→"):
        read_structure(path)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(CryoLikeError, match="→"):
        read_structure(path)


def test_cut_off_map_is_a_stack_error(tmp_path: Path) -> None:
    """Also where the cut is within the header."""
    path = tmp_path / "map.mrc"
    with mrcfile.new(path, np.ones((4, 4, 4), np.float32)) as file:
        file.voxel_size = 3.0
    content = path.read_bytes()
    for n_bytes in (500, 1024, len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(StackError):
            read_structure(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """Its name is in the message."""
    with pytest.raises(MissingFileError, match=r"none\.pdb"):
        read_structure(tmp_path / "none.pdb")


def descriptor_of(box_px: int) -> ImageDescriptor:
    """Images of pixels of 2 Å."""
    return ImageDescriptor.from_individual_values(box_px, 2.0)


def test_model_has_to_fit_in_the_box() -> None:
    """The error says how far it reaches and which box it needs."""
    form_factors = bead_form_factors(np.array([5.0]), "hard-sphere")
    positions_A = np.array([[0.0, 0.0, 25.0], [0.0, 0.0, -25.0]])
    model = AtomicModel("big", positions_A, np.zeros(2, np.int64), np.ones(2), form_factors)
    check_fits(model, descriptor_of(30))
    with pytest.raises(UsageError, match=r"big does not fit .* reaches 30.0 Å") as error:
        check_fits(model, descriptor_of(28))
    assert "at least 60 Å, that is 30 pixels" in str(error.value)


def test_map_may_lose_only_what_is_empty() -> None:
    """A larger box of a map is cut without a word where nothing is in it, on any background."""
    values = np.full((32, 32, 32), 5.0, np.float32)
    values[12:20, 12:20, 12:20] += 1
    check_fits(DensityMap("map", values, 2.0), descriptor_of(16))
    check_fits(DensityMap("map", values, 2.0), descriptor_of(64))
    values[2:4, 12:20, 12:20] += 1
    check_fits(DensityMap("map", values, 2.0), descriptor_of(32))
    with pytest.warns(CryoLikeWarning, match=r"20.0% of the map's power lies outside"):
        check_fits(DensityMap("map", values, 2.0), descriptor_of(16))


def test_power_outside_is_that_of_a_sum_over_voxels() -> None:
    """Of maps whose sides differ, too: about the mean of the six faces."""
    values = np.random.default_rng(4).normal(size=(20, 35, 30)).astype(np.float32)
    z, y, x = np.indices(values.shape) - np.array(values.shape)[:, None, None, None] // 2
    is_inside = np.abs(np.stack([z, y, x]) * 2.0).max(axis=0) <= 16
    faces = [values[0], values[-1], values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]]
    power = (values - np.mean([face.mean() for face in faces])) ** 2
    lost = power[~is_inside].sum() / power.sum()
    with pytest.warns(CryoLikeWarning, match=f"{lost:.1%} of the map's power"):
        check_fits(DensityMap("map", values, 2.0), descriptor_of(16))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_map_with_nothing_in_the_box_is_refused(axis: int) -> None:
    """Whatever constant is there; one voxel of another value is enough to go on, with a warning."""
    values = np.full((32, 33, 34), -2.0, np.float32)
    values.swapaxes(0, axis)[-3:] = 7
    with pytest.raises(ImageError, match=r"map: there is no density in the box.*32 Å are all -2"):
        check_fits(DensityMap("map", values, 2.0), descriptor_of(16))
    values[16, 16, 16] = -1
    with pytest.warns(CryoLikeWarning, match=r"9\d\.\d% of the map's power lies outside"):
        check_fits(DensityMap("map", values, 2.0), descriptor_of(16))


def test_large_map_is_not_copied() -> None:
    """To measure what lies outside takes no more than a few sections."""
    values = np.zeros((160, 160, 160), np.float32)
    values[70:90, 70:90, 70:90] = 1
    density, descriptor = DensityMap("map", values, 2.0), descriptor_of(100)
    check_fits(density, descriptor)
    tracemalloc.start()
    try:
        check_fits(density, descriptor)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < values.nbytes / 10


def test_sample_structure_is_read(shared_data: Path) -> None:
    """900 alpha carbons, centred, which fit in the box of their images."""
    path = shared_data / "relion-simulated" / "structure_ca.pdb"
    model = model_of(path)
    assert len(model) == 900
    np.testing.assert_allclose(model.positions_A.mean(axis=0), 0, atol=1e-12)
    columns = [
        [float(line[a : a + 8]) for a in (30, 38, 46)]
        for line in path.read_text().splitlines()
        if line.startswith("ATOM")
    ]
    np.testing.assert_allclose(model.positions_A, np.array(columns) - np.mean(columns, axis=0))
    check_fits(model, ImageDescriptor.from_individual_values(64, 2.5))
