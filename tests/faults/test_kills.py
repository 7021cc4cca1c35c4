"""Runs killed by the system at random moments end, once resumed, as undisturbed ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "kill_runs.py"


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bytes(tmp_path: Path) -> None:
    """Ten kills, spread over a run that makes 20 stacks; the program compares every file."""
    size = ("--stacks", "20", "--images", "24", "--pixels", "48")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--kills", "10", "--seed", "1", *size],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "makes 20 stacks" in done.stdout
    assert "10 runs killed" in done.stdout
    assert "all resumed to the same bytes" in done.stdout


@pytest.mark.slow
def test_killed_scoring_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Twelve kills of runs of eight tiles, some of them twice; every file is compared."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.score_kills", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 runs killed: all resumed to the same bytes" in done.stdout
