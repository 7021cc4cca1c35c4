"""Writing an output folder: whole files or none, records, locks and free space."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import (
    FolderInUseError,
    IncompleteOutputError,
    OutputError,
    OutputExistsError,
)
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import (
    FileRecord,
    InputRecord,
    Manifest,
    RunHeader,
    StackRecord,
    checksum_of_file,
    checksum_of_rows,
    ranges_of_rows,
    rows_of_ranges,
)
from cryolike.store.reader import read_arrays
from cryolike.store.writer import (
    RunFolder,
    StackContent,
    check_free_space,
    refuse_existing_results,
    write_arrays,
    writing,
)


@pytest.fixture
def header(tmp_path: Path) -> RunHeader:
    """Describe a run of three stacks from one source file."""
    source = tmp_path / "particles.star"
    source.write_text("rows")
    return RunHeader(
        program="cryolike 0",
        kind="star",
        reader_arguments={"path": str(source)},
        options={"batch_size": 2, "on_bad_image": "error"},
        descriptor={"n_pixels": [8, 8]},
        n_rows=6,
        rows="0" * 32,
        n_stacks=3,
        inputs=(InputRecord.of_path(source),),
    )


def images_of(index: int, n_images: int = 2) -> torch.Tensor:
    """Make numbers that tell which stack it is."""
    numbers = torch.arange(n_images * 6, dtype=torch.float32).reshape(n_images, 2, 3)
    return torch.complex(numbers, numbers + index)


def write(
    run: RunFolder, index: int, *, plots: bool = False, n_images: int = 2, rejected: Any = ()
) -> None:
    """Write a stack whose content tells which it is."""
    pictures = dict.fromkeys(OutputLayout.plot_names(index), b"png") if plots else {}
    with ExitStack() as drafts:
        draft = None
        if n_images:
            draft = drafts.enter_context(run.draft(index, (n_images, 2, 3), torch.complex64))
            for image in images_of(index, n_images):
                draft.append(image)
        run.write_stack(
            StackContent(
                index=index,
                draft=draft,
                metadata={"number": np.array(index), "name": np.array(["a", "bc"])},
                rows=((0, 2 * index, 2 * index + n_images),) if n_images else (),
                rejected=rejected,
                plots=pictures,
            )
        )


def write_all(folder: Path, header: RunHeader, **keywords: Any) -> Manifest:
    """Write what is missing of a run and finish it."""
    with RunFolder(folder, header, **keywords) as run:
        for index in range(header.n_stacks):
            if index not in run.records:
                write(run, index)
        return run.finish()


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_finished_folder_holds_only_results(tmp_path: Path, header: RunHeader) -> None:
    """Tensors, metadata, plots and the manifest; no lock, journal or draft."""
    with RunFolder(tmp_path / "out", header) as run:
        for index in range(3):
            write(run, index, plots=index == 0)
        manifest = run.finish()
    names = {*(file.name for file in manifest.all_files()), "manifest.json"}
    assert set(files_below(tmp_path / "out")) == names
    assert len(names) == 3 * 2 + 3 + 1
    assert not (tmp_path / "out/.cryolike-wip").exists()


def test_records_tell_size_and_checksum(tmp_path: Path, header: RunHeader) -> None:
    """As they are on disk."""
    manifest = write_all(tmp_path / "out", header)
    assert manifest == Manifest.load(tmp_path / "out/manifest.json")
    for file in manifest.all_files():
        path = tmp_path / "out" / file.name
        assert path.stat().st_size == file.n_bytes
        assert checksum_of_file(path) == file.xxh3_128


def test_stack_reads_back_as_it_was(tmp_path: Path, header: RunHeader) -> None:
    """Tensor and arrays, without any pickled object."""
    write_all(tmp_path / "out", header)
    layout = OutputLayout(tmp_path / "out")
    images = torch.load(layout.path(layout.tensor_name(1)), weights_only=True, mmap=True)
    assert torch.equal(images, images_of(1))
    arrays = read_arrays(layout.path(layout.metadata_name(1)))
    assert arrays["number"] == 1
    assert arrays["name"].tolist() == ["a", "bc"]


def test_stack_without_images_has_no_files(tmp_path: Path, header: RunHeader) -> None:
    """It is recorded all the same, with what was left out."""
    rejected = ((0, 2, "3@a.mrcs", "blank"),)
    with RunFolder(tmp_path / "out", replace(header, n_stacks=1)) as run:
        write(run, 0, n_images=0, rejected=rejected)
        manifest = run.finish()
    (stack,) = manifest.stacks
    assert (stack.n_images, stack.files, stack.rejected) == (0, (), rejected)
    assert sorted(files_below(tmp_path / "out")) == ["manifest.json", "rejects.csv"]


def test_rejects_are_sorted_by_row(tmp_path: Path, header: RunHeader) -> None:
    """Those of metadata and of images together; text with commas is quoted."""
    with RunFolder(tmp_path / "out", replace(header, n_stacks=1)) as run:
        write(run, 0, rejected=((0, 5, "6@a,b.mrcs", "blank"),))
        run.finish(rejected_rows=((0, 9, "x", "y"), (0, 3, "z", "w")))
    lines = (tmp_path / "out/rejects.csv").read_text().splitlines()
    source = header.inputs[0].path
    assert lines == [
        "metadata_file,source_row,image_name,reason",
        f"{source},3,z,w",
        f'{source},5,"6@a,b.mrcs",blank',
        f"{source},9,x,y",
    ]


def test_journal_torn_by_a_kill_counts_up_to_its_last_whole_line(
    tmp_path: Path, header: RunHeader
) -> None:
    """The stack whose line was cut is written again."""
    out = tmp_path / "out"
    with RunFolder(out, header) as run:
        write(run, 0)
        write(run, 1)
    journal = out / ".cryolike-wip/stacks.jsonl"
    journal.write_text(journal.read_text()[:-20])
    with RunFolder(out, header, skip_exist=True) as run:
        assert sorted(run.records) == [0]
        assert sorted(files_below(out / "fft")) == [
            "particles_fourier_stack_000000.npz",
            "particles_fourier_stack_000000.pt",
        ]


def test_changed_line_of_the_journal_does_not_count(tmp_path: Path, header: RunHeader) -> None:
    """Whichever of its bytes it is, the stack is written again, the other one kept."""
    out = tmp_path / "out"
    with RunFolder(out, header) as run:
        write(run, 0)
        write(run, 1)
    journal = out / ".cryolike-wip/stacks.jsonl"
    content = journal.read_bytes()
    tensors = {path: path.read_bytes() for path in (out / "fft").iterdir()}
    for place in range(0, content.index(b"\n"), 9):
        changed = bytes([content[place] ^ 1])
        journal.write_bytes(content[:place] + changed + content[place + 1 :])
        for path, data in tensors.items():
            path.write_bytes(data)
        with RunFolder(out, header, skip_exist=True) as run:
            assert sorted(run.records) == [1], place


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"inputs": 3}'])
def test_damaged_record_of_a_run_is_an_error_of_ours(
    tmp_path: Path, header: RunHeader, text: str
) -> None:
    """It can be overwritten, not resumed."""
    out = tmp_path / "out"
    with RunFolder(out, header) as run:
        write(run, 0)
    (out / ".cryolike-wip/run.json").write_text(text)
    with (
        pytest.raises(OutputExistsError, match="--overwrite"),
        RunFolder(out, header, skip_exist=True),
    ):
        pass
    write_all(out, header, overwrite=True)
    assert not (out / ".cryolike-wip").exists()


def test_error_in_the_middle_keeps_the_record(tmp_path: Path, header: RunHeader) -> None:
    """Whatever stops the run, complete stacks count afterwards."""
    out = tmp_path / "out"

    def interrupted() -> None:
        with RunFolder(out, header) as run:
            write(run, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (out / "manifest.json").exists()
    with RunFolder(out, header, skip_exist=True) as run:
        assert sorted(run.records) == [0]


def test_run_that_wrote_nothing_is_as_if_it_had_not_been(tmp_path: Path, header: RunHeader) -> None:
    """A folder it made is removed; one it found stays, with what is in it."""
    with RunFolder(tmp_path / "new", header):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/notes").touch()
    with RunFolder(tmp_path / "old", header):
        pass
    assert list((tmp_path / "old").iterdir()) == [tmp_path / "old/notes"]


def test_failed_file_leaves_neither_draft_nor_result(
    tmp_path: Path, header: RunHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack is there as a whole or not at all, and can be written again."""
    out = tmp_path / "out"

    def fail(*_: Any) -> None:
        raise RuntimeError("the writer failed")

    with RunFolder(out, header) as run:
        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", fail)
            with pytest.raises(OutputError, match="the writer failed"):
                write(run, 0)
        assert not list(out.rglob("*.pt"))
        assert run.records == {}
        write(run, 0)
        assert sorted(run.records) == [0]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_says_is_put_in_words(number: int, words: str) -> None:
    """With the file and the way to go on."""
    with pytest.raises(OutputError) as caught, writing(Path("some/file")):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert words in message
    assert "some/file" in message
    assert "--resume" in message


