"""Templates: what they are, what is checked first, and the files they are in."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from tests.structures import Row, pdb_text

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeWarning,
    ImageError,
    IncompleteOutputError,
    InputError,
    MissingFileError,
    OutputExistsError,
    UsageError,
)
from cryolike.io.structure import AtomSettings, read_structure
from cryolike.physics.polar import PolarTransform
from cryolike.physics.scattering import AtomicModel, DensityMap, bead_form_factors
from cryolike.physics.slices import CentralSlices
from cryolike.physics.views import ViewingDirections
from cryolike.simulate import BlobModel, asymmetric_particle, density_map, project
from cryolike.store.template_files import TemplateFolder
from cryolike.templates import (
    TemplateSet,
    check_structures,
    iter_templates,
    make_templates,
    open_templates,
    structure_names,
    write_templates,
)
from cryolike.wrappers import make_templates_from_inputs

N_PIXELS, PIXEL_A = 24, 3.0
FEW_VIEWS = 0.7


def some_descriptor(**changed: Any) -> ImageDescriptor:
    """Small images, few views."""
    values: dict[str, Any] = {
        "n_pixels": N_PIXELS,
        "pixel_size": PIXEL_A,
        "viewing_distance": FEW_VIEWS,
    }
    return ImageDescriptor.from_individual_values(**(values | changed))


def smooth_particle() -> BlobModel:
    """Make a particle that pixels resolve and the box holds: what is beyond is some 1e-6."""
    model = asymmetric_particle(0.15 * N_PIXELS * PIXEL_A)
    return replace(model, sigmas_A=np.full(len(model.weights), 1.6 * PIXEL_A))


def atoms_of(model: BlobModel) -> AtomicModel:
    """Make an atomic model of the same."""
    return AtomicModel(
        "atoms",
        model.centres_A,
        np.arange(len(model.weights)),
        model.weights,
        bead_form_factors(model.sigmas_A, "gaussian"),
    )


def some_map(shape: tuple[int, ...] = (N_PIXELS,) * 3) -> np.ndarray:
    """Make a density of noise."""
    values: np.ndarray = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return values


def write_map(path: Path, values: np.ndarray, voxel_size_A: float = PIXEL_A) -> Path:
    """Write an MRC map."""
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.float32))
        file.voxel_size = voxel_size_A
    return path


def norms(templates: TemplateSet) -> torch.Tensor:
    """⟨T,T⟩ of each."""
    weights = torch.from_numpy(templates.descriptor.polar_grid.point_weight_shells)[:, None]
    return (templates.images.abs().square() * weights).sum(dim=(1, 2))


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative error in the L2 norm."""
    return float((ours - theirs).norm() / theirs.norm())


def of_projections(model: BlobModel, views: ViewingDirections, descriptor: ImageDescriptor) -> Any:
    """Polar transforms of exact projections, their mean removed, of unit norm."""
    grid = descriptor.cartesian_grid
    no_shift = np.zeros((len(views), 2))
    images = project(model, views.euler_rad, no_shift, grid.side_px, grid.pixel_size_A)
    images -= images.mean(axis=(1, 2), keepdims=True)
    transform = PolarTransform.of_descriptor(descriptor)
    return transform.with_unit_power(torch.from_numpy(images).to(transform.real_dtype))[0]


@pytest.mark.parametrize("n_pixels", [24, 25])
@pytest.mark.parametrize("kind", ["map", "atoms"])
def test_templates_are_projections(kind: str, n_pixels: int) -> None:
    """They equal exact projections, of which the mean in the box is removed, of unit norm."""
    model, descriptor = smooth_particle(), some_descriptor(n_pixels=n_pixels)
    structure = atoms_of(model) if kind == "atoms" else density_map(model, n_pixels, PIXEL_A)
    templates = make_templates(structure, descriptor)
    assert len(templates) == len(ViewingDirections.of_spacing(FEW_VIEWS))
    assert templates.images.dtype == torch.complex64
    assert templates.name == ("atoms" if kind == "atoms" else "tensor_0")
    expected = of_projections(model, templates.views, descriptor)
    assert error(templates.images, expected) < 2e-5
    assert (norms(templates) - 1).abs().max() < 1e-6


