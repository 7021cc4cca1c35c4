"""Long work in tiles: what is kept, what is refused, what is put in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryolike.errors import OutputError, OutputExistsError
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
