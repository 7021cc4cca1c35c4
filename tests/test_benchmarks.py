"""The benchmarks run, at a size that times nothing, and compare with what they say."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import mrcfile
import numpy as np
import pytest
import torch

from cryolike import ImageDescriptor, read_star
from cryolike.physics.polar import PolarTransform

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


class Load(Protocol):
    """Imports a module of the benchmarks."""

    def __call__(self, name: str) -> Any:
        """Import it by its name."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Load]:
    """Import modules as scripts do, with a working directory of their own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)

    def is_ours(module: ModuleType) -> bool:
        return str(getattr(module, "__file__", None)).startswith(str(FOLDER))

    yield importlib.import_module
    # Their names are so short that others could have the same
    for name in [name for name, module in sys.modules.items() if is_ours(module)]:
        del sys.modules[name]


class Clock:
    """Time that passes only when something takes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds


FEW: dict[str, tuple[int, dict[str, Any]]] = {
    "bench_transform": (3, {"n_pixels": 16, "n_images": 38}),
    "bench_sizes": (6, {"sizes": (12, 15), "n_images": 2}),
    "bench_convert": (2, {"n_pixels": 16, "n_images": 40}),
    "bench_many_stacks": (2, {"n_pixels": 16, "n_images": 40, "n_stacks": 4}),
    "bench_few_rows": (3, {"n_pixels": 16, "n_stored": 400, "n_images": 20}),
    "bench_output": (2, {"n_pixels": 16, "n_images": 40}),
    "bench_feeding": (4, {"n_pixels": 16, "n_images": 40, "batch_size": 7}),
    "bench_gpu": (
        3,
        {"n_pixels": 16, "n_images": 40, "n_converted": 40, "n_copied": 10_000, "device": "cpu"},
    ),
    "bench_memory": (5, {"n_pixels": 16, "n_small": 20, "n_large": 40, "n_stored": 200}),
    "bench_planning": (4, {"n_pixels": 16, "n_rows": 60, "n_stacks": 3}),
    "bench_templates": (
        4,
        {"n_pixels": 12, "n_views": 20, "n_pixels_of_atoms": 36, "n_atoms": 30},
    ),
    "bench_score": (
        9,
        {
            "sizes": (16, 18),
            "n_images": 3,
            "spacing_rad": 0.9,
            "n_displacements": 2,
            "n_straightforward": (2, 5),
            "n_in_memory": 4,
        },
    ),
}
"""How many comparisons each script makes, and sizes that take little time."""

IN_FRESH_PROCESSES = {
    "bench_feeding",
    "bench_memory",
    "bench_planning",
    "bench_score",
    "bench_templates",
}


def marked(name: str) -> Any:
    """Mark a script that starts many processes."""
    is_slow = name in IN_FRESH_PROCESSES
    return pytest.param(name, marks=pytest.mark.slow) if is_slow else name


@pytest.mark.parametrize("name", [marked(name) for name in FEW])
def test_a_benchmark_runs(name: str, load: Load, tmp_path: Path) -> None:
    """Each gives finite, positive ratios for every comparison it makes, and cleans up."""
    n_comparisons, sizes = FEW[name]
    n_runs = 1 if name in IN_FRESH_PROCESSES else 2
    comparisons = load(name).run(**sizes, n_runs=n_runs)
    assert len(comparisons) == n_comparisons
    for comparison in comparisons:
        assert len(comparison.ratios) == n_runs
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in comparison.ratios)
    assert list(tmp_path.iterdir()) == []


def test_all_benchmarks_are_run(load: Load) -> None:
    """`run_all` knows each script."""
    runs = {run.__module__ for run in load("run_all").BENCHMARKS.values()}
    assert runs == {path.stem for path in FOLDER.glob("bench_*.py")} == set(FEW)


