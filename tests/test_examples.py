"""The example scripts run as they are, need no input, and stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import starfile

from cryolike.store import open_stacks

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """Run a script with warnings as errors; what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples() -> None:
    """The scripts that the other tests name are there."""
    names = {script.name for script in SCRIPTS}
    assert names >= {
        "convert_star.py",
        "ctf_of_images.py",
        "native_path.py",
        "polar_images_without_files.py",
        "score_images.py",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_examples_are_short_and_say_what_they_show(script: Path) -> None:
    """At most 60 lines, with a docstring that tells how to call the script."""
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python {script.name}" in docstring


def test_examples_leave_nothing_behind(tmp_path: Path) -> None:
    """Without a folder a script works in a temporary one and leaves the working folder empty."""
    assert "images in" in run_example("native_path.py", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_convert_star(tmp_path: Path) -> None:
    """The published function's example makes a set of three stacks, and reads it again."""
    printed = run_example("convert_star.py", str(tmp_path), cwd=tmp_path)
    assert [len(images) for images in open_stacks(tmp_path / "converted")] == [25, 25, 10]
    assert "60 of 60 images in 3 stacks" in printed
    assert "image 17 is row 17" in printed


def test_native_path(tmp_path: Path) -> None:
    """Results are joined to the rows they belong to; rows that were not chosen have none."""
    printed = run_example("native_path.py", str(tmp_path), cwd=tmp_path)
    assert "40 of 120 rows have a result" in printed
    joined = starfile.read(tmp_path / "joined.star", always_dict=True)["particles"]
    table = open_stacks(tmp_path / "converted").table
    with_result = joined[joined["fine_power"].notna()]
    assert with_result.index.tolist() == table["source_row"].tolist()
    assert with_result["rlnDefocusU"].to_numpy() == pytest.approx(table["defocus_u_A"].to_numpy())


def test_ctf_of_images(tmp_path: Path) -> None:
    """The CTF example draws its picture, with values a CTF can have."""
    printed = run_example("ctf_of_images.py", str(tmp_path), cwd=tmp_path)
    assert "90 images; CTF from -1.00 to 1.00" in printed
    assert (tmp_path / "ctf_of_images.png").read_bytes().startswith(b"\x89PNG")


def test_polar_images_without_files(tmp_path: Path) -> None:
    """The fit finds signal that falls with resolution, and nothing but the set is written."""
    printed = run_example("polar_images_without_files.py", str(tmp_path), cwd=tmp_path)
    lines = [line.split() for line in printed.splitlines() if " Å " in line]
    ratio = [float(words[-1]) for words in lines]
    assert ratio[0] > ratio[2] > 1 > ratio[4] > ratio[-1] > 0
    assert printed.count("torch.complex64, rows") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["relion"]


def test_score_images(tmp_path: Path) -> None:
    """Images of either conformation are assigned to it."""
    printed = run_example("score_images.py", str(tmp_path), cwd=tmp_path)
    lines = [line.split() for line in printed.splitlines() if "assigned rightly" in line]
    assert len(lines) == 2
    assert all(int(words[words.index("of", 3) - 1]) >= 27 for words in lines)
    assert (tmp_path / "scores_turned" / "results.parquet").is_file()
