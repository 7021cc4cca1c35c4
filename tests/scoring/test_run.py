"""Runs of scoring: killed and resumed, refused, repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.score_sets import N_IMAGES, ScoreSet, files_below, write_score_set

from cryolike.conversion import plan_conversion
from cryolike.errors import (
    FolderInUseError,
    ImageError,
    IncompleteOutputError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from cryolike.io.read import read_particles
from cryolike.scoring import plan as plan_module
from cryolike.scoring.plan import ScoreOptions, ScorePlan, plan_scoring
from cryolike.scoring.run import ScoreReport, score_particles
from cryolike.store.tiles import TileFolder

OPTIONS = ScoreOptions(viewing_distance=0.5, shift_max_px=1.0, plots=False)
N_TILES = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ScoreSet:
    """Simulate a set and two structures."""
    return write_score_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score eight images at a time: eight tiles for two structures."""
    monkeypatch.setattr(plan_module, "_N_BLOCK_MOST", 8)


def plan_of(data: ScoreSet, **options: Any) -> ScorePlan:
    """Plan to score the whole set coarsely."""
    chosen = replace(OPTIONS, **options)
    return plan_scoring(read_particles(data.star_file), [data.true, data.other], chosen)


@pytest.fixture(scope="module")
def wanted(data: ScoreSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give all files of an undisturbed run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan_module, "_N_BLOCK_MOST", 8)
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        report = score_particles(plan_of(data), out)
    assert (report.n_tiles, report.n_tiles_kept) == (N_TILES, 0)
    return files_below(out)


class _Killed(BaseException):
    """In place of a signal."""