def test_the_first_time_does_not_count(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are those of the runs after the first, without what is done before each."""
    measure, clock = load("measure"), Clock(monkeypatch)
    durations = iter([100.0, 2.0, 4.0])
    way = measure.Way(name="a", work=lambda: clock.pass_by(next(durations)), amount=8)
    (timed,) = measure.time_in_turn(way, n_runs=2, before_each=lambda: clock.pass_by(1000))
    assert timed.rates == (4.0, 2.0)


def test_the_slowest_reference_of_each_run_counts(load: Load) -> None:
    """A ratio is that to the lower of the rates which the references had in the same run."""
    measure = load("measure")
    way, a, b = (measure.Way(name=name, work=lambda: None, amount=1) for name in "wab")
    compared = measure.compare(
        measure.Timed(way, (6.0, 6.0)), measure.Timed(a, (3.0, 9.0)), measure.Timed(b, (4.0, 8.0))
    )
    assert compared.ratios == (2.0, 0.75)


def test_ways_are_timed_in_turn(load: Load) -> None:
    """All ways run once before any runs again."""
    measure = load("measure")
    order: list[str] = []
    ways = [measure.Way(name=n, work=lambda n=n: order.append(n), amount=1) for n in "ab"]
    measure.time_in_turn(*ways, n_runs=1)
    assert order == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("limits", "target", "met"),
    [
        ({}, "", ""),
        ({"at_least": 2}, "≥ 2", "yes"),
        ({"at_least": 2.1}, "≥ 2.1", "**no**"),
        ({"at_most": 2}, "≤ 2", "yes"),
        ({"at_most": 1.9}, "≤ 1.9", "**no**"),
    ],
)
def test_the_median_decides(load: Load, limits: dict[str, float], target: str, met: str) -> None:
    """The table gives median, range and target, and whether the median keeps within it."""
    measure = load("measure")
    comparison = measure.Comparison(
        name="a", measured="b", reference="c", ratios=(9.0, 2.0, 1.0), **limits
    )
    cells = [cell.strip() for cell in measure.table_row(comparison).strip("|").split("|")]
    assert cells == ["a", "b", "c", "2 (1 to 9)", target, met]


@pytest.mark.parametrize("n_pixels", [12, 13])
def test_finufft_gives_the_same_polar_images(load: Load, n_pixels: int) -> None:
    """Both references of finufft compute what the transform computes, to their accuracy."""
    ways = load("finufft_ways")
    descriptor = ImageDescriptor.from_individual_values(n_pixels, 1.5)
    images = torch.from_numpy(
        np.random.default_rng(0).standard_normal((10, n_pixels, n_pixels)).astype(np.float32)
    )
    ours = PolarTransform.of_descriptor(descriptor)(images).numpy()
    settings = ways.Settings(n_workers=2, n_threads=1, n_trans=2, upsampfac=2.0, eps=3e-6, fftw=64)
    packed = np.empty_like(ours)
    ways.PackedFinufft(descriptor, settings)(images.numpy(), packed)
    for theirs in (packed, ways.one_by_one(descriptor, images.numpy())):
        assert np.linalg.norm(theirs - ours) < ways.ERROR_LIMIT * np.linalg.norm(ours)


def test_inaccurate_settings_of_finufft_do_not_count(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings beyond the error limit are left out; with none left the benchmark says so."""
    ways = load("finufft_ways")
    descriptor = ImageDescriptor.from_individual_values(12, 1.5)
    images = np.random.default_rng(0).standard_normal((4, 12, 12)).astype(np.float32)
    monkeypatch.setattr(ways, "ERROR_LIMIT", 1e-9)
    with pytest.raises(SystemExit, match="accurate enough"):
        ways.best_settings(descriptor, images)


def test_a_stack_of_holes_is_a_stack(load: Load, tmp_path: Path) -> None:
    """Others can read a stack of which few images are filled, and it takes little of the disk."""
    path = tmp_path / "stack.mrcs"
    load("sets").make_stack(path, 10_000, 32, filled=[3, 9_999])
    assert mrcfile.validate(path)
    with mrcfile.mmap(path) as stack:
        assert stack.is_image_stack()
        assert stack.data.shape == (10_000, 32, 32)
        assert [i for i in (2, 3, 4, 9_998, 9_999) if stack.data[i].any()] == [3, 9_999]
    assert path.stat().st_blocks * 512 < 100_000


def test_names_of_images_become_rows(load: Load, tmp_path: Path) -> None:
    """A STAR file has 30 columns, and its rows name the images in the order given."""
    sets = load("sets")
    names = [*sets.image_names("a/b.mrcs", [4, 0]), *sets.image_names("c.mrcs", [7])]
    sets.write_star(tmp_path / "particles.star", names)
    text = (tmp_path / "particles.star").read_text()
    assert text.partition("data_particles")[2].count("\n_rln") == 30
    table = read_star(tmp_path / "particles.star")
    assert table.image_index.tolist() == [4, 0, 7]
    assert [Path(table.image_files[i]).name for i in table.image_file_index] == [
        "b.mrcs",
        "b.mrcs",
        "c.mrcs",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark of the GPU measures nothing and says why."""
    assert load("bench_gpu").run() == []
    assert "PyTorch finds none" in capsys.readouterr().out


def test_the_whole_table_is_kept(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of everything writes the table and the machine; a run of one thing leaves it alone."""
    run_all, measure = load("run_all"), load("measure")

    def run(n_runs: int) -> list[Any]:
        return [measure.Comparison(name="x", measured="y", reference="z", ratios=(1.5,) * n_runs)]

    table = tmp_path / "table.md"
    monkeypatch.setattr(run_all, "TABLE", table)
    monkeypatch.setattr(run_all, "BENCHMARKS", {"one": run, "other": run})
    run_all.main(["--only", "one"])
    assert not table.exists()
    run_all.main(["--runs", "2", "--folder", str(tmp_path)])
    text = table.read_text()
    assert text.count("| x | y | z | 1.5 (1.5 to 1.5) |") == 2
    assert f"numpy {np.__version__}" in text
