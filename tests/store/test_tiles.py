"""Long work in tiles: what is kept, what is refused, what is put in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryolike.errors import FolderInUseError, OutputError, OutputExistsError
from cryolike.store.manifest import InputRecord, checksum_of_file
from cryolike.store.tiles import RECORD_NAME, TileFolder, WorkHeader

TILE = {"a": np.arange(3), "b": np.array("text")}


def header_of(source: Path, **settings: Any) -> WorkHeader:
    """Describe work on one file."""
    if not source.exists():
        source.write_text("source")
    values = {"n": 1, "options": {"mode": "exact"}, **settings}
    return WorkHeader(settings=values, inputs=(InputRecord.of_path(source),))


@pytest.fixture
def header(tmp_path: Path) -> WorkHeader:
    """Describe some work."""
    return header_of(tmp_path / "source.txt")


def write_one(folder: Path) -> None:
    """Write the results."""
    (folder / "plots").mkdir()
    (folder / "plots" / "one.png").write_text("picture")
    (folder / "results.csv").write_text("1,2\n")


def test_tiles_are_kept_until_results_are_there(header: WorkHeader, tmp_path: Path) -> None:
    """What was written by an unfinished run is read by the next; at the end only results stay."""
    out = tmp_path / "out"
    with TileFolder(out, header) as tiles:
        assert tiles.read("one") is None
        tiles.write("one", TILE)
    with TileFolder(out, header, resume=True) as tiles:
        read = tiles.read("one")
        assert read is not None
        assert {key: value.tolist() for key, value in read.items()} == {"a": [0, 1, 2], "b": "text"}
        records = tiles.finish(write_one)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == [
        "plots",
        "plots/one.png",
        "results.csv",
        RECORD_NAME,
    ]
    for record in records:
        assert record.xxh3_128 == checksum_of_file(out / record.name)
    told = json.loads((out / RECORD_NAME).read_text())
    assert [file["name"] for file in told["files"]] == ["plots/one.png", "results.csv"]
    with TileFolder(out, header, resume=True) as tiles:
        assert tiles.is_finished
    assert not (out / ".cryolike-wip").exists()


def test_differences_are_named(tmp_path: Path) -> None:
    """Settings, those in groups too, and files that changed."""
    source = tmp_path / "source.txt"
    ours = header_of(source)
    assert ours.differences(ours) == []
    other = header_of(source, n=2, options={"mode": "fast"})
    assert other.differences(ours) == ["n: 1 then, 2 now", "options.mode: 'exact' then, 'fast' now"]
    earlier = header_of(source)
    source.write_text("longer source")
    (difference,) = header_of(source).differences(earlier)
    assert "had 6 bytes and has 13" in difference
    second = WorkHeader(settings=ours.settings, inputs=())
    assert ours.differences(second) == ["other input files"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 1}', "\xff"])
def test_damaged_header_is_no_traceback(header: WorkHeader, tmp_path: Path, text: str) -> None:
    """The run cannot be resumed, which is said; it can be overwritten."""
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), TileFolder(out, header):
        raise RuntimeError
    (out / ".cryolike-wip" / "score.json").write_text(text, encoding="latin-1")
    with pytest.raises(OutputExistsError, match="damaged"), TileFolder(out, header, resume=True):
        pass
    with TileFolder(out, header, overwrite=True) as tiles:
        tiles.finish(write_one)
    assert (out / "results.csv").is_file()


def test_nothing_is_made_where_it_is_refused(header: WorkHeader, tmp_path: Path) -> None:
    """A file in place of the folder, and files of others, stay as they are."""
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(OutputExistsError, match="not a folder"),
        TileFolder(tmp_path / "file", header),
    ):
        pass
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("mine")
    tiles = TileFolder(out, header, result_names=["results.csv"])
    with pytest.raises(OutputExistsError, match="would be replaced"), tiles:
        pass
    assert [path.name for path in out.iterdir()] == ["results.csv"]


def test_overwriting_removes_only_what_the_record_lists(header: WorkHeader, tmp_path: Path) -> None:
    """Also where the record was changed to name files elsewhere."""
    out = tmp_path / "out"
    with TileFolder(out, header) as tiles:
        tiles.finish(write_one)
    (tmp_path / "precious.txt").write_text("mine")
    record = json.loads((out / RECORD_NAME).read_text())
    record["files"].append({"name": "../precious.txt", "n_bytes": 1, "xxh3_128": ""})
    (out / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(RuntimeError), TileFolder(out, header, overwrite=True):
        raise RuntimeError
    assert not (out / "results.csv").exists()
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_disk_that_refuses(
    header: WorkHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is our error, which says how to go on, and no half tile is left."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with TileFolder(tmp_path / "out", header) as tiles:
        monkeypatch.setattr("cryolike.store.tiles.write_arrays", refuse)
        with pytest.raises(OutputError, match=r"disk is full.*--resume"):
            tiles.write("one", TILE)
        assert tiles.read("one") is None


def killed_while_placing(
    header: WorkHeader, out: Path, monkeypatch: pytest.MonkeyPatch, write: Any = write_one
) -> None:
    """Stop a run when its first file is in place."""
    original, moves = Path.replace, iter(range(1000))

    def moved(source: Path, target: Path) -> Path:
        if source.is_relative_to(out / ".cryolike-wip" / "results") and next(moves) == 1:
            raise KeyboardInterrupt
        return original(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", moved)
        with pytest.raises(KeyboardInterrupt), TileFolder(out, header) as tiles:
            tiles.finish(write)


def test_run_that_was_killed_before_it_said_that_it_is_finished(
    header: WorkHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its record in place, files that the next run does not write are removed, too."""
    out, original = tmp_path / "out", Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.name == "score.json":
            raise KeyboardInterrupt
        original(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlinked)
        with pytest.raises(KeyboardInterrupt), TileFolder(out, header) as tiles:
            tiles.finish(write_one)
    assert (out / RECORD_NAME).exists()
    with TileFolder(out, header, resume=True) as tiles:
        assert not tiles.is_finished
        tiles.finish(write_other)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == ["results.csv", RECORD_NAME]


