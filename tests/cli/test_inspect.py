"""``cryolike inspect``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def shown(out: str) -> dict[str, str]:
    """Lines of the summary by their name."""
    lines = [line for line in out.splitlines() if line[:16].strip()]
    return {line[:16].strip(): line[17:] for line in lines}


def test_good_set_is_shown_and_ready(run: Run, star_file: Path) -> None:
    """Rows, stacks, box, pixel size, modes, optics, poses and classes are those of the set."""
    outcome = run("inspect", star_file)
    assert outcome.code == 0
    assert outcome.out.rstrip().endswith("ready to convert")
    lines = shown(outcome.out)
    assert lines["format"] == f"RELION STAR: {star_file}"
    assert lines["rows"] == "30"
    assert lines["stacks"] == "3 of 3 found, 30 images in them"
    assert lines["box"] == "16×16 pixels (30 rows)"
    assert lines["pixel size"] == "6 Å (from rlnImagePixelSize)"
    assert lines["in headers"] == "6 Å"
    assert lines["MRC modes"] == "2 (float32) (3 stacks)"
    assert lines["poses"] == "yes"
    assert lines["classes"] == "0 (10 rows), 1 (10 rows), 2 (10 rows)"
    assert lines["optics"] == "1: 300 kV, Cs 2.7 mm, amplitude contrast 0.1 (15 rows)"
    assert "2: 200 kV, Cs 1.4 mm, amplitude contrast 0.07 (15 rows)" in outcome.out


def test_json_says_the_same(run: Run, star_file: Path) -> None:
    """--json prints one value with the figures, and nothing else."""
    outcome = run("inspect", star_file, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    summary = json.loads(outcome.out)
    assert summary["kind"] == "star"
    assert (summary["n_rows"], summary["n_files"], summary["n_files_found"]) == (30, 3, 3)
    assert summary["boxes_px"] == {"16": 30}
    assert summary["modes"] == {"2": 3}
    assert summary["pixel_sizes_A"] == [6.0]
    assert [group["voltage_kV"] for group in summary["optics"]] == [300.0, 200.0]
    assert [group["n_rows"] for group in summary["optics"]] == [15, 15]
    assert summary["problems"] == []


def test_missing_stacks_are_listed_with_all_else(run: Run, star_file: Path) -> None:
    """Without two of its stacks a set is still described; both are named, with exit code 1."""
    for name in ("stack_000.mrcs", "stack_002.mrcs"):
        (star_file.parent / "Particles" / name).unlink()
    outcome = run("inspect", star_file)
    assert outcome.code == 1
    lines = shown(outcome.out)
    assert lines["rows"] == "30"
    assert lines["stacks"] == "1 of 3 found, 10 images in them"
    assert lines["box"] == "16×16 pixels (10 rows)"
    assert "300 kV" in lines["optics"]
    assert "ready" not in outcome.out
    assert "2 of 3 files not found (20 of 30 rows)" in outcome.err
    assert "Particles/stack_000.mrcs" in outcome.err
    assert "Particles/stack_002.mrcs" in outcome.err
    assert "--folder" in outcome.err


def test_json_of_a_bad_set_has_its_problems(run: Run, star_file: Path) -> None:
    """The exit code is 1, and the JSON still holds the figures beside the problems."""
    (star_file.parent / "Particles" / "stack_001.mrcs").unlink()
    outcome = run("inspect", star_file, "--json")
    assert outcome.code == 1
    summary = json.loads(outcome.out)
    assert summary["n_rows"] == 30
    assert len(summary["problems"]) == 1
    assert "stack_001.mrcs" in summary["problems"][0]


def test_every_problem_is_listed(run: Run, changed: Callable[..., Path]) -> None:
    """A row that is no number and a row past the end of its stack are reported together."""
    path = changed(
        {(4, "rlnDefocusU"): "nan", (7, "rlnImageName"): "000099@Particles/stack_001.mrcs"}
    )
    outcome = run("inspect", path)
    assert outcome.code == 1
    assert "2 problem" in outcome.err
    assert "rlnDefocusU" in outcome.err
    assert "row 4" in outcome.err
    assert "row 7: image 99 of Particles/stack_001.mrcs, which has 10" in outcome.err


def test_warnings_go_to_standard_error(run: Run, pair: tuple[Path, Path]) -> None:
    """A default that was applied is told on standard error, and stops nothing."""
    star, stack = pair
    text = star.read_text(encoding="utf-8").replace("rlnCtfScalefactor", "rlnOther")
    star.write_text(text, encoding="utf-8")
    outcome = run("inspect", star, "--mrc", stack)
    assert outcome.code == 0
    assert "warning: rlnCtfScalefactor is missing: 1 used for all 30 rows." in outcome.err
    assert "warning:" not in outcome.out
    quiet = run("inspect", star, "--mrc", stack, "--json")
    assert json.loads(quiet.out)["warnings"] == [
        "rlnCtfScalefactor is missing: 1 used for all 30 rows."
    ]


def test_generic_star_asks_for_its_stack(run: Run, pair: tuple[Path, Path]) -> None:
    """Rows without image names are shown, with the advice to give the stack."""
    outcome = run("inspect", pair[0])
    assert outcome.code == 0
    assert shown(outcome.out)["rows"] == "30"
    assert "--mrc" in outcome.err
    assert "ready" not in outcome.out


def test_cryosparc_file_joins_its_passthrough(run: Run, project: Path) -> None:
    """A .cs file with its passthrough shows images of the one and optics of the other."""
    outcome = run(
        "inspect", project / "J5/particles.cs", "--passthrough", project / "J5/passthrough.cs"
    )
    assert outcome.code == 0
    lines = shown(outcome.out)
    assert lines["format"].startswith("cryoSPARC .cs: ")
    assert lines["stacks"] == "1 of 1 found, 30 images in them"
    assert "kV" in lines["optics"]


def test_job_is_shown(run: Run, project: Path) -> None:
    """A restack job shows both of its stacks."""
    outcome = run("inspect", project, "--job", "4")
    assert outcome.code == 0
    assert shown(outcome.out)["stacks"] == "2 of 2 found, 30 images in them"


def test_folder_without_job_is_bad_usage(run: Run, project: Path) -> None:
    """A folder alone says that a job number or a file is needed."""
    outcome = run("inspect", project)
    assert outcome.code == 2
    assert "--job" in outcome.err


@pytest.mark.parametrize("name", ["none.star", "none.cs", "none"])
def test_file_that_does_not_exist_is_named(run: Run, tmp_path: Path, name: str) -> None:
    """A wrong path ends with 1, the path, and a remedy."""
    outcome = run("inspect", tmp_path / name)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {tmp_path / name}: ")
    assert "→" in outcome.err


def test_folder_option_takes_only_file_names(run: Run, star_file: Path, tmp_path: Path) -> None:
    """With --folder the stacks are looked for there and nowhere else."""
    (star_file.parent / "Particles").rename(tmp_path / "moved")
    assert run("inspect", star_file).code == 1
    assert run("inspect", star_file, "--folder", tmp_path / "moved").code == 0
    (tmp_path / "moved").rename(star_file.parent / "Particles")
    assert run("inspect", star_file, "--folder", tmp_path).code == 1
