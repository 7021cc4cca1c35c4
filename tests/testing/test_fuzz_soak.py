"""The soak run: what counts as a finding, how it is made smaller and kept, and a short run."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the program, with a limit of a fraction of a second."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("fuzz_soak")
    monkeypatch.setattr(module, "CPU_SECONDS", 0.2)
    before = signal.signal(signal.SIGPROF, module.too_slow)
    yield module
    signal.signal(signal.SIGPROF, before)


def fails_on_a_letter(folder: Path) -> str:
    """Stand in for a reader that the letter x breaks."""
    if "x" in (folder / "a.star").read_text():
        raise KeyError("x")
    return "read"


def never_ends(folder: Path) -> NoReturn:
    """Stand in for a reader that some file keeps busy, and that catches what it can."""
    while True:
        try:
            sum(range(1000))
        except Exception:
            continue


def test_foreign_errors_are_findings(soak: ModuleType, tmp_path: Path) -> None:
    """With their name and their trace; a file that is read is none."""
    case = soak.Case({"a.star": b"abc"}, "a.star", fails_on_a_letter)
    assert soak.outcome_of(case, tmp_path / "input") == "read"
    case = soak.Case({"a.star": b"abxc"}, "a.star", fails_on_a_letter)
    found = soak.outcome_of(case, tmp_path / "input")
    assert found.error == "KeyError"
    assert "fails_on_a_letter" in found.trace


def test_inputs_that_take_too_long_are_findings(soak: ModuleType, tmp_path: Path) -> None:
    """By processor time, whatever the reader catches."""
    case = soak.Case({"a.star": b""}, "a.star", never_ends)
    assert soak.outcome_of(case, tmp_path / "input").error == "TooSlow"


def test_findings_are_made_smaller_and_kept(soak: ModuleType, tmp_path: Path) -> None:
    """Only what breaks the reader is left of the file; the others stay as they are."""
    files = {"a.star": b"a long text with an x somewhere in the middle", "b.mrcs": b"pixels"}
    case = soak.Case(files, "a.star", fails_on_a_letter)
    found = soak.outcome_of(case, tmp_path / "input")
    small = soak.minimised(case, found, tmp_path / "input")
    assert small.files == {"a.star": b"x", "b.mrcs": b"pixels"}
    soak.keep(small, found, tmp_path / "finding", "3 17")
    assert (tmp_path / "finding" / "a.star").read_bytes() == b"x"
    assert "3 17" in (tmp_path / "finding" / "trace.txt").read_text()


@pytest.mark.slow
def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    """Some inputs of each kind that our readers have; the summary counts them."""
    options = ["--seed", "0", "--kinds", "star,cs,mrc,set", "--stop", "40", "--minutes", "4"]
    command = [sys.executable, str(FOLDER / "fuzz_soak.py"), *options, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("40 inputs")
    counts = re.findall(r"(\w+) +(?:read|refused) +(\d+)", done.stdout)
    assert {kind: sum(int(n) for k, n in counts if k == kind) for kind, _ in counts} == {
        "star": 10,
        "cs": 10,
        "mrc": 10,
        "set": 10,
    }
