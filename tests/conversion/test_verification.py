"""Checking a converted set: good sets are good, and every kind of change is found."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cryolike.conversion import ConvertOptions, convert, plan_conversion, verify
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import CryoLikeError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable, select_rows
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import FileRecord, Manifest, checksum_of_file
from cryolike.store.reader import read_arrays
from cryolike.store.writer import write_arrays

if TYPE_CHECKING:
    from tests.conversion.conftest import Built, SetBuilder


def convert_table(table: ParticleTable, out: Path, **options: Any) -> None:
    """Convert with 12 pixels of 2 Å after downsampling by the factor given."""
    factor = options.get("downsample_factor", 1)
    params = ImageDescriptor.from_individual_values(12 // factor, 2.0 * factor)
    chosen = ConvertOptions(**{"plots": False, **options})
    convert(plan_conversion(table, params, chosen), out)


@pytest.fixture
def built(build: SetBuilder) -> Built:
    """Write 9 images in two stacks, rows shuffled."""
    return build.relion((6, 3), order=[8, 0, 3, 7, 1, 2, 6, 5, 4])


@pytest.fixture
def out(built: Built, tmp_path: Path) -> Path:
    """Convert it in stacks of 5."""
    convert_table(read_star(built.path), tmp_path / "out", batch_size=5)
    return tmp_path / "out"


@pytest.fixture(scope="module")
def plotted_once(new_builder: type[SetBuilder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert such a set with plots, which take their time."""
    folder = tmp_path_factory.mktemp("plotted")
    star = new_builder(folder).relion((6, 3)).path
    convert_table(read_star(star), folder / "out", batch_size=5, plots=True)
    return folder / "out"


@pytest.fixture
def plotted(plotted_once: Path, tmp_path: Path) -> Path:
    """Copy the set with plots."""
    return Path(shutil.copytree(plotted_once, tmp_path / "plotted"))


def test_good_set_is_good(plotted: Path) -> None:
    """All files and images are counted, and every image computed anew."""
    report = verify(plotted)
    assert report.is_good
    assert report.faults == ()
    assert (report.n_files, report.n_images, report.n_recomputed) == (2 * 5 + 1, 9, 9)
    assert "complete and unchanged" in report.describe()


@pytest.mark.parametrize(("n_sample", "n_recomputed"), [(0, 0), (4, 4), (100, 9)])
def test_sample_is_as_large_as_asked(out: Path, n_sample: int, n_recomputed: int) -> None:
    """Never more than there are images."""
    assert verify(out, n_sample=n_sample).n_recomputed == n_recomputed


def test_sources_can_be_left_alone(out: Path, built: Built) -> None:
    """Without them a set can be checked where its sources are gone."""
    shutil.rmtree(built.path.parent)
    report = verify(out, sources=False)
    assert report.is_good
    assert report.n_recomputed == 0


@pytest.mark.parametrize("kind", ["star", "paired", "cryosparc", "downsampled", "skipping"])
def test_every_kind_of_set_verifies(build: SetBuilder, tmp_path: Path, kind: str) -> None:
    """However it was read and converted, what is computed anew is equal."""
    out = tmp_path / "out"
    images = build.noise(7)
    stack = build.stack("a.mrc", images)
    cs = build.cryosparc(["a.mrc"] * 7, [3, 2, 6, 1, 0, 5, 4], blob__sign=np.full(7, -1.0))
    if kind == "paired":
        convert_table(read_pairs([build.star(7)] * 2, [stack] * 2), out, batch_size=4)
    elif kind == "cryosparc":
        convert_table(read_cryosparc(cs), out, batch_size=4)
    elif kind == "downsampled":
        convert_table(
            read_cryosparc(cs),
            out,
            contrast="invert",
            downsample_factor=2,
            downsample_type="fourier",
        )
    elif kind == "skipping":
        images[2] = 0
        build.stack("a.mrc", images)
        star = build.star([f"{i}@a.mrc" for i in (1, 2, 9, 3, 4)])
        convert_table(read_star(star), out, batch_size=2, on_bad_row="skip", on_bad_image="skip")
    else:
        star = build.star([f"{i}@a.mrc" for i in (5, 2, 7)])
        convert_table(select_rows(read_star(star), rows=slice(1, 3)), out)
    report = verify(out)
    assert report.faults == ()
    assert report.n_recomputed == report.n_images > 0


