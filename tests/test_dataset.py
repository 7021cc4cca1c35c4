"""Polar images without files: the same as converted ones, in any order, with nothing left open."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import SetBuilder
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from cryolike import dataset
from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.conversion.run import read_rows
from cryolike.dataset import ParticleDataset, PolarBatches, PolarImages, iter_polar
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeWarning,
    ImageError,
    MissingFileError,
    StackError,
    UsageError,
)
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable, select_rows
from cryolike.physics.ctf import CtfParameters, contrast_transfer_function
from cryolike.store import open_stacks

ORDER = (14, 3, 0, 7, 8, 2, 13, 1, 9, 4, 12, 6, 5, 11, 10)
"""Rows of three stacks of 7, 2 and 6 images, shuffled."""

NOTHING_MISSING = {"rlnCtfBfactor": 20.0, "rlnCtfScalefactor": 0.9}
"""Else a default would be used, which is worth a warning."""

STATISTICS = ("contrast_factor", "image_mean", "image_largest", "polar_norm")


def relion_table(build: SetBuilder, **keywords: Any) -> ParticleTable:
    """Shuffled rows of three stacks and three optics groups, 12 pixels of 2 Å."""
    optics = {
        "rlnOpticsGroup": [1, 2, 3],
        "rlnVoltage": [300, 200, 120],
        "rlnSphericalAberration": [2.7, 1.4, 0.01],
        "rlnAmplitudeContrast": [0.1, 0.07, 0.2],
        "rlnImagePixelSize": [2.0, 2.0, 2.0],
    }
    columns = {"rlnOpticsGroup": [1 + i % 3 for i in range(len(ORDER))], **NOTHING_MISSING}
    given = {"order": ORDER, "optics": optics, "columns": columns} | keywords
    return read_star(build.relion(**given).path)


def cryosparc_table(build: SetBuilder) -> ParticleTable:
    """Rows of two stacks in turn, of both signs, 12 pixels of 2 Å."""
    for name, seed in (("a.mrc", 1), ("b.mrc", 2)):
        build.stack(name, build.noise(5, seed=seed))
    n_rows = 10
    path = build.cryosparc(
        ["a.mrc", "b.mrc"] * 5,
        [0, 4, 1, 3, 2, 2, 3, 1, 4, 0],
        blob__sign=np.resize([1.0, -1.0, -1.0], n_rows),
        ctf__cs_mm=np.linspace(0.1, 2.7, n_rows),
        ctf__bfactor=np.zeros(n_rows),
        ctf__scale=np.ones(n_rows),
    )
    return read_cryosparc(path)


def joined(batches: Iterable[PolarImages]) -> PolarImages:
    """All batches as one."""
    return PolarImages(*(torch.cat(column) for column in zip(*batches, strict=True)))


def assert_same(found: PolarImages, expected: PolarImages) -> None:
    """Compare all that belongs to rows, which may have been in other batches."""
    for name, a, b in zip(PolarImages._fields, found, expected, strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def as_converted(table: ParticleTable, folder: Path, **options: Any) -> PolarImages:
    """Convert to files, open these, and compute the CTF by the formula in float64."""
    plan = plan_conversion(
        table, None, ConvertOptions(**{"plots": False, "batch_size": 4, **options})
    )
    convert(plan, folder)
    stacks = open_stacks(folder)
    polar, box_A = stacks.descriptor.polar_grid, stacks.descriptor.cartesian_grid.box_size_A
    ctf = contrast_transfer_function(
        CtfParameters.from_frame(stacks.table),
        torch.tensor(2 * polar.radius_shells / box_A)[:, None],
        torch.tensor(polar.theta_shell)[None, :],
        dtype=torch.float32,
    )
    source_row = torch.tensor(stacks.table["source_row"].to_numpy())
    return PolarImages(
        torch.cat(list(stacks)),
        ctf,
        source_row,  # of a whole table, so that rows are positions too
        source_row,
        *(torch.tensor(stacks.table[name].to_numpy()) for name in STATISTICS),
    )


def open_files() -> set[str]:
    """Paths of all open files."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own is gone already
            found.add(str(link.readlink()))
    return found