def test_atoms_and_their_map_give_the_same() -> None:
    """A model and the map sampled from it, centred the same way."""
    model = smooth_particle()
    from_map = make_templates(density_map(model, N_PIXELS, PIXEL_A), some_descriptor())
    from_atoms = make_templates(atoms_of(model), some_descriptor())
    assert error(from_atoms.images, from_map.images) < 2e-5


def test_mean_that_is_kept_turns_with_the_particle() -> None:
    """A template turned by 45° is the projection at psi = −45° only where the mean was kept."""
    model, descriptor = atoms_of(smooth_particle()), some_descriptor()
    views = ViewingDirections(np.array([0.3]), np.array([1.0]), np.ones(1))
    eighth = descriptor.polar_grid.n_inplanes // 8
    slices = CentralSlices(model, descriptor)(np.array([[0.3, 1.0, -np.pi / 4]]))
    weights = descriptor.polar_grid.point_weight_shells[:, None]
    turned = torch.from_numpy(slices / np.sqrt((weights * np.abs(slices) ** 2).sum()))
    kept = make_templates(model, descriptor, views=views, remove_mean=False)
    assert (norms(kept) - 1).abs().max() < 1e-6
    assert error(kept.images.roll(eighth, -1), turned) < 5e-6
    removed = make_templates(model, descriptor, views=views)
    assert error(removed.images, kept.images) > 0.1
    assert error(removed.images.roll(eighth, -1), turned) > 0.1


def test_double_precision() -> None:
    """Complex128, of unit norm to 1e-12, and equal to single precision within its error."""
    model = density_map(smooth_particle(), N_PIXELS, PIXEL_A)
    double = make_templates(model, some_descriptor(precision="double"))
    single = make_templates(model, some_descriptor())
    assert double.images.dtype == torch.complex128
    assert (norms(double) - 1).abs().max() < 1e-12
    assert error(single.images, double.images) < 5e-6


@pytest.mark.parametrize(("n_voxels", "voxel_size_A"), [(72, 1.5), (48, 2.0), (18, 4.0)])
def test_maps_of_other_grids_are_resampled(n_voxels: int, voxel_size_A: float) -> None:
    """Finer, coarser, larger and smaller maps of one particle agree, and it is said."""
    model = smooth_particle()
    model = replace(model, sigmas_A=np.full(len(model.weights), 6.5))
    density = DensityMap(
        "other",
        density_map(model, n_voxels, voxel_size_A).astype(np.float32),
        voxel_size_A,
    )
    descriptor = some_descriptor(resolution_factor=0.7)
    with pytest.warns(CryoLikeWarning, match=rf"other: the map of {n_voxels}.* is resampled"):
        templates = make_templates(density, descriptor)
    expected = of_projections(model, templates.views, descriptor)
    assert error(templates.images, expected) < 1e-4


def test_a_map_too_coarse_for_the_grid_is_said() -> None:
    """Shells that the map has nothing of hold only what removing the mean puts there."""
    density = DensityMap("coarse", some_map((12, 12, 12)), 2 * PIXEL_A)
    with (
        pytest.warns(CryoLikeWarning, match="is resampled"),
        pytest.warns(CryoLikeWarning, match="no data beyond 12 Å"),
    ):
        templates = make_templates(density, some_descriptor())
    frequency = 2 * some_descriptor().polar_grid.radius_shells / (N_PIXELS * PIXEL_A)
    size = templates.images.abs().amax(dim=(0, 2)).numpy()
    assert size[frequency > 1 / 12].max() < 0.02 * size[frequency < 1 / 12].max()


def test_views_of_the_caller() -> None:
    """Given directions are used, in their order."""
    views = ViewingDirections(np.array([0.1, 2.0]), np.array([1.0, 0.4]), np.full(2, 0.5))
    model = smooth_particle()
    templates = make_templates(atoms_of(model), some_descriptor(), views=views)
    assert templates.views is views
    assert error(templates.images, of_projections(model, views, some_descriptor())) < 2e-5