@pytest.mark.parametrize(
    "name",
    [
        "fft/particles_fourier_stack_000001.pt",
        "fft/particles_fourier_stack_000000.npz",
        "plots/particles_phys_stack_000000.png",
        "plots/particles_fourier_stack_000001.png",
        "plots/power_spectrum_stack_000000.png",
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_one_changed_byte_is_found(plotted: Path, name: str, place: float) -> None:
    """In each kind of file, wherever it is; the file is named."""
    out = plotted
    data = bytearray((out / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x01
    (out / name).write_bytes(data)
    report = verify(out, sources=False)
    assert len(report.faults) == 1
    assert name in report.faults[0]
    assert "1 fault" in report.describe()


@pytest.mark.parametrize("kind", [".pt", ".npz", "phys*.png", "fourier*.png", "power*.png"])
def test_changed_bytes_anywhere_are_found(plotted: Path, kind: str) -> None:
    """The first and last byte of every file, and forty others, to any other value."""
    rng = np.random.default_rng(0)
    files = sorted(plotted.rglob(f"*{kind}"))
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        places = [0, len(whole) - 1, *rng.integers(len(whole), size=40).tolist()]
        for place in places:
            data = bytearray(whole)
            data[place] ^= int(rng.integers(1, 256))
            file.write_bytes(data)
            (fault,) = verify(plotted, sources=False).faults
            assert file.name in fault
        file.write_bytes(whole)
    assert verify(plotted, sources=False).is_good


def test_any_changed_byte_of_the_manifest_is_found(out: Path) -> None:
    """Every single byte of it counts."""
    file = out / "manifest.json"
    whole = file.read_bytes()
    for i in range(len(whole)):
        data = bytearray(whole)
        data[i] ^= 0x01
        file.write_bytes(data)
        report = verify(out, sources=False)
        assert not report.is_good, f"byte {i}: {bytes(data[i : i + 1])!r}"


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "3", '{"format_version": 1}'])
def test_manifest_that_is_none_is_a_fault(out: Path, content: str) -> None:
    """No other JSON is taken for one."""
    (out / "manifest.json").write_text(content)
    (fault,) = verify(out).faults
    assert "manifest.json" in fault


def test_changed_list_of_rejects_is_found(build: SetBuilder, tmp_path: Path) -> None:
    """It is a file like others."""
    images = build.noise(3)
    images[1] = 0
    out = tmp_path / "out"
    convert_table(read_star(build.relion((3,), images=images).path), out, on_bad_image="skip")
    assert verify(out).is_good
    file = out / "rejects.csv"
    file.write_text(file.read_text().replace("blank", "blanc"))
    (fault,) = verify(out).faults
    assert "rejects.csv" in fault


@pytest.mark.parametrize("change", [" ", "\n", "\t\n"])
def test_white_space_in_the_manifest_is_found(out: Path, change: str) -> None:
    """It means the same, but it is not what was written."""
    file = out / "manifest.json"
    whole = file.read_text()
    for changed in (whole + change, change + whole, whole.replace(", ", ", " + change, 1)):
        file.write_text(changed)
        (fault,) = verify(out, sources=False).faults
        assert "manifest.json" in fault


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_missing_file_is_found(out: Path, suffix: str) -> None:
    """It is named."""
    name = f"fft/particles_fourier_stack_000001{suffix}"
    (out / name).unlink()
    assert verify(out).faults == (f"{name} is missing",)


def test_shorter_file_is_found_by_its_size(out: Path) -> None:
    """The message has both sizes."""
    file = out / "fft/particles_fourier_stack_000001.pt"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])
    (fault,) = verify(out).faults
    assert f"{size:,}" in fault
    assert f"{size - 10:,}" in fault


def test_extra_stack_is_found(out: Path) -> None:
    """A stack of another run among these would be read by scripts that list files."""
    shutil.copy(
        out / "fft/particles_fourier_stack_000001.pt", out / "fft/particles_fourier_stack_000002.pt"
    )
    (fault,) = verify(out).faults
    assert "fft/particles_fourier_stack_000002.pt" in fault


