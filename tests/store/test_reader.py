"""Opening a converted set: a sequence of images with the way back to each source row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.errors import IncompleteOutputError
from cryolike.io.star import read_star
from cryolike.simulate import write_relion_set
from cryolike.store import StackSet, open_stacks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate 11 images in two stacks with shuffled rows and convert them in stacks of 4."""
    folder = tmp_path_factory.mktemp("reader")
    star = write_relion_set(folder, n_images=11, n_pixels=8, n_stacks=2)
    plan = plan_conversion(read_star(star), None, ConvertOptions(batch_size=4, plots=False))
    convert(plan, folder / "out")
    return folder


@pytest.fixture(scope="module")
def stacks(folder: Path) -> StackSet:
    """Open it."""
    return open_stacks(folder / "out")


def test_set_is_a_sequence_of_its_images(stacks: StackSet) -> None:
    """Across stacks, from the front and from the back."""
    whole = torch.cat([images.clone() for images in stacks])
    assert len(stacks) == len(whole) == 11
    assert stacks.n_stacks == 3
    for i in range(-11, 11):
        assert torch.equal(stacks[i].polar_image, whole[i])


@pytest.mark.parametrize("i", [11, -12, 1000])
def test_image_outside_the_set_is_an_index_error(stacks: StackSet, i: int) -> None:
    """As of a list."""
    with pytest.raises(IndexError):
        stacks[i]


def test_iteration_ends(stacks: StackSet) -> None:
    """Stacks come in order, each once."""
    assert [len(images) for images in stacks] == [4, 4, 3]


def test_each_image_leads_to_its_row_and_stack(stacks: StackSet, folder: Path) -> None:
    """Source row, stack and image number are those that the STAR file gives."""
    rows = starfile.read(folder / "particles.star")["particles"]
    for i in range(len(stacks)):
        image = stacks[i]
        number, _, name = rows["rlnImageName"][image.source_row].partition("@")
        assert image.source_row == i
        assert image.metadata_file == str(folder / "particles.star")
        assert image.image_file == str(folder / name)
        assert image.image_index == int(number) - 1


def test_table_has_a_row_for_each_image(stacks: StackSet, folder: Path) -> None:
    """Values are those of the STAR file in our units, with the place in the output."""
    table = stacks.table
    rows = starfile.read(folder / "particles.star")["particles"]
    assert table["stack"].tolist() == [0] * 4 + [1] * 4 + [2] * 3
    assert table["index_in_stack"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert table["source_row"].tolist() == list(range(11))
    np.testing.assert_allclose(table["defocus_u_A"], rows["rlnDefocusU"])
    np.testing.assert_allclose(table["defocus_angle_rad"], np.deg2rad(rows["rlnDefocusAngle"]))
    np.testing.assert_allclose(table["psi_rad"], np.deg2rad(rows["rlnAnglePsi"]))
    voltage = np.where(rows["rlnOpticsGroup"] == 1, 300, 200)
    assert table["voltage_kV"].tolist() == voltage.tolist()
    assert "uid" not in table


def test_images_are_mapped_not_loaded(stacks: StackSet) -> None:
    """Opening a stack takes memory for no image."""
    n_bytes = stacks.images(0).numel() * 8
    tracemalloc.start()
    images = stacks.images(0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.untyped_storage().nbytes() == n_bytes
    assert peak < 1_000_000


def test_descriptor_is_that_of_the_conversion(stacks: StackSet) -> None:
    """Grids and precision come back from the manifest."""
    grid = stacks.descriptor.cartesian_grid
    assert (grid.side_px, grid.pixel_size_A) == (8, 2.0)
    polar = stacks.descriptor.polar_grid
    assert tuple(stacks.images(0).shape[1:]) == (polar.n_shells, polar.n_inplanes)
    assert stacks.descriptor.precision == "single"


def test_set_describes_itself(stacks: StackSet) -> None:
    """In a notebook one sees what it is."""
    assert "11 images" in repr(stacks)


def test_folder_without_a_finished_set_is_refused(tmp_path: Path) -> None:
    """The message says how to finish an interrupted run."""
    with pytest.raises(IncompleteOutputError, match=r"no finished conversion.*--resume"):
        open_stacks(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_damaged_files_are_errors_of_ours(
    folder: Path, tmp_path: Path, suffix: str, damage: str
) -> None:
    """They name the file and the command that tells more."""
    for file in (folder / "out").rglob("*.*"):
        copy = tmp_path / file.relative_to(folder / "out")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    file = tmp_path / f"fft/particles_fourier_stack_000001{suffix}"
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:100])
    stacks = open_stacks(tmp_path)
    assert stacks[0].source_row == 0
    with pytest.raises(IncompleteOutputError, match="cryolike verify") as caught:
        stacks[5]
    assert file.name in str(caught.value)


def test_objects_in_a_file_are_never_unpickled(folder: Path, tmp_path: Path) -> None:
    """Neither in metadata nor in images."""
    for file in (folder / "out").rglob("*.*"):
        copy = tmp_path / file.relative_to(folder / "out")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), tmp_path / "fft/particles_fourier_stack_000000.pt")
    torch.save({"a": 1}, tmp_path / "fft/particles_fourier_stack_000002.pt")
    with (tmp_path / "fft/particles_fourier_stack_000001.npz").open("wb") as stream:
        np.savez(stream, files=np.array([Trap()], dtype=object))
    stacks = open_stacks(tmp_path)
    for i in (0, 2):
        with pytest.raises(IncompleteOutputError, match="tensor") as caught:
            stacks.images(i)
        assert "weights_only" not in str(caught.value)
    with pytest.raises(IncompleteOutputError):
        stacks.metadata(1)
    assert not (tmp_path / "sprung").exists()
