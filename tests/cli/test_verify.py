"""``cryolike verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def converted(run: Run, star_file: Path, tmp_path: Path) -> Path:
    """Make a converted set of three stacks."""
    folder = tmp_path / "converted"
    options = ("--batch-size", "10", "--no-plots", "--quiet")
    assert run("convert", "star", star_file, "-o", folder, *options).code == 0
    return folder


def flip_last_byte(path: Path) -> None:
    """Change a file without changing its size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_good_set_is_good(run: Run, converted: Path) -> None:
    """An untouched set ends with 0 and says how much was checked."""
    outcome = run("verify", converted, "--sample", "7", "--quiet")
    assert outcome.code == 0
    assert "complete and unchanged" in outcome.out
    assert "30 images, 7 of them computed anew" in outcome.out
    report = json.loads(run("verify", converted, "--sample", "7", "--json").out)
    assert report == {
        "folder": str(converted),
        "is_good": True,
        "faults": [],
        "n_files": 7,
        "n_images": 30,
        "n_recomputed": 7,
    }


def test_every_fault_is_listed(run: Run, converted: Path) -> None:
    """A changed stack and a missing one are both named, as text and as JSON, with code 1."""
    first, second, _ = sorted(converted.rglob("*.pt"))
    flip_last_byte(first)
    second.unlink()
    outcome = run("verify", converted, "--quiet")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    as_json = run("verify", converted, "--json")
    assert as_json.code == 1
    faults = json.loads(as_json.out)["faults"]
    for name in (first.name, second.name):
        assert name in outcome.err
        assert any(name in fault for fault in faults)


def test_changed_source_is_a_fault_unless_left_out(
    run: Run, converted: Path, star_file: Path
) -> None:
    """A STAR file edited since is told; with --no-sources only our own files count."""
    star_file.write_text(star_file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    outcome = run("verify", converted, "--quiet")
    assert outcome.code == 1
    assert star_file.name in outcome.err
    assert run("verify", converted, "--quiet", "--no-sources").code == 0


def test_folder_that_holds_no_set_is_named(run: Run, tmp_path: Path) -> None:
    """A folder without a finished conversion ends with 1 and says what is missing."""
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "manifest.json")):
        outcome = run("verify", folder, "--quiet")
        assert outcome.code == 1
        assert str(folder) in outcome.err
        assert words in outcome.err