def write_other(folder: Path) -> None:
    """Write other results."""
    (folder / "results.csv").write_text("3,4\n")


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_a_run_that_was_killed_at_its_end_do_not_stay(
    header: WorkHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The next run, which writes fewer, removes those that were in place already."""
    out = tmp_path / "out"
    killed_while_placing(header, out, monkeypatch)
    assert (out / "plots" / "one.png").exists()
    (out / "plots" / "mine.png").write_text("mine")
    with TileFolder(out, header, resume=not overwrite, overwrite=overwrite) as tiles:
        tiles.finish(write_other)
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*"))
    assert names == ["plots", "plots/mine.png", "results.csv", RECORD_NAME]
    assert (out / "results.csv").read_text() == "3,4\n"


def test_overwriting_that_is_killed_forgets_no_file(
    header: WorkHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the finished run before are known although its record has gone."""
    out = tmp_path / "out"
    with TileFolder(out, header) as tiles:
        tiles.finish(write_one)
    original, calls = Path.unlink, iter(range(1000))

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        original(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlinked)
        with pytest.raises(KeyboardInterrupt), TileFolder(out, header, overwrite=True):
            pass
    assert not (out / RECORD_NAME).exists()
    with TileFolder(out, header, overwrite=True) as tiles:
        tiles.finish(write_other)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == ["results.csv", RECORD_NAME]


def test_files_are_added_to_a_finished_run(header: WorkHeader, tmp_path: Path) -> None:
    """The record lists them with the others; files of the same name are replaced in it."""
    out = tmp_path / "out"
    with TileFolder(out, header) as tiles:
        tiles.finish(write_other)
    with TileFolder(out, header, resume=True) as tiles:
        assert [file.name for file in tiles.earlier_files()] == ["results.csv"]
        records = tiles.add(write_one)
    assert [file.name for file in records] == ["plots/one.png", "results.csv"]
    assert [file.fault(out) for file in records] == ["", ""]
    with TileFolder(out, header, resume=True) as tiles:
        assert tiles.is_finished
        assert tiles.earlier_files() == records
    assert not (out / ".cryolike-wip").exists()


def test_check_says_what_entering_would(header: WorkHeader, tmp_path: Path) -> None:
    """And changes nothing, whether it refuses or not."""
    (tmp_path / "file").write_text("mine")
    other = WorkHeader(settings={"n": 2}, inputs=header.inputs)
    out = tmp_path / "out"
    TileFolder(out, header).check()
    assert not out.exists()
    with TileFolder(out, header) as tiles:
        with pytest.raises(FolderInUseError):
            TileFolder(out, header, resume=True).check()
        tiles.finish(write_one)
    before = sorted(out.rglob("*"))
    for tiles, message in (
        (TileFolder(tmp_path / "file" / "out", header), "is a file, not a folder"),
        (TileFolder(out, header), "finished run"),
        (TileFolder(out, other, resume=True), "n: 1 then, 2 now"),
    ):
        with pytest.raises(OutputExistsError, match=message):
            tiles.check()
        with pytest.raises(OutputExistsError, match=message), tiles:
            pass
    assert sorted(out.rglob("*")) == before


def test_folder_without_permission(
    header: WorkHeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before anything is tried; the folder above counts where there is none yet."""
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(OutputError, match=f"{tmp_path} cannot be written: no permission"):
        TileFolder(tmp_path / "a" / "b", header).check()