def fail_at(
    monkeypatch: pytest.MonkeyPatch, method: str, n: int, error: type[BaseException] = _Killed
) -> None:
    """Let the n-th call of a method of the output folder fail."""
    original: Callable[..., Any] = getattr(TileFolder, method)
    calls = iter(range(1000))

    def failing(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == n:
            raise error
        return original(*arguments, **keywords)

    monkeypatch.setattr(TileFolder, method, failing)


@pytest.mark.parametrize("n_written", [0, 1, 4, 7])
def test_stopped_and_resumed(
    data: ScoreSet,
    wanted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_written: int,
) -> None:
    """Stopped after some tiles, a run leaves no results; resumed, those of an undisturbed run."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        fail_at(patched, "write", n_written)
        with pytest.raises(_Killed):
            score_particles(plan_of(data), out)
    assert {name.split("/")[0] for name in files_below(out)} <= {".cryolike-wip"}
    report = score_particles(plan_of(data), out, resume=True)
    assert report.n_tiles_kept == n_written
    assert files_below(out) == wanted


def test_killed_while_results_are_moved(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is the last to be moved, a resumed run puts all of them in place."""
    out, original = tmp_path / "out", Path.replace
    for n_moved in range(len(wanted)):
        shutil.rmtree(out, ignore_errors=True)
        moves = iter(range(1000))

        def moved(source: Path, target: Path, last: int = n_moved, count: Any = moves) -> Path:
            if source.is_relative_to(out / ".cryolike-wip" / "results") and next(count) == last:
                raise _Killed
            return original(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", moved)
            with pytest.raises(_Killed):
                score_particles(plan_of(data), out)
        assert (out / ".cryolike-wip").is_dir()
        report = score_particles(plan_of(data), out, resume=True)
        assert report.n_tiles_kept == N_TILES
        assert files_below(out) == wanted


def test_damaged_tile_is_computed_anew(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile that was cut short or changed counts as absent."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        fail_at(patched, "finish", 0)
        with pytest.raises(_Killed):
            score_particles(plan_of(data), out)
    tiles = sorted((out / ".cryolike-wip").glob("*.npz"))
    assert len(tiles) == N_TILES
    tiles[0].write_bytes(tiles[0].read_bytes()[:-100])
    changed = bytearray(tiles[5].read_bytes())
    changed[len(changed) // 2] ^= 1
    tiles[5].write_bytes(bytes(changed))
    report = score_particles(plan_of(data), out, resume=True)
    assert report.n_tiles_kept == N_TILES - 2
    assert files_below(out) == wanted


def test_finished_run_is_left_alone(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming it computes nothing and reports the same."""
    first = score_particles(plan_of(data), tmp_path / "out")
    fail_at(monkeypatch, "write", 0)
    again = score_particles(plan_of(data), tmp_path / "out", resume=True)
    assert files_below(tmp_path / "out") == wanted
    assert again.n_tiles_kept == N_TILES
    assert (again.log_likelihood_integrated == first.log_likelihood_integrated).all()
    assert again.best_structure == first.best_structure == "true"


def finished_run(wanted: dict[str, bytes], folder: Path) -> Path:
    """Give a folder with the results of the undisturbed run."""
    out = folder / "out"
    out.mkdir()
    for name, content in wanted.items():
        (out / name).write_bytes(content)
    return out


def test_missing_pictures_are_drawn(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    """Resuming a finished run draws those that are missing, as they would have been drawn."""
    out, whole = finished_run(wanted, tmp_path), tmp_path / "whole"
    score_particles(plan_of(data, plots=True), whole)
    assert not (out / "plots").exists()
    report = score_particles(plan_of(data, plots=True), out, resume=True)
    assert "plots/gallery.png" in report.files
    assert files_below(out) == files_below(whole)
    (out / "plots" / "gallery.png").write_bytes(b"cut")
    score_particles(plan_of(data), out, resume=True)
    assert (out / "plots" / "gallery.png").read_bytes() == b"cut"
    score_particles(plan_of(data, plots=True), out, resume=True)
    assert files_below(out) == files_below(whole)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("mine")])
def test_finished_run_that_was_changed(
    data: ScoreSet,
    wanted: dict[str, bytes],
    tmp_path: Path,
    change: Callable[[Path], object],
) -> None:
    """Resuming it names the files that are not as they were written, and changes nothing."""
    out = finished_run(wanted, tmp_path)
    for name in ("results.csv", "particles_scored.star"):
        change(out / name)
    before = files_below(out)
    with pytest.raises(IncompleteOutputError, match=r"2 files of a finished run") as caught:
        score_particles(plan_of(data), out, resume=True)
    assert len(caught.value.problems[0].places) == 2
    assert files_below(out) == before


@pytest.mark.parametrize("files", [None, 7, [], [{"name": 1}], [["a"]], {"a": 1}])
def test_record_that_was_changed(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path, files: object
) -> None:
    """A finished run whose record does not list its files is refused without a traceback."""
    out, record_file = finished_run(wanted, tmp_path), tmp_path / "out" / "scores.json"
    record = json.loads(record_file.read_text())
    record_file.write_text(json.dumps(record | {"files": files}))
    with pytest.raises(IncompleteOutputError, match="lists no files"):
        score_particles(plan_of(data), out, resume=True)


@pytest.mark.filterwarnings("ignore:2 rows of 30 of the scored set:UserWarning")
@pytest.mark.parametrize("n_written", [2, 8])
def test_rejects_of_an_earlier_run(
    data: ScoreSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_written: int
) -> None:
    """A resumed run reports them; they are an error where images may not be left out."""
    bad = data.with_values({(3, "rlnCtfScalefactor"): 0.0, (29, "rlnCtfScalefactor"): 0.0})
    out, structures = tmp_path / "out", [data.true, data.other]
    good = plan_scoring(read_particles(data.star_file), structures, OPTIONS)
    plan = plan_scoring(read_particles(bad), structures, replace(OPTIONS, on_bad_image="skip"))
    with monkeypatch.context() as patched:
        fail_at(patched, "write", n_written)
        run_or_stop(plan, out)
    strict = replace(plan, options=good.options)
    with pytest.raises(ImageError, match="asked to leave these images out"):
        score_particles(strict, out, resume=True)
    report = score_particles(plan, out, resume=True)
    assert [row for _, row, *_ in report.rejects] == [3, 29]
    assert report.to_dict()["n_skipped"] == 2
    assert report.n_images == N_IMAGES - 2
    again = score_particles(plan, out, resume=True)
    assert again.rejects == report.rejects
    assert again.to_dict() | {"seconds": 0} == report.to_dict() | {
        "seconds": 0,
        "n_parts_kept": N_TILES,
    }


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_settings_are_not_mixed(
    data: ScoreSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """Resuming with another setting is refused, naming it, and changes nothing."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        if not is_finished:
            fail_at(patched, "write", 3)
        run_or_stop(plan_of(data), out)
    before = files_below(out)
    with pytest.raises(OutputExistsError, match=r"options.n_compared: 'disc' then, 'box' now"):
        score_particles(plan_of(data, n_compared="box"), out, resume=True)
    with pytest.raises(OutputExistsError, match="--resume"):
        score_particles(plan_of(data), out)
    assert files_below(out) == before


def run_or_stop(plan: ScorePlan, out: Path) -> None:
    """Run, to the end or until it is stopped."""
    try:
        score_particles(plan, out)
    except _Killed:
        return


def test_changed_structure_is_noticed(
    data: ScoreSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming after a structure's file was written anew is refused, naming the file."""
    structure, out = tmp_path / "copy.mrc", tmp_path / "out"
    shutil.copy(data.other, structure)
    table = read_particles(data.star_file)
    with monkeypatch.context() as patched:
        fail_at(patched, "write", 2)
        run_or_stop(plan_scoring(table, [structure], OPTIONS), out)
    shutil.copy(data.true, structure)
    with pytest.raises(OutputExistsError, match=f"{structure} was modified"):
        score_particles(plan_scoring(table, [structure], OPTIONS), out, resume=True)


def test_overwriting(data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path) -> None:
    """It replaces finished results of other settings, and leaves files of others alone."""
    out = tmp_path / "out"
    score_particles(plan_of(data, n_compared="box"), out)
    (out / "notes.txt").write_text("mine")
    score_particles(plan_of(data), out, overwrite=True)
    assert files_below(out) == wanted | {"notes.txt": b"mine"}


def test_files_of_others_are_not_replaced(data: ScoreSet, tmp_path: Path) -> None:
    """A results.csv of unknown origin is refused and stays."""
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"results\.csv"):
        score_particles(plan_of(data), tmp_path)
    assert files_below(tmp_path) == {"results.csv": b"mine"}


def test_converted_set_is_not_scored_in_place(data: ScoreSet, tmp_path: Path) -> None:
    """Scores do not go into the folder of a converted set."""
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="converted set"):
        score_particles(plan_of(data), tmp_path)


def test_sources_are_not_overwritten(data: ScoreSet, tmp_path: Path) -> None:
    """A metadata file named as our scored set, in the output folder, is refused."""
    shutil.copytree(data.star_file.parent, tmp_path / "set")
    star_file = tmp_path / "set" / "particles_scored.star"
    (tmp_path / "set" / "particles.star").rename(star_file)
    plan = plan_scoring(read_particles(star_file), [data.true], OPTIONS)
    with pytest.raises(OutputError, match="source file"):
        score_particles(plan, star_file.parent, overwrite=True)


def test_contradicting_options(data: ScoreSet, tmp_path: Path) -> None:
    """To resume and to overwrite exclude each other."""
    with pytest.raises(UsageError, match="contradict"):
        score_particles(plan_of(data), tmp_path, resume=True, overwrite=True)


def test_second_run_in_one_folder(data: ScoreSet, tmp_path: Path) -> None:
    """While one process writes, another is refused."""
    plan, out = plan_of(data), tmp_path / "out"
    with TileFolder(out, plan.header()):
        for resume in (True, False):
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
                score_particles(plan, out, resume=resume, overwrite=not resume)


def test_planned_conversion_gives_the_same(
    data: ScoreSet, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    """A conversion planned before gives the same results as a table."""
    plan = plan_scoring(
        plan_conversion(read_particles(data.star_file)), [data.true, data.other], OPTIONS
    )
    score_particles(plan, tmp_path / "out")
    ours = files_below(tmp_path / "out")
    for name in ("results.parquet", "particles_scored.star", "log_likelihood_integrated.npy"):
        assert ours[name] == wanted[name]


def test_report() -> None:
    """The numbers of a report follow from the matrix."""
    matrix = np.array([[1.0, 0.0, -2.0], [3.0, 5.0, 0.0], [2.0, 0.0, 1.0]])
    report = ScoreReport(
        folder=Path("out"), structures=("a", "b", "c"), log_likelihood_integrated=matrix
    )
    assert report.n_best.tolist() == [2, 1, 0]
    assert report.log_likelihood.tolist() == [6.0, 5.0, -1.0]
    assert report.best_structure == "a"
    lines = [line.split() for line in report.describe().splitlines()[2:]]
    assert [line[0] for line in lines] == ["a", "b", "c"]
    assert lines[1][1:] == ["-1.0", "nats", "-0.33", "1"]
    assert json.loads(json.dumps(report.to_dict()))["structures"][2]["n_best"] == 0


@pytest.mark.slow
def test_interrupted_program(data: ScoreSet, tmp_path: Path) -> None:
    """Ctrl-C ends the program with 130 and one sentence that names --resume, and that works."""
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    options = ("--shift-max", "2", "--view-spacing", "8", "--no-plots", "--quiet")
    many = [f"{argument}" for i in range(6) for argument in ("-s", _copy(data.true, tmp_path, i))]
    arguments = ["score", str(data.star_file), *many, *options]
    process = _program(*arguments, "-o", str(out))
    deadline = time.monotonic() + 200
    while not list((out / ".cryolike-wip").glob("*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert err.count("error: ") == 1
    assert "run the same command with --resume" in err
    assert 1 <= len(list((out / ".cryolike-wip").glob("*.npz"))) < 6
    for folder, more in ((out, ["--resume"]), (undisturbed, [])):
        process = _program(*arguments, "-o", str(folder), *more)
        _, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
    assert files_below(out) == files_below(undisturbed)


def _copy(path: Path, folder: Path, number: int) -> str:
    copy = folder / f"copy_{number}.mrc"
    shutil.copy(path, copy)
    return str(copy)


def _program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cryolike", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


def test_pictures_are_the_same_bytes(data: ScoreSet, tmp_path: Path) -> None:
    """Drawn twice, pictures are equal."""
    for name in ("a", "b"):
        score_particles(plan_of(data, plots=True), tmp_path / name)
    pictures = [files_below(tmp_path / name / "plots") for name in ("a", "b")]
    assert len(pictures[0]) == 4
    assert pictures[0] == pictures[1]


def test_number_of_images(wanted: dict[str, bytes]) -> None:
    """The undisturbed run, which others are compared with, has scored all images."""
    assert wanted["results.csv"].count(b"\n") == 1 + 2 * N_IMAGES