@contextmanager
def nothing_stays_open(within_s: float = 0) -> Iterator[None]:
    """Expect as many threads and open files afterwards as before; threads may take so long."""
    before = threading.active_count(), open_files()
    yield
    assert open_files() == before[1]
    end = time.monotonic() + within_s
    while threading.active_count() != before[0] and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before[0]


def blank_row(table: ParticleTable, row: int) -> None:
    """Make one image constant, on disk."""
    stack = Path(table.metadata_files[0]).parent / table.image_files[table.image_file_index[row]]
    pixels = np.full(12 * 12, 3.0, dtype=np.float32)
    with stack.open("r+b") as file:
        file.seek(1024 + int(table.image_index[row]) * pixels.nbytes)
        file.write(pixels.tobytes())


# The same as files


@pytest.mark.parametrize("read", [relion_table, cryosparc_table])
def test_equals_converted_files(
    read: Callable[[SetBuilder], ParticleTable], build: SetBuilder, tmp_path: Path
) -> None:
    """Images, statistics and rows are those of `convert`; the CTF is each row's own."""
    table = read(build)
    expected = as_converted(table, tmp_path / "out")
    assert_same(joined(iter_polar(table, batch_size=4)), expected)
    items = ParticleDataset(table).__getitems__(range(len(table)))
    assert_same(joined([PolarImages(*(c[None] for c in item)) for item in items]), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"contrast": "invert"},
        {"downsample_factor": 2, "downsample_type": "fourier"},
        {"downsample_factor": 3, "downsample_type": "max", "contrast": "keep"},
    ],
)
def test_options_count_as_for_files(
    options: dict[str, Any], build: SetBuilder, tmp_path: Path
) -> None:
    """Contrast and downsampling are those of `convert` with the same options."""
    table = cryosparc_table(build)
    expected = as_converted(table, tmp_path / "out", **options)
    given = ConvertOptions(**options)
    assert_same(joined(iter_polar(table, options=given)), expected)
    assert_same(joined(DataLoader(ParticleDataset(table, options=given), 4)), expected)


def test_options_of_output_files_count_for_nothing(build: SetBuilder) -> None:
    """How many stacks of what size a conversion would write changes no batch."""
    table = relion_table(build)
    options = ConvertOptions(batch_size=2, n_stacks_max=1)
    assert len(joined(iter_polar(table, options=options)).row) == len(table)
    assert len(ParticleDataset(plan_conversion(table, None, options))) == len(table)


def test_precision_is_the_descriptors(build: SetBuilder) -> None:
    """A descriptor for double precision gives complex128 images and a float64 CTF."""
    table = relion_table(build)
    double = ImageDescriptor.from_individual_values(12, 2.0, "double")
    found = joined(iter_polar(table, double))
    assert (found.images.dtype, found.ctf.dtype) == (torch.complex128, torch.float64)
    single = joined(iter_polar(table))
    error = (found.images - single.images).abs().square().sum().sqrt()
    assert 1e-9 < error / found.images.abs().square().sum().sqrt() < 2e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same(build: SetBuilder) -> None:
    """Images and CTF made on a GPU stay there and equal those made on the processor."""
    table = relion_table(build)
    found = joined(iter_polar(table, device="cuda"))
    assert found.images.is_cuda
    assert found.ctf.is_cuda
    assert_same(PolarImages(*(column.cpu() for column in found)), joined(iter_polar(table)))


# Batches


