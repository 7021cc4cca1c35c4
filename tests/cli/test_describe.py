"""``cryolike describe``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryolike.descriptor import ImageDescriptor

Run = Callable[..., Any]


def test_descriptor_is_shown_written_and_read_again(run: Run, tmp_path: Path) -> None:
    """What is written is what was asked for; showing the file prints the same."""
    path = tmp_path / "params.npz"
    options = ("--precision", "double", "--resolution-factor", "0.5", "--n-inplanes", "48")
    made = run("describe", "-n", "32", "-s", "2.5", "-o", path, *options)
    assert made.code == 0
    descriptor = ImageDescriptor.load(path)
    grid, polar = descriptor.cartesian_grid, descriptor.polar_grid
    assert (grid.side_px, grid.pixel_size_A) == (32, 2.5)
    assert (polar.radius_max, polar.n_shells, polar.n_inplanes) == (4.0, 17, 48)
    assert str(descriptor.precision.value) == "double"
    assert "32 × 32 of 2.5 Å" in made.out
    shown = run("describe", path)
    assert shown.code == 0
    assert made.out.startswith(shown.out)


def test_template_settings_are_carried(run: Run, tmp_path: Path) -> None:
    """Settings that conversion does not use are kept for what does."""
    path = tmp_path / "params.npz"
    run(
        *("describe", "-n", "16", "-s", "2", "-o", path, "--atom-radii", "3.5"),
        *("--atom-selection", "name P", "--no-residue-model", "--atom-shape", "hard-sphere"),
    )
    arrays = ImageDescriptor.load(path).to_arrays()
    assert float(arrays["atom_radii"]) == 3.5
    assert str(arrays["atom_selection"]) == "name P"
    assert not bool(arrays["use_protein_residue_model"])
    assert str(arrays["atom_shape"]) == "hard-sphere"


def test_without_output_nothing_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Showing alone leaves no file, and says so."""
    monkeypatch.chdir(tmp_path)
    outcome = run("describe", "-n", "16", "-s", "2")
    assert outcome.code == 0
    assert "nothing was written" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_file_is_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    """An existing file stays as it is, unless --overwrite is given."""
    path = tmp_path / "params.npz"
    assert run("describe", "-n", "16", "-s", "2", "-o", path).code == 0
    refused = run("describe", "-n", "24", "-s", "2", "-o", path)
    assert refused.code == 1
    assert str(path) in refused.err
    assert ImageDescriptor.load(path).cartesian_grid.side_px == 16
    assert run("describe", "-n", "24", "-s", "2", "-o", path, "--overwrite").code == 0
    assert ImageDescriptor.load(path).cartesian_grid.side_px == 24


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-n", "16"),
        ("-s", "2"),
        ("-n", "0", "-s", "2"),
        ("-n", "16", "-s", "-2"),
        ("-n", "16", "-s", "2", "--precision", "half"),
        ("-n", "16", "-s", "2", "--atom-shape", "cube"),
        ("-n", "16", "-s", "2", "--resolution-factor", "0"),
    ],
    ids=" ".join,
)
def test_impossible_descriptors_are_bad_usage(run: Run, options: tuple[str, ...]) -> None:
    """What is missing or out of range ends with 2 and an error, without output."""
    outcome = run("describe", *options)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")


def test_other_file_is_no_descriptor(run: Run, star_file: Path) -> None:
    """A file that describe did not write is named, and not opened as Python objects."""
    outcome = run("describe", star_file)
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert f"{star_file} is no image descriptor" in outcome.err
