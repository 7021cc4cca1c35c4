"""The benchmarks run, at a size that times nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize("name", ["bench_transform", "bench_convert"])
def test_a_benchmark_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each gives a positive ratio for every comparison it makes."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    comparisons = importlib.import_module(name).run(n_pixels=16, n_images=40, n_runs=1)
    monkeypatch.delitem(sys.modules, "measure", raising=False)
    assert comparisons
    assert all(c.rate > 0 and min(c.ratios) > 0 for c in comparisons)