def test_batches_are_the_same_and_progress_counts() -> None:
    """Little memory makes more batches of the same templates; the callback hears of each."""
    calls: list[tuple[int, int]] = []
    whole = make_templates(some_map(), some_descriptor(), progress=lambda *n: calls.append(n))
    assert calls == [(len(whole), len(whole))]
    parts = list(iter_templates(some_map(), some_descriptor(), memory_bytes=1.5e6))
    assert len(parts) > 1
    assert error(torch.cat(parts), whole.images) < 2e-6


def test_model_that_does_not_fit_is_refused() -> None:
    """Before any work."""
    model = smooth_particle()
    large = atoms_of(replace(model, centres_A=3 * model.centres_A))
    with pytest.raises(UsageError, match="does not fit in the box"):
        make_templates(large, some_descriptor())


def test_too_little_memory_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """Of the second structure, too; the message names it."""
    small = np.zeros((4, 4, 4), np.float32)
    small[1:3, 1:3, 1:3] = 1
    large = np.random.default_rng(0).normal(size=(24, 24, 24))
    out = tmp_path / "out"
    with (
        pytest.warns(CryoLikeWarning, match="is resampled"),
        pytest.raises(UsageError, match=r"tensor_1: slices of 24×24×24 voxels need") as caught,
    ):
        write_templates([small, large], some_descriptor(), out, memory_bytes=4e5)
    assert "--memory" in str(caught.value)
    assert not out.exists()


def test_electrons_of_maps_mean_nothing() -> None:
    """Where no structure is a model, asking for electron scattering is a warning."""
    settings = AtomSettings(atom_model="electron")
    values = np.random.default_rng(0).normal(size=(24, 24, 24))
    with pytest.warns(CryoLikeWarning, match="all structures are maps"):
        check_structures([values], some_descriptor(), settings)


def test_structure_without_density_in_the_box_is_refused() -> None:
    """A map whose density is all outside is an error, not a division by zero."""
    values = np.zeros((64, 64, 64), dtype=np.float32)
    values[:2] = 1
    message = r"empty: there is no density in the box: of the map of 192 .* 72 Å are all 0"
    with pytest.raises(ImageError, match=message):
        make_templates(DensityMap("empty", values, PIXEL_A), some_descriptor())


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.ones((4, 4, 4), dtype=np.complex64)])
def test_arrays_that_are_no_density_are_refused(values: np.ndarray) -> None:
    """Two axes, or complex numbers."""
    with pytest.raises(UsageError, match="is no density"):
        make_templates(values, some_descriptor())


def test_template_set_checks_itself() -> None:
    """Images of another grid, number or type raise one error that says both."""
    descriptor, views = some_descriptor(), ViewingDirections.of_spacing(FEW_VIEWS)
    with pytest.raises(UsageError, match=r"shape \(3, 5, 7\).*") as caught:
        TemplateSet("x", torch.zeros(3, 5, 7), views, descriptor)
    assert "torch.float32" in str(caught.value)


def test_names() -> None:
    """After the files, without ending; a name that is taken gets a number."""
    one, other = some_map(), some_map()
    paths: list[Any] = ["a/x.mrc", "b/x.pdb", "x_1.map", "b/y.cif.gz", one, "c/x.mrc", other]
    names = ["x", "x_1", "x_1_1", "y", "tensor_4", "x_2", "tensor_6"]
    assert structure_names(paths) == names


def written(folder: Path, **options: Any) -> tuple[Path, ...]:
    """Write templates of two densities in memory."""
    return write_templates(
        [some_map(), some_map()[::-1].copy()], some_descriptor(), folder, **options
    )


def test_files(tmp_path: Path) -> None:
    """Templates as torch reads them, the list as plain strings, plots, and nothing else."""
    folder = tmp_path / "new" / "templates"
    paths = written(folder)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == sorted(
        [
            "template_file_list.npy",
            *(f"templates_fourier_tensor_{i}.{end}" for i in (0, 1) for end in ("pt", "npz")),
            *(
                f"plots/{kind}_tensor_{i}.png"
                for i in (0, 1)
                for kind in ("templates_fourier", "templates_phys", "power_spectrum")
            ),
        ]
    )
    listed = np.load(folder / "template_file_list.npy", allow_pickle=False)
    assert listed.tolist() == [str(path) for path in paths]
    expected = make_templates(some_map(), some_descriptor())
    images = torch.load(paths[0], weights_only=True)
    assert torch.equal(images, expected.images)
    for plot in (folder / "plots").iterdir():
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_files_are_opened_as_they_were_made(tmp_path: Path) -> None:
    """From the folder, the list or one file; also where the folder has been moved."""
    path = written(tmp_path / "one", plots=False)[1]
    expected = make_templates(some_map()[::-1].copy(), some_descriptor())
    (tmp_path / "one").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    for source in (moved, moved / "template_file_list.npy", moved / path.name):
        templates = open_templates(source, some_descriptor())[-1]
        assert templates.name == "tensor_1"
        assert torch.equal(templates.images, expected.images)
        np.testing.assert_array_equal(templates.views.rot_rad, expected.views.rot_rad)
        np.testing.assert_array_equal(templates.views.weights, expected.views.weights)
        assert templates.descriptor == some_descriptor()