def test_locked_folder_names_the_process(tmp_path: Path, header: RunHeader) -> None:
    """Whatever the second run was asked to do; the first goes on."""
    out = tmp_path / "out"
    with RunFolder(out, header) as run:
        write(run, 0)
        before = files_below(out)
        for skip_exist, overwrite in ((False, False), (True, False), (False, True)):
            second = RunFolder(out, header, skip_exist=skip_exist, overwrite=overwrite)
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on "), second:
                pass
        assert files_below(out) == before
        write(run, 1)


def test_results_are_refused_by_themselves(tmp_path: Path, header: RunHeader) -> None:
    """A folder can be checked before anything is read."""
    refuse_existing_results(tmp_path / "out")
    write_all(tmp_path / "out", header)
    with pytest.raises(OutputExistsError, match="7 files of a conversion"):
        refuse_existing_results(tmp_path / "out")


@pytest.mark.parametrize("n_free", [999, 1000])
def test_free_space_is_that_of_the_nearest_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_free: int
) -> None:
    """The output folder need not exist yet."""
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return usage._replace(free=n_free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    if n_free < 1000:
        with pytest.raises(OutputError, match="will be written"):
            check_free_space(tmp_path / "not/yet", 1000)
    else:
        check_free_space(tmp_path / "not/yet", 1000)
    assert asked == [tmp_path]


def test_arrays_are_written_to_files_that_cannot_seek() -> None:
    """The bytes depend on the content only, and numpy reads them."""

    class OneWay(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(bytes(data))

    files = OneWay(), OneWay()
    arrays = {"a": np.arange(3), "b": np.array("text"), "c": np.array([])}
    for file in files:
        write_arrays(file, arrays)
    assert files[0].data == files[1].data
    with np.load(io.BytesIO(files[0].data), allow_pickle=False) as data:
        assert {key: data[key].tolist() for key in data.files} == {
            "a": [0, 1, 2],
            "b": "text",
            "c": [],
        }


def test_objects_are_never_written() -> None:
    """An array of objects would need a pickle."""
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(io.BytesIO(), {"a": np.array([{}, None])})


# Records


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30))
def test_ranges_stand_for_rows_in_their_order(rows: list[tuple[int, int]]) -> None:
    """Any rows, in any order and with repeats, come back."""
    index = np.array(rows, dtype=np.int64).reshape(-1, 2)
    ranges = ranges_of_rows(index[:, 0], index[:, 1])
    np.testing.assert_array_equal(rows_of_ranges(ranges), index)


