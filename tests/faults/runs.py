"""What tests of faults share: a small set, conversions of it, and the program as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryolike.conversion import ConversionReport, ConvertOptions, convert, plan_conversion
from cryolike.errors import OutputError
from cryolike.io.star import read_star

__all__ = [
    "N_STACKS",
    "convert_set",
    "ended",
    "files_below",
    "n_stacks_in",
    "options_for",
    "program",
    "refused",
    "wait_until",
]

N_STACKS = 6
BATCH_SIZE = 4


def convert_set(star_file: Path, out: Path, **keywords: Any) -> ConversionReport:
    """Convert in six stacks without plots."""
    options = ConvertOptions(batch_size=BATCH_SIZE, plots=False)
    return convert(plan_conversion(read_star(star_file), None, options), out, **keywords)


def refused(star_file: Path, out: Path) -> OutputError | None:
    """Convert, and return the error where the system refuses."""
    try:
        convert_set(star_file, out)
    except OutputError as error:
        # Its traceback holds what was open
        return error.with_traceback(None)
    return None


def files_below(folder: Path) -> dict[str, bytes | None]:
    """Give the content of every file below a folder by its name; None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def n_stacks_in(out: Path) -> int:
    """Count the stacks whose metadata, the last of their files, are there."""
    return len(list(out.glob("fft/*.npz")))


def options_for(star_file: Path, out: Path, *, plots: bool = False) -> list[str]:
    """Give what follows `cryolike` to convert in stacks of four."""
    plot = "--plots" if plots else "--no-plots"
    return ["convert", "star", str(star_file), "-o", str(out), "--batch-size", "4", plot, "--quiet"]


def program(*arguments: str, **keywords: Any) -> subprocess.Popen[str]:
    """Start `cryolike` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cryolike", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        **keywords,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what went to standard error, once a process has ended."""
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert "Exception ignored" not in err, err
    return process.returncode, err


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what a running process will do."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