def test_batches_are_written_like_the_whole(tmp_path: Path) -> None:
    """Little memory, in which not all templates fit, and progress over all structures."""
    calls: list[tuple[int, int]] = []
    written(tmp_path, memory_bytes=1.5e6, progress=lambda *n: calls.append(n), plots=False)
    n_views = len(ViewingDirections.of_spacing(FEW_VIEWS))
    assert len(calls) > 2
    assert calls[-1] == (2 * n_views, 2 * n_views)
    templates = open_templates(tmp_path)[0]
    assert error(templates.images, make_templates(some_map(), some_descriptor()).images) < 2e-6


def test_templates_of_another_program(tmp_path: Path) -> None:
    """Without our description the caller's descriptor counts, and the shape must fit it."""
    path = written(tmp_path, plots=False)[0]
    for described in tmp_path.glob("*.npz"):
        described.unlink()
    assert open_templates(path, some_descriptor())[0].views.weights.sum() == pytest.approx(1)
    with pytest.raises(UsageError, match="does not say which grid"):
        open_templates(path)
    with pytest.raises(UsageError, match="ask for"):
        open_templates(path, some_descriptor(n_pixels=26))


def test_other_grids_are_refused_with_what_differs(tmp_path: Path) -> None:
    """Pixel size counts too, although the shape is the same."""
    written(tmp_path, plots=False)
    with pytest.raises(UsageError) as caught:
        open_templates(tmp_path, some_descriptor(pixel_size=3.1))
    assert "pixel size, Å: 3 of the templates, 3.1 of the images" in str(caught.value)
    with pytest.raises(UsageError, match="in-plane angles: 48 of the templates, 64 of the images"):
        open_templates(tmp_path, some_descriptor(n_inplanes=64))