def test_consecutive_rows_are_one_range() -> None:
    """A stack of rows in order needs no list."""
    assert ranges_of_rows(np.zeros(1000, dtype=int), np.arange(5, 1005)) == ((0, 5, 1005),)
    assert ranges_of_rows(np.array([0, 0, 1]), np.array([4, 5, 6])) == ((0, 4, 6), (1, 6, 7))


def test_checksum_of_rows_depends_on_which_and_their_order() -> None:
    """Not on the type of the arrays."""
    file, row = np.array([0, 0, 1]), np.array([1, 2, 0])
    whole = checksum_of_rows(file, row)
    assert checksum_of_rows(file.astype(np.int32), row.astype(np.uint8)) == whole
    assert checksum_of_rows(file, row[::-1]) != whole
    assert checksum_of_rows(file, row + 1) != whole
    assert checksum_of_rows(file[::-1], row) != whole


def test_manifest_survives_the_way_through_json(header: RunHeader) -> None:
    """Tuples, text in any script and long lists."""
    record = FileRecord(name="fft/ä.pt", n_bytes=2**40, xxh3_128="0" * 32)
    stack = StackRecord(
        index=7,
        n_images=3,
        rows=((0, 1, 3), (1, 5, 6)),
        rejected=((0, 4, "5@ü.mrcs", 'blank: "quoted"\n'),),
        files=(record,),
    )
    manifest = Manifest(header=header, stacks=(stack,) * 3, files=(record,))
    values = json.loads(manifest.to_json())
    assert StackRecord.from_dict(values["stacks"][2]) == stack
    assert RunHeader.from_dict(values["header"]) == header