def test_extra_and_missing_plots_are_found(plotted: Path) -> None:
    """Also a plot of a set that has none of that number."""
    first, second = sorted((plotted / "plots").glob("power*.png"))
    first.rename(first.with_stem("power_spectrum_stack_000007"))
    second.unlink()
    faults = verify(plotted, sources=False).faults
    assert sorted(faults) == [
        "plots/power_spectrum_stack_000000.png is missing",
        "plots/power_spectrum_stack_000001.png is missing",
        "plots/power_spectrum_stack_000007.png is not of this set",
    ]


def test_folder_in_the_place_of_a_file_is_found(out: Path) -> None:
    """It is named, and nothing is raised."""
    file = out / "fft/particles_fourier_stack_000001.pt"
    file.unlink()
    file.mkdir()
    (fault,) = verify(out, sources=False).faults
    assert file.name in fault


def test_unfinished_run_is_no_good_set(out: Path) -> None:
    """Another run has begun in the folder."""
    (out / ".cryolike-wip").mkdir()
    assert any("wip" in fault for fault in verify(out).faults)


def test_folder_without_a_set_is_a_fault(tmp_path: Path) -> None:
    """Verification reports it and raises nothing."""
    (fault,) = verify(tmp_path).faults
    assert "no finished conversion" in fault


@pytest.mark.parametrize("which", ["star", "stack"])
@pytest.mark.parametrize("how", ["size", "time", "gone"])
def test_changed_source_is_found(out: Path, built: Built, which: str, how: str) -> None:
    """The file is named."""
    file = built.path if which == "star" else built.stacks[0]
    if how == "time":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif how == "size":
        file.write_bytes(file.read_bytes() + b"\n")
    else:
        file.unlink()
    (fault,) = verify(out).faults
    assert str(file) in fault


def keep_time(file: Path, data: bytes) -> None:
    """Write a file so that neither size nor time tells."""
    state = file.stat()
    assert len(data) == state.st_size
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_pixels_changed_in_secret_are_found(out: Path, built: Built) -> None:
    """An image computed anew differs; the message names image, stack and source row."""
    file = built.stacks[0]
    data = bytearray(file.read_bytes())
    data[1024 + 4 * 144 : 1024 + 5 * 144] = data[1024 : 1024 + 144]
    keep_time(file, bytes(data))
    (fault,) = verify(out).faults
    # Image 1 of the first stack is that of row 4, the last in output stack 0
    assert "image 4 of stack 0" in fault
    assert "row 4" in fault
    assert str(built.path) in fault


def test_ctf_changed_in_secret_is_found(out: Path, built: Built) -> None:
    """CTF values of all images are compared with the metadata."""
    keep_time(built.path, built.path.read_bytes().replace(b"10020.0", b"10021.0"))
    assert verify(out, n_sample=0).faults == ("defocus_u_A differs from the metadata in 1 images",)


def test_everything_wrong_is_listed(build: SetBuilder, tmp_path: Path) -> None:
    """Faults of files, of the folder, of sources and of images together, each once."""
    built, out = build.relion((4, 4, 4)), tmp_path / "out"
    convert_table(read_star(built.path), out, batch_size=4, plots=True)
    for name, change in {
        "plots/power_spectrum_stack_000000.png": Path.unlink,
        "fft/particles_fourier_stack_000000.pt": lambda file: file.write_bytes(b"x"),
        "fft/particles_fourier_stack_000003.npz": Path.touch,
    }.items():
        change(out / name)
    # The second output stack is that of the second source, the third that of the third
    os.utime(built.stacks[1], ns=(0, 0))
    data = bytearray(built.stacks[2].read_bytes())
    data[1024 : 1024 + 4 * 144] = data[1024 + 4 * 144 : 1024 + 8 * 144]
    keep_time(built.stacks[2], bytes(data))
    keep_time(built.path, built.path.read_bytes().replace(b"10110.0", b"10111.0"))
    report = verify(out)
    assert report.n_recomputed == 4
    for words in (
        "power_spectrum_stack_000000.png is missing",
        "stack_000000.pt has 1 bytes",
        "stack_000003.npz is not of this set",
        f"{built.stacks[1]} was modified",
        "defocus_u_A differs from the metadata in 1 images",
        "image 0 of stack 2",
    ):
        assert sum(words in fault for fault in report.faults) == 1, words
    assert len(report.faults) == 6
    assert report.describe().count("\n") == 6