@pytest.mark.parametrize("batch_size", [1, 4, 15, 100])
@pytest.mark.parametrize("n_in_part", [1, 3, 100])
def test_batches_come_in_row_order_however_work_is_cut(
    batch_size: int, n_in_part: int, build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches but the last are full, and what is in them depends on rows alone."""
    table = relion_table(build)
    expected = joined(iter_polar(table))
    n_bytes = ImageDescriptor.from_individual_values(12, 2.0).polar_image_bytes
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", n_in_part * n_bytes)
    monkeypatch.setattr(dataset, "_N_BATCHES_OF_CONVERSION", 1)
    batches = list(iter_polar(table, batch_size=batch_size))
    assert [len(batch.row) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert joined(batches).row.tolist() == list(range(len(table)))
    assert_same(joined(batches), expected)


def test_few_rows_are_shared_among_all_threads(
    build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that one thread could take at once is cut where batches allow it."""
    table, n_converted = relion_table(build), list[int]()
    convert = dataset._RowConverter.__call__

    def counting(self: Any, pixels: np.ndarray, *others: Any) -> list[str]:
        n_converted.append(len(pixels))
        return convert(self, pixels, *others)

    monkeypatch.setattr(dataset._RowConverter, "__call__", counting)
    monkeypatch.setattr("cryolike.conversion.run.n_usable_cores", lambda: 4)
    assert joined(iter_polar(table, batch_size=4)).row.tolist() == list(range(15))
    assert sorted(n_converted) == [3, 4, 4, 4]


def test_rows_come_in_the_order_asked_for(build: SetBuilder) -> None:
    """Chosen rows, repeated ones too, say which row of the table and of the file they are."""
    table = select_rows(relion_table(build), rows=slice(3, None))
    rows = [7, 0, 11, 7, 2]
    found = joined(iter_polar(table, rows=rows, batch_size=2))
    assert found.row.tolist() == rows
    assert found.source_row.tolist() == [row + 3 for row in rows]
    whole = joined(iter_polar(table))
    assert_same(found, PolarImages(*(column[rows] for column in whole)))


def test_stacks_of_other_rows_are_not_touched(build: SetBuilder) -> None:
    """With `rows`, a missing stack that none of them is in is no error."""
    table = relion_table(build, order=range(15))
    (build.folder / table.image_files[int(table.image_file_index[8])]).unlink()
    assert joined(iter_polar(table, rows=range(5))).row.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(MissingFileError):
        iter_polar(table, rows=[0, 8])


def test_without_ctf_there_is_none(build: SetBuilder) -> None:
    """A CTF that is not asked for has size 0; the rest is the same."""
    table = relion_table(build)
    with_ctf = joined(iter_polar(table))
    for found in (
        joined(iter_polar(table, ctf=False, batch_size=4)),
        joined(DataLoader(ParticleDataset(table, ctf=False), 4)),
    ):
        assert found.ctf.shape == (len(table), 0)
        assert_same(found._replace(ctf=with_ctf.ctf), with_ctf)


def test_memory_is_used_again_only_when_nothing_refers_to_it(
    build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are dropped take turns in a few places; what is kept of others stays."""
    table = relion_table(build)
    monkeypatch.setattr("cryolike.conversion.run.n_usable_cores", lambda: 2)
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", 1)
    rows = np.tile(np.arange(len(table)), 4)
    places = {
        batch.images.data_ptr() for batch in iter_polar(table, rows=rows, batch_size=1, ctf=False)
    }
    assert len(places) < 20
    kept = [batch.images[0].real.numpy() for batch in iter_polar(table, rows=rows, batch_size=1)]
    expected = joined(iter_polar(table)).images.real.numpy()
    for row, image in zip(rows, kept, strict=True):
        np.testing.assert_allclose(image, expected[row], atol=1e-6)


def test_batches_may_be_changed(build: SetBuilder) -> None:
    """What a caller does to a batch changes no other."""
    table = relion_table(build)
    expected = joined(iter_polar(table))
    found = []
    for batch in iter_polar(table, rows=[0, 0, 1, 1], batch_size=1):
        found.append(PolarImages(*(column.clone() for column in batch)))
        for column in batch:
            column.zero_()
    assert_same(joined(found), PolarImages(*(column[[0, 0, 1, 1]] for column in expected)))


# What is under way


def test_few_batches_are_under_way(build: SetBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the caller is, only a few batches are read ahead."""
    table = relion_table(build)
    n_read = 0

    def counting(*arguments: Any) -> np.ndarray:
        nonlocal n_read
        n_read += 1
        return read_rows(*arguments)

    monkeypatch.setattr(dataset, "read_rows", counting)
    monkeypatch.setattr("cryolike.conversion.run.n_usable_cores", lambda: 2)
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", 1)
    monkeypatch.setattr(dataset, "_N_BATCHES_OF_CONVERSION", 1)
    with iter_polar(table, rows=np.tile(np.arange(len(table)), 10), batch_size=1) as batches:
        for n_taken in range(1, 6):
            next(batches)
            time.sleep(0.1)
            assert n_taken < n_read <= n_taken + 4


def test_closing_reads_nothing_more(build: SetBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be read when a loop is left is not waited for."""
    n_read = 0

    def slow(*arguments: Any) -> np.ndarray:
        nonlocal n_read
        n_read += 1
        time.sleep(0.2)
        return read_rows(*arguments)

    monkeypatch.setattr(dataset, "read_rows", slow)
    monkeypatch.setattr("cryolike.conversion.run.n_usable_cores", lambda: 6)
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", 1)
    with iter_polar(relion_table(build), batch_size=1) as batches:
        next(batches)
    assert n_read < 5  # of 8 under way


@pytest.mark.parametrize("n_taken", [0, 1, 3])
@pytest.mark.parametrize("how", ["close", "forget", "with"])
def test_ending_early_leaves_nothing_open(how: str, n_taken: int, build: SetBuilder) -> None:
    """A loop that is left closes files and threads, when it is closed or nobody holds it."""
    table = relion_table(build)
    list(iter_polar(table))  # what is opened once only
    with nothing_stays_open():
        batches = iter_polar(table, batch_size=2)
        taken = [next(batches) for _ in range(n_taken)]
        if how == "close":
            batches.close()
        elif how == "with":
            with batches:
                pass
        else:
            alive = weakref.ref(batches)
            del batches
            assert alive() is None  # without the garbage collector
    assert sum(len(batch.row) for batch in taken) == 2 * n_taken


def test_nothing_is_open_before_the_first_batch_or_after_the_last(build: SetBuilder) -> None:
    """An iterator that is not used, or is used up, holds neither threads nor files."""
    table = relion_table(build)
    list(iter_polar(table))
    with nothing_stays_open():
        batches = iter_polar(table, batch_size=4)
        with nothing_stays_open():
            assert len(list(batches)) == 4
    assert list(batches) == []


def test_torch_keeps_its_threads(build: SetBuilder) -> None:
    """The caller's computations use as many threads as before, during and after a loop."""
    table = relion_table(build)
    before = torch.get_num_threads()
    during = {torch.get_num_threads() for _ in iter_polar(table, batch_size=4)}
    assert during | {torch.get_num_threads()} == {before}


# What is wrong


def test_everything_wrong_is_said_before_anything_is_read(
    build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing stack and a short one are in one error of the call itself."""
    table = relion_table(build)
    (build.folder / table.image_files[0]).unlink()
    stack = build.folder / table.image_files[1]
    stack.write_bytes(stack.read_bytes()[:-1])
    monkeypatch.setattr(dataset, "read_rows", None)
    for make in (iter_polar, ParticleDataset):
        with pytest.raises(ValueError, match="2 problems") as caught:
            make(table)
        assert table.image_files[0] in str(caught.value)
        assert table.image_files[1] in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rows": [0, 15]}, "there is no row 15; the table has 15"),
        ({"rows": [-1]}, "there is no row -1"),
        ({"rows": []}, "at least one whole number"),
        ({"rows": np.ones(15, dtype=bool)}, "at least one whole number"),
        ({"rows": np.zeros(2)}, "at least one whole number"),
        ({"device": "cuda:99"}, "no such GPU"),
        ({"options": ConvertOptions(downsample_factor=5)}, "does not divide"),
    ],
)
def test_wrong_arguments_are_refused(
    keywords: dict[str, Any], message: str, build: SetBuilder
) -> None:
    """The call says what is wrong with its arguments."""
    table = relion_table(build)
    with pytest.raises(UsageError, match=message):
        iter_polar(table, **keywords)


def test_defaults_are_worth_a_warning(build: SetBuilder) -> None:
    """Where a default stands in for a missing field, both say so."""
    table = relion_table(build, columns={"rlnCtfBfactor": 0.0})
    for make in (iter_polar, ParticleDataset):
        with pytest.warns(CryoLikeWarning, match="rlnCtfScalefactor is missing"):
            make(table)


def test_bad_images_stop_by_default(build: SetBuilder) -> None:
    """A blank image is named with its row; batches before it come out."""
    table = relion_table(build)
    blank_row(table, 9)
    with nothing_stays_open():
        batches = iter_polar(table, batch_size=3)
        with pytest.raises(ImageError) as caught:
            list(batches)
    assert f"row 9: {table.image_name(9)} (blank" in str(caught.value)
    assert list(batches) == []


def test_only_batches_before_a_bad_image_come_out(
    build: SetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error comes in its place in the order of rows."""
    table = relion_table(build)
    blank_row(table, 9)
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", 1)
    batches = iter_polar(table, batch_size=3)
    assert joined(next(batches) for _ in range(3)).row.tolist() == list(range(9))
    with pytest.raises(ImageError, match="row 9: "):
        next(batches)


def test_bad_images_can_be_skipped(build: SetBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped images are listed, and all others are as they were."""
    table = relion_table(build)
    whole = joined(iter_polar(table))
    for row in (0, 6, 7, 8):
        blank_row(table, row)
    n_bytes = ImageDescriptor.from_individual_values(12, 2.0).polar_image_bytes
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", 3 * n_bytes)
    monkeypatch.setattr(dataset, "_N_BATCHES_OF_CONVERSION", 1)
    batches = iter_polar(table, batch_size=3, options=ConvertOptions(on_bad_image="skip"))
    assert batches.rejects == ()
    taken = list(batches)
    left = [row for row in range(15) if row not in (0, 6, 7, 8)]
    assert_same(joined(taken), PolarImages(*(column[left] for column in whole)))
    assert [len(batch.row) for batch in taken] == [2, 3, 3, 3]  # no empty one
    assert batches.rejects == tuple(
        (0, row, table.image_name(row), "blank: all pixels are equal") for row in (0, 6, 7, 8)
    )


def test_bad_rows_can_be_skipped(build: SetBuilder) -> None:
    """Rows are positions in the table that was given, also where others of it are left out."""
    table = relion_table(build)
    lost = int(table.image_file_index[0])
    (build.folder / table.image_files[lost]).unlink()
    options = ConvertOptions(on_bad_row="skip")
    kept = np.flatnonzero(table.image_file_index != lost).tolist()
    batches = iter_polar(table, options=options)
    assert joined(batches).row.tolist() == kept
    assert [row for _, row, *_ in batches.rejects] == sorted(set(range(15)) - set(kept))
    items = ParticleDataset(table, options=options)
    assert [int(item.row) for item in DataLoader(items, None)] == kept
    rows = [14, 0, 1, 2, 14]
    found = joined(iter_polar(table, options=options, rows=rows))
    assert found.row.tolist() == [row for row in rows if row in kept]
    assert found.source_row.tolist() == found.row.tolist()


def test_a_stack_that_changes_on_the_way_is_an_error(build: SetBuilder) -> None:
    """Pixels of another file than was planned with are not taken."""
    table = relion_table(build)
    batches = iter_polar(table)
    items = ParticleDataset(table)
    blank_row(table, 0)
    os.utime(build.folder / table.image_files[0], ns=(0, 0))
    with pytest.raises(StackError, match="changed"):
        next(batches)
    with pytest.raises(StackError, match="changed"):
        items.__getitems__(range(15))


# The dataset


def test_items_are_those_of_a_sequence(build: SetBuilder) -> None:
    """Items come by position, from the end too, and a loop over them ends."""
    table = relion_table(build)
    items = ParticleDataset(table)
    assert len(items) == 15
    rows = [int(item.row) for item in items]  # type: ignore[attr-defined]
    assert rows == list(range(15))
    assert int(items[-1].row) == 14
    assert int(items[np.int64(3)].row) == 3
    assert items[0].images.shape == (13, 24)
    for index in (15, -16):
        with pytest.raises(IndexError):
            items[index]
    assert items.__getitems__([]) == []


def test_a_plan_will_do(build: SetBuilder) -> None:
    """A dataset of a plan is that of its table and options, which cannot be given again."""
    table = relion_table(build)
    options = ConvertOptions(contrast="invert")
    plan = plan_conversion(table, None, options)
    found = joined(DataLoader(ParticleDataset(plan), 15))
    assert_same(found, joined(DataLoader(ParticleDataset(table, None, options), 15)))
    with pytest.raises(UsageError, match="A plan has its own"):
        ParticleDataset(plan, options=options)


def test_a_dataset_skips_no_images(build: SetBuilder) -> None:
    """Skipping is refused, and a bad image is an error that names it."""
    table = relion_table(build)
    with pytest.raises(UsageError, match="cannot skip bad images"):
        ParticleDataset(table, options=ConvertOptions(on_bad_image="skip"))
    blank_row(table, 9)
    items = ParticleDataset(table)
    assert int(items[8].row) == 8
    with pytest.raises(ImageError, match="row 9: "):
        items.__getitems__([8, 9])


def test_pickles_hold_the_table_only(build: SetBuilder) -> None:
    """A dataset that is in use travels without files and transform, and goes on as before."""
    table = relion_table(build)
    items = ParticleDataset(table)
    expected = items[4]
    copy = pickle.loads(pickle.dumps(items))
    assert len(pickle.dumps(items)) < 20_000  # the tables of the transform alone are larger
    assert_same(copy[4], expected)
    with nothing_stays_open(within_s=10):
        another = ParticleDataset(table)
        another.__getitems__(range(15))
        del another
        gc.collect()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("n_workers", "start"),
    [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_data_loader_gives_every_row_once(
    n_workers: int, start: str | None, build: SetBuilder
) -> None:
    """Shuffled batches, from the process itself or from workers, hold what `iter_polar` gives."""
    table = relion_table(build)
    items = ParticleDataset(table)
    assert int(items[0].row) == 0  # files are open when workers are started
    loader: DataLoader[PolarImages] = DataLoader(
        items,
        batch_size=4,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
        num_workers=n_workers,
        multiprocessing_context=start,
    )
    batches: list[PolarImages] = list(loader)
    assert [tuple(batch.images.shape) for batch in batches] == [(n, 13, 24) for n in (4, 4, 4, 3)]
    found = joined(batches)
    assert found.row.tolist() != list(range(15))
    order: Tensor = found.row.argsort()
    expected = joined(iter_polar(table))
    assert_same(PolarImages(*(column[order] for column in found)), expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_wait_for_no_lock_of_their_parent(build: SetBuilder) -> None:
    """A process that is forked while another thread reads opens the stacks for itself."""
    items = ParticleDataset(relion_table(build))
    reader = items._open().reader
    with reader._lock:
        loader: DataLoader[PolarImages] = DataLoader(
            items, 15, num_workers=1, multiprocessing_context="fork", timeout=60
        )
        assert len(next(iter(loader)).row) == 15


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_errors_come_out_of_workers(build: SetBuilder) -> None:
    """A bad image that a worker meets is named in the process that asked for it."""
    table = relion_table(build)
    blank_row(table, 9)
    loader: DataLoader[PolarImages] = DataLoader(
        ParticleDataset(table), 5, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(ImageError, match="row 9: "):
        list(loader)


def test_batches_are_made_of_items_without_copying(build: SetBuilder) -> None:
    """What a dataset gives at once is a batch already, for a DataLoader and for a part of it."""
    table = relion_table(build)
    items = ParticleDataset(table)
    some: Any = items.__getitems__([3, 1, 4, 1])
    batch = default_collate(some)
    assert isinstance(batch, PolarImages)
    assert batch.images.data_ptr() == some[0].images.data_ptr()
    assert batch.row.tolist() == [3, 1, 4, 1]
    for copied in (default_collate(list(some)), default_collate([items[i] for i in (3, 1, 4, 1)])):
        assert copied.images.data_ptr() != batch.images.data_ptr()
        assert_same(copied, batch)
    assert [int(item.row) for item in some[1:]] == [1, 4, 1]
    assert int(some[-2].row) == 4
    with pytest.raises(IndexError):
        some[4]
    subset = Subset(items, [14, 3, 0])
    assert [batch.row.tolist() for batch in DataLoader(subset, 2)] == [[14, 3], [0]]


def maps_of_batches() -> set[str]:
    """Files in memory that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:cryolike" in line}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_memory_of_workers_is_used_again_only_when_nothing_refers_to_it(build: SetBuilder) -> None:
    """Batches of workers take turns in a few places; what is kept of them stays as it was."""
    table = relion_table(build)
    loader: DataLoader[PolarImages] = DataLoader(
        ParticleDataset(table), 1, num_workers=1, multiprocessing_context="fork"
    )
    used: set[str] = set()
    for _ in range(2):
        for batch in loader:
            used |= maps_of_batches()
            del batch
    assert 0 < len(used) < 2 * 8  # each time other workers
    assert maps_of_batches() == set()
    kept = [batch.images[0].real.numpy() for batch in loader]
    assert len(maps_of_batches()) == 15
    expected = joined(iter_polar(table)).images.real.numpy()
    for image, row in zip(kept, expected, strict=True):
        np.testing.assert_allclose(image, row, atol=1e-6)


def images_and_rows(items: Any) -> dict[str, Tensor]:
    """Put together part of the items, in a way of one's own."""
    batch = default_collate(items)
    return {"images": batch.images[::2], "row": torch.stack([item.row for item in items])}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("n_workers", [0, 1])
def test_items_can_be_put_together_in_another_way(n_workers: int, build: SetBuilder) -> None:
    """A function of the caller's gets items, and what it makes of them arrives."""
    table = relion_table(build)
    loader: DataLoader[PolarImages] = DataLoader(
        ParticleDataset(table),
        4,
        num_workers=n_workers,
        multiprocessing_context="fork" if n_workers else None,
        collate_fn=images_and_rows,
    )
    batches: list[Any] = list(loader)
    whole = joined(iter_polar(table))
    assert torch.cat([batch["row"] for batch in batches]).tolist() == list(range(15))
    for first, batch in zip(range(0, 15, 4), batches, strict=True):
        torch.testing.assert_close(batch["images"], whole.images[first : first + 4 : 2])


def test_batches_of_a_dataset_stay_when_others_come(build: SetBuilder) -> None:
    """In the same process, too, memory is used again only when nothing refers to it."""
    table = relion_table(build)
    items = ParticleDataset(table)
    kept = [batch.images[0].real.numpy() for batch in DataLoader(items, 1)]
    expected = joined(iter_polar(table)).images.real.numpy()
    for image, row in zip(kept, expected, strict=True):
        np.testing.assert_allclose(image, row, atol=1e-6)
    del kept, image
    places = {batch.images.data_ptr() for batch in DataLoader(items, 1)}
    assert len(places) < 5


def test_threads_of_a_dataset_end_with_it(build: SetBuilder) -> None:
    """Threads are made once, leave the caller's as they are, and go with the dataset."""
    table, n_threads = relion_table(build), torch.get_num_threads()
    list(iter_polar(table))  # what is opened once only
    with nothing_stays_open(within_s=10):
        before = set(threading.enumerate())
        items = ParticleDataset(table)
        torch.set_num_threads(2)
        try:
            made = [set(threading.enumerate()) - before for _ in DataLoader(items, 4)]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(n_threads)
        assert 1 <= len(made[0]) <= len(made[-1]) <= 2
        assert made[0] <= made[-1]
        del items, made


def test_the_iterator_is_one(build: SetBuilder) -> None:
    """What `iter_polar` returns says what it reads."""
    batches = iter_polar(relion_table(build))
    assert isinstance(batches, PolarBatches)
    assert iter(batches) is batches
    assert len(batches.plan.table) == 15
