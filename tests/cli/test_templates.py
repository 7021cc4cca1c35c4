"""The command that makes templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from tests.program import Outcome
from tests.structures import Row, pdb_text

from cryolike.descriptor import ImageDescriptor
from cryolike.templates import open_templates


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """Write a descriptor of small images and few views."""
    path = tmp_path / "params.npz"
    ImageDescriptor.from_individual_values(24, 3.0, viewing_distance=0.8).save(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a chain of five residues."""
    path = tmp_path / "chain.pdb"
    rows = [
        Row("CA", "GLY", "A", i, (3.8 * i, float(i % 2), 0.5 * i), "C", b_factor_A2=20.0)
        for i in range(5)
    ]
    path.write_text(pdb_text(rows), encoding="utf-8")
    return path


@pytest.fixture
def density(tmp_path: Path) -> Path:
    """Write a map on another grid."""
    path = tmp_path / "density.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
        file.voxel_size = 3.0
    return path


def test_templates_of_models_and_maps(
    run: Callable[..., Outcome], params: Path, model: Path, density: Path, tmp_path: Path
) -> None:
    """Each gets a file; what is doubtful of an input is told once."""
    outcome = run("templates", model, density, model, "-p", params, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    sets = open_templates(tmp_path / "out", ImageDescriptor.load(params))
    assert [templates.name for templates in sets] == ["chain", "density", "chain_1"]
    assert f"written to {tmp_path / 'out' / 'templates_fourier_chain_1.pt'}" in outcome.out
    assert "3 structures, 73 viewing directions each" in outcome.out
    assert outcome.err.count("is resampled") == 1
    assert (tmp_path / "out" / "plots" / "templates_phys_density.png").exists()


def test_output_for_machines(
    run: Callable[..., Outcome], params: Path, model: Path, tmp_path: Path
) -> None:
    """With --json the files are listed, and nothing else is printed."""
    options = ("--no-plots", "--json", "--memory", "200M")
    outcome = run("templates", model, "-p", params, "-o", tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {
        "n_views": 73,
        "files": [str(tmp_path / "out" / "templates_fourier_chain.pt")],
    }
    assert not (tmp_path / "out" / "plots").exists()


def test_atoms_that_scatter_electrons(
    run: Callable[..., Outcome], params: Path, model: Path, tmp_path: Path
) -> None:
    """The two models of atoms give different templates."""
    images = []
    for atoms in ("beads", "electron"):
        options = ("--atoms", atoms, "--no-plots", "-o", tmp_path / atoms)
        assert run("templates", model, "-p", params, *options).code == 0
        images.append(open_templates(tmp_path / atoms)[0].images)
    assert (images[0] - images[1]).norm() > 0.1


def test_existing_templates_are_refused_unless_told(
    run: Callable[..., Outcome], params: Path, model: Path, tmp_path: Path
) -> None:
    """The second run ends with 1 and names the option; with it, it replaces them."""
    command = ("templates", model, "-p", params, "-o", tmp_path / "out", "--no-plots")
    assert run(*command).code == 0
    again = run(*command)
    assert again.code == 1
    assert "--overwrite" in again.err
    assert run(*command, "--overwrite").code == 0


def test_all_problems_are_listed_first(
    run: Callable[..., Outcome], params: Path, model: Path, tmp_path: Path
) -> None:
    """Missing and wrong files in one error, and no output."""
    wrong = tmp_path / "wrong.mrc"
    wrong.write_text("no map", encoding="utf-8")
    outcome = run("templates", model, wrong, "missing.cif", "-p", params, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "2 problems" in outcome.err
    assert "wrong.mrc" in outcome.err
    assert "missing.cif" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--atoms", "points"), "'points' is not one of beads, electron"),
        (("--memory", "much"), "--memory much: write a number"),
        (("--memory", "1K"), "GB of memory"),
    ],
)
def test_bad_options(
    run: Callable[..., Outcome],
    params: Path,
    model: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Each ends with 2 and says what is meant."""
    outcome = run("templates", model, "-p", params, "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_strict_use(run: Callable[..., Outcome], params: Path, tmp_path: Path) -> None:
    """An unknown residue is a warning with its radius, and with --strict an error."""
    path = tmp_path / "odd.pdb"
    rows = [Row("CA", "XYZ", "A", i, (4.0 * i, 0.0, float(i % 2)), "C") for i in range(4)]
    path.write_text(pdb_text(rows), encoding="utf-8")
    command = ("templates", path, "-p", params, "--no-plots")
    outcome = run(*command, "-o", tmp_path / "lax")
    assert outcome.code == 0
    assert "XYZ" in outcome.err
    strict = run(*command, "-o", tmp_path / "strict", "--strict")
    assert strict.code == 1
    assert "XYZ" in strict.err


def test_help_teaches(run: Callable[..., Outcome]) -> None:
    """It says what templates are, and gives commands to copy."""
    text = run("templates", "--help").out
    assert "cryolike templates open.pdb closed.pdb --params params.npz -o templates/" in text
    assert "templates_fourier_NAME.pt" in text