def test_manifest_of_a_newer_version_says_so(tmp_path: Path, header: RunHeader) -> None:
    """It is not called damaged."""
    write_all(tmp_path, header)
    file = tmp_path / "manifest.json"
    text = file.read_text()
    assert '"format_version": 1' in text
    file.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(IncompleteOutputError, match="version 2"):
        Manifest.load(file)


def test_differences_name_setting_and_both_values(header: RunHeader) -> None:
    """Options, descriptor and program; other rows are said in words."""
    then = replace(
        header,
        program="cryolike 1",
        options={**header.options, "batch_size": 4},
        descriptor={"n_pixels": [9, 9]},
    )
    assert header.differences(then) == [
        "program: 'cryolike 1' then, 'cryolike 0' now",
        "batch_size: 4 then, 2 now",
        "n_pixels: [9, 9] then, [8, 8] now",
    ]
    assert header.differences(replace(header, rows="f" * 32)) == ["other rows were chosen"]
    assert header.differences(header) == []


def test_skipping_unusable_images_now_is_no_difference(header: RunHeader) -> None:
    """A run that stops at them wrote stacks without any; the reverse is a difference."""
    skipping = replace(header, options={**header.options, "on_bad_image": "skip"})
    assert skipping.differences(header) == []
    assert header.differences(skipping) == ["on_bad_image: 'skip' then, 'error' now"]


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("fft/particles_fourier_stack_000012.pt", True),
        ("fft/particles_fourier_stack_000012.npz", True),
        ("plots/particles_phys_stack_000000.png", True),
        ("plots/power_spectrum_stack_999999.png", True),
        ("manifest.json", True),
        ("rejects.csv", True),
        ("fft/particles_fourier_stack_12.pt", False),
        ("fft/other.pt", False),
        ("particles_fourier_stack_000012.pt", False),
        ("plots/figure.png", False),
        ("notes.txt", False),
    ],
)
def test_our_files_are_known_by_their_names(tmp_path: Path, name: str, is_ours: bool) -> None:
    """And no others."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert OutputLayout(tmp_path).results_present() == ([tmp_path / name] if is_ours else [])