def test_existing_templates_are_not_touched(tmp_path: Path) -> None:
    """A second run stops before it changes a byte; with overwrite it replaces all."""
    written(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(OutputExistsError, match="--overwrite"):
        written(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    write_templates([some_map()], some_descriptor(), tmp_path, overwrite=True, plots=False)
    assert [templates.name for templates in open_templates(tmp_path)] == ["tensor_0"]
    assert not list(tmp_path.rglob("*tensor_1*"))


def test_a_run_that_breaks_off_leaves_no_list(tmp_path: Path) -> None:
    """Half a file is none, and without the list the others do not count."""

    def stop(done: int, of: int) -> None:
        if done > of / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "new", memory_bytes=1.5e6, progress=stop, plots=False)
    left = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert left == ["templates_fourier_tensor_0.npz", "templates_fourier_tensor_0.pt"]
    with pytest.raises(MissingFileError, match="no templates there"):
        open_templates(tmp_path / "new")


def test_all_bad_inputs_are_named_before_anything_is_written(tmp_path: Path) -> None:
    """Missing, damaged and too large ones, in one error, whatever is before them."""
    good = write_map(tmp_path / "good.mrc", some_map())
    with_nan = some_map()
    with_nan[1, 2, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile's, about the NaN
        bad = write_map(tmp_path / "nan.mrc", with_nan)
    large = tmp_path / "large.pdb"
    rows = [Row("CA", "GLY", "A", i, (60.0 * i, 0.0, 0.0), "C") for i in range(3)]
    large.write_text(pdb_text(rows), encoding="utf-8")
    sources = [good, tmp_path / "missing.pdb", bad, large]
    with pytest.raises(InputError) as caught:
        write_templates(sources, some_descriptor(), tmp_path / "out")
    for words in ("missing.pdb", "nan.mrc", "does not fit in the box"):
        assert words in str(caught.value)
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "out").exists()


def test_no_structures_are_refused(tmp_path: Path) -> None:
    """An empty list of inputs is a slip."""
    with pytest.raises(UsageError, match="no structures given"):
        write_templates([], some_descriptor(), tmp_path / "out")


def test_warnings_come_once(tmp_path: Path) -> None:
    """Inputs are read twice, but each doubt is told once."""
    path = write_map(tmp_path / "small.mrc", some_map((20, 20, 20)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_templates([path], some_descriptor(), tmp_path / "out", plots=False)
    assert [str(warning.message) for warning in caught] == [
        "small: the map of 20×20×20 voxels of 3 Å is resampled to the images' box of 24 pixels of "
        "3 Å."
    ]


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    """A file that was cut, is none, or holds something else than templates."""
    path = written(tmp_path, plots=False)[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("no tensor", encoding="utf-8")
    else:
        torch.save({"a": 1}, path)
    with pytest.raises(IncompleteOutputError, match="cannot be opened"):
        open_templates(tmp_path)


def test_a_description_without_views_is_refused(tmp_path: Path) -> None:
    """The error names what the file lacks."""
    path = written(tmp_path, plots=False)[0].with_suffix(".npz")
    np.savez(path, **some_descriptor().to_arrays())  # type: ignore[arg-type]
    with pytest.raises(IncompleteOutputError, match="it lacks rot_rad, tilt_rad, view_weights"):
        open_templates(tmp_path)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    """The list says what there should be."""
    for path in written(tmp_path, plots=False):
        path.unlink()
    with pytest.raises(MissingFileError) as caught:
        open_templates(tmp_path)
    assert "tensor_0.pt" in str(caught.value)
    assert "tensor_1.pt" in str(caught.value)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


def test_lists_are_never_unpickled(tmp_path: Path) -> None:
    """A list of objects is refused, and none of them is made."""
    sprung = tmp_path / "sprung"
    with (tmp_path / "template_file_list.npy").open("wb") as file:
        np.save(file, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    with pytest.raises(IncompleteOutputError, match="cannot be opened"):
        open_templates(tmp_path)
    assert not sprung.exists()


def test_published_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments in the published order: inputs, descriptor file, plots, folder, verbose."""
    monkeypatch.chdir(tmp_path)
    some_descriptor().save("params.npz")
    write_map(tmp_path / "a.mrc", some_map())
    inputs: list[Any] = ["a.mrc", torch.from_numpy(some_map())]
    paths = make_templates_from_inputs(inputs, "params.npz", False)
    assert [str(path) for path in paths] == [
        "templates/templates_fourier_a.pt",
        "templates/templates_fourier_tensor_1.pt",
    ]
    first, second = open_templates("templates")
    assert torch.equal(first.images, second.images)
    assert not Path("templates/plots").exists()
    with pytest.raises(OutputExistsError):
        make_templates_from_inputs(inputs, "params.npz", False, "templates", False)
    make_templates_from_inputs(inputs[:1], "params.npz", True, "templates", overwrite=True)
    assert len(list(Path("templates/plots").iterdir())) == 3


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """While one writes, another stops."""
    with (
        TemplateFolder(tmp_path),
        pytest.raises(OSError, match="is being written to by"),
        TemplateFolder(tmp_path),
    ):
        pass


def test_atomic_model_of_the_sample_set(shared_data: Path) -> None:
    """Its map is the chain of its model, blurred with 2.5 Å: both give the same templates."""
    folder = shared_data / "relion-simulated"
    descriptor = some_descriptor(
        n_pixels=64,
        pixel_size=2.5,
        atom_radii=2.5,
        use_protein_residue_model=False,
        resolution_factor=0.8,
    )
    from_map = make_templates(read_structure(folder / "map.mrc"), descriptor)
    settings = AtomSettings.from_descriptor(descriptor)
    from_model = make_templates(read_structure(folder / "structure_ca.pdb", settings), descriptor)
    assert error(from_model.images, from_map.images) < 0.01