def test_compressed_stack_damaged_in_secret_is_found(build: SetBuilder, tmp_path: Path) -> None:
    """Its header is still right, but its images cannot be read: one fault, nothing raised."""
    stack = build.stack("a.mrcs.gz", build.noise(6))
    convert_table(read_star(build.star([f"{i}@a.mrcs.gz" for i in range(1, 7)])), tmp_path / "out")
    data = bytearray(stack.read_bytes())
    data[-6] ^= 1
    keep_time(stack, bytes(data))
    (fault,) = verify(tmp_path / "out").faults
    assert str(stack) in fault
    assert "damaged" in fault


def test_row_removed_in_secret_is_found(out: Path, built: Built) -> None:
    """The metadata is shorter now, though size and time are the same."""
    lines = built.path.read_bytes().splitlines(keepends=True)
    lines[-1] = b"\n" * len(lines[-1])
    keep_time(built.path, b"".join(lines))
    (fault,) = verify(out).faults
    assert "8 rows" in fault


def record_anew(out: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as an attacker or a bug would."""
    manifest = Manifest.load(out / "manifest.json")
    path = out / name
    new = FileRecord(name=name, n_bytes=path.stat().st_size, xxh3_128=checksum_of_file(path))
    stacks = tuple(
        replace(s, files=tuple(new if f.name == name else f for f in s.files))
        for s in manifest.stacks
    )
    (out / "manifest.json").write_text(replace(manifest, stacks=stacks).to_json())


def test_wrong_order_of_images_is_found(out: Path) -> None:
    """Two images exchanged, checksums adjusted: both are found."""
    name = OutputLayout.tensor_name(0)
    images = torch.load(out / name, weights_only=True).clone()
    torch.save(images[[1, 0, 2, 3, 4]].clone(), out / name)
    record_anew(out, name)
    faults = verify(out).faults
    assert len(faults) == 2
    assert "image 0 of stack 0" in faults[0]
    assert "image 1 of stack 0" in faults[1]


def test_wrong_rows_in_metadata_are_found(out: Path) -> None:
    """Rows in the .npz other than the manifest's are a fault of their own."""
    name = OutputLayout.metadata_name(0)
    arrays = read_arrays(out / name)
    arrays["source_row"] = arrays["source_row"][::-1]
    with (out / name).open("wb") as file:
        write_arrays(file, arrays)
    record_anew(out, name)
    assert verify(out).faults == ("the stacks hold other rows than the manifest lists",)


@pytest.mark.parametrize("folder", ["", "project/Particles"])
def test_sets_verify_from_any_working_directory(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Paths relative to the directory of the conversion do not matter later."""
    monkeypatch.chdir(tmp_path)
    convert_table(read_star(built.path.relative_to(tmp_path)), Path("out"), folder=folder)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "Particles").mkdir(parents=True)
    # A decoy that a search from this directory would find first
    for stack in built.stacks:
        (elsewhere / "Particles" / stack.name).write_bytes(b"not a stack")
    monkeypatch.chdir(elsewhere)
    report = verify(tmp_path / "out")
    assert report.faults == ()
    assert report.n_recomputed == 9


def test_unreadable_metadata_is_a_fault(out: Path, built: Built) -> None:
    """A STAR file overwritten by something else in secret does not raise."""
    keep_time(built.path, b"x" * built.path.stat().st_size)
    (fault,) = verify(out).faults
    assert "metadata cannot be read" in fault


def test_unreadable_stack_is_a_fault(out: Path, built: Built) -> None:
    """A stack overwritten in secret does not raise."""
    keep_time(built.stacks[0], b"x" * built.stacks[0].stat().st_size)
    report = verify(out)
    assert report.n_recomputed == 0
    assert any(str(built.stacks[0]) in fault for fault in report.faults)


def test_progress_counts_files(out: Path) -> None:
    """From the first file to the last."""
    seen: list[tuple[int, int]] = []
    verify(out, sources=False, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 4) for i in range(1, 5)]


def test_faults_are_one_class_of_error_elsewhere(tmp_path: Path) -> None:
    """What verification reports as a fault, loading raises."""
    with pytest.raises(CryoLikeError, match="no finished conversion"):
        Manifest.load(tmp_path / "manifest.json")
