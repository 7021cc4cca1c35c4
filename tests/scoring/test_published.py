"""The published likelihood functions: their files, checked against sums over every pose."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from tests.builders import SetBuilder
from tests.scoring import brute

from cryolike import ImageDescriptor, StackSet, open_stacks
from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.errors import (
    CryoLikeError,
    CryoLikeWarning,
    IncompleteOutputError,
    MissingFileError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from cryolike.io.read import read_particles
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.published import (
    DisplacementSettings,
    LikelihoodFiles,
    configure_displacement,
    configure_likelihood_files,
    run_likelihood_full_cross_correlation,
    run_likelihood_optimal_pose,
    stitch_log_likelihood_matrices,
)
from cryolike.scoring.run import score_particles
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import asymmetric_particle, density_map
from cryolike.templates import make_templates, write_templates

N_PIXELS, PIXEL_A, N_ANGLES = 12, 4.0, 10
COUNTS = (2, 1)
pytestmark = pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")


@dataclass(frozen=True, eq=False)
class Case:
    """Three images in two stacks, and templates of two structures."""

    folder: Path
    descriptor: ImageDescriptor
    templates: tuple[np.ndarray, ...]

    @property
    def views(self) -> ViewingDirections:
        """Of the templates."""
        return ViewingDirections.of_spacing(self.descriptor.viewing_distance)

    @property
    def stacks(self) -> StackSet:
        """The images."""
        return open_stacks(self.folder / "particles")

    def configured(self, output: Path, **options: Any) -> LikelihoodFiles:
        """Configure files for all stacks."""
        return configure_likelihood_files(
            self.folder / "templates", self.folder / "particles", output, 2, **options
        )

    def run(self, output: Path, **options: Any) -> Path:
        """Find the best poses in all stacks; return the folder of the structure."""
        chosen: dict[str, Any] = {"n_stacks": 2, "template_index": 0} | options
        displacer = chosen.pop("displacer", DISPLACER)
        run_likelihood_optimal_pose(self.configured(output), self.descriptor, displacer, **chosen)
        return output / f"template{chosen['template_index']}"

    @cached_property
    def expected(self) -> list[brute.AllPoses]:
        """Scores of every image under the second structure in every pose, in double precision."""
        polar, pixels = self.descriptor.polar_grid, self.descriptor.cartesian_grid
        images = torch.cat(list(self.stacks)).numpy().astype(np.complex128)
        parameters = CtfParameters.from_frame(self.stacks.table)
        box_A = pixels.box_size_A
        ctf = ctf_on_polar_grid(parameters, polar.radius_shells, polar.theta_shell, box_A).numpy()
        displacements = DISPLACER.displacements(PIXEL_A)
        return [
            brute.score_all_poses(
                image,
                its_ctf,
                self.templates[1],
                np.stack([displacements.x_A, displacements.y_A], axis=1),
                polar,
                n_pixels=N_PIXELS,
                box_A=box_A,
                n_compared=np.pi * (2 * polar.radius_max) ** 2,
            )
            for image, its_ctf in zip(images, ctf, strict=True)
        ]


DISPLACER = configure_displacement(1.5, 3, 2)
"""Zero is not on the grid: three by two displacements, and zero."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Write particles and templates as programs before would have."""
    folder = tmp_path_factory.mktemp("published")
    descriptor = ImageDescriptor.from_individual_values(
        N_PIXELS, PIXEL_A, viewing_distance=4.0, n_inplanes=N_ANGLES
    )
    (folder / "project").mkdir()
    built = SetBuilder(folder / "project", PIXEL_A).relion(COUNTS, n_pixels=N_PIXELS)
    table = read_particles(built.path)
    plan = plan_conversion(table, descriptor, ConvertOptions(batch_size=2, plots=False))
    convert(plan, folder / "particles")
    templates, paths = [], []
    (folder / "templates").mkdir()
    for i in range(2):
        density = density_map(asymmetric_particle(15.0, seed=i), N_PIXELS, PIXEL_A)
        images = make_templates(density, descriptor).images
        paths.append(folder / "templates" / f"templates_fourier_map{i}.pt")
        torch.save(images, paths[-1])
        templates.append(images.numpy().astype(np.complex128))
    np.save(folder / "templates" / "template_file_list.npy", np.array([str(p) for p in paths]))
    return Case(folder, descriptor, tuple(templates))


def load(folder: Path, name: str) -> np.ndarray:
    """Join the tensors of both stacks."""
    parts = [torch.load(folder / f"{name}_stack_{i:06d}.pt", weights_only=True) for i in range(2)]
    assert tuple(map(len, parts)) == COUNTS
    return torch.cat(parts).numpy()


def files_below(folder: Path) -> set[str]:
    """Names of all files, relative to a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


OPTIMAL = {
    f"template1/{name}_stack_{stack:06d}.pt"
    for name in (
        "cross_correlation/cross_correlation",
        "optimal_pose/optimal_template",
        "optimal_pose/optimal_displacement_x",
        "optimal_pose/optimal_displacement_y",
        "optimal_pose/optimal_inplane_rotation",
    )
    for stack in range(2)
}
LIKELIHOOD = {
    f"template1/log_likelihood/log_likelihood_{kind}_fourier_stack_{stack:06d}.pt"
    for kind in ("optimal", "integrated")
    for stack in range(2)
}


MADE_OF = {
    f"template1/cross_correlation/made_of_cross_correlation_stack_{stack:06d}.txt"
    for stack in range(2)
}
"""Ours besides: what results were made of."""


def test_files_are_the_published_ones(case: Case, tmp_path: Path) -> None:
    """Likelihoods are written only where the flags ask for them."""
    case.run(tmp_path / "a", template_index=1)
    assert files_below(tmp_path / "a") == {"displacements_set.pt", *OPTIMAL, *MADE_OF}
    case.run(
        tmp_path / "b",
        template_index=1,
        return_likelihood_optimal_pose_fourier=True,
        return_likelihood_integrated_pose_fourier=True,
    )
    wanted = {"displacements_set.pt", *OPTIMAL, *LIKELIHOOD, *MADE_OF}
    assert files_below(tmp_path / "b") == wanted


def test_values_are_those_of_sums_over_every_pose(case: Case, tmp_path: Path) -> None:
    """Pose, correlation and both likelihoods of every image; Å and radians."""
    folder = case.run(
        tmp_path,
        template_index=1,
        return_likelihood_optimal_pose_fourier=True,
        return_likelihood_integrated_pose_fourier=True,
    )
    expected = case.expected
    best = np.array([pose.best for pose in expected])
    displacements_A = torch.load(tmp_path / "displacements_set.pt", weights_only=True).numpy()
    assert displacements_A.shape == (2, 7)
    # x from −1.5 to 1.5 pixels of 4 Å in three steps, y in two; zero is the last
    np.testing.assert_allclose(np.unique(displacements_A[0, :6]), [-6, 0, 6], atol=1e-12)
    np.testing.assert_allclose(np.unique(displacements_A[1, :6]), [-6, 6])
    assert displacements_A[:, 6].tolist() == [0, 0]
    np.testing.assert_array_equal(load(folder, "optimal_pose/optimal_template"), best[:, 0])
    for axis, name in enumerate("xy"):
        found_A = load(folder, f"optimal_pose/optimal_displacement_{name}")
        np.testing.assert_allclose(found_A, displacements_A[axis, best[:, 1]])
    found_rad = load(folder, "optimal_pose/optimal_inplane_rotation")
    np.testing.assert_allclose(found_rad, 2 * np.pi * best[:, 2] / N_ANGLES)
    correlations = [pose.cross_correlation.max() for pose in expected]
    found = load(folder, "cross_correlation/cross_correlation")
    np.testing.assert_allclose(found, correlations, rtol=1e-5)
    at_best = [pose.log_likelihood[pose.best] for pose in expected]
    found = load(folder, "log_likelihood/log_likelihood_optimal_fourier")
    np.testing.assert_allclose(found, at_best, rtol=1e-5, atol=1e-3)
    prior = np.exp(DISPLACER.displacements(PIXEL_A).log_prior)
    over_all = [brute.integrated(p.log_likelihood, case.views.weights, prior) for p in expected]
    found = load(folder, "log_likelihood/log_likelihood_integrated_fourier")
    np.testing.assert_allclose(found, over_all, rtol=1e-5, atol=1e-3)
    assert len(np.unique(found)) == 3


@pytest.mark.parametrize("options", [{}, {"n_images_per_batch": 1}, {"estimate_batch_size": True}])
def test_full_array(case: Case, options: dict[str, Any], tmp_path: Path) -> None:
    """Axes are image, template, displacement and rotation; every value is that of its pose."""
    run_likelihood_full_cross_correlation(
        case.configured(tmp_path), case.descriptor, DISPLACER, 1, 2, **options
    )
    found = load(tmp_path / "template1", "cross_correlation/cross_correlation_pose_msdw")
    assert found.dtype == np.float32
    expected = np.stack([pose.cross_correlation for pose in case.expected])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_full_array_that_the_disk_cannot_hold(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before anything is written or removed."""
    arguments = case.configured(tmp_path), case.descriptor, DISPLACER, 1, 2
    run_likelihood_full_cross_correlation(*arguments)
    before = files_below(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="are free there"):
        run_likelihood_full_cross_correlation(*arguments)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        {"n_images_per_batch": 1},
        {"n_images_per_batch": 2, "n_templates_per_batch": 500},
        {"estimate_batch_size": True, "n_images_per_batch": 0},
    ],
)
def test_batches_change_nothing(case: Case, options: dict[str, Any], tmp_path: Path) -> None:
    """The same results whatever is compared at once."""
    flags = {"return_likelihood_integrated_pose_fourier": True}
    folders = [case.run(tmp_path / "a", **flags), case.run(tmp_path / "b", **flags, **options)]
    for name in (
        "cross_correlation/cross_correlation",
        "optimal_pose/optimal_template",
        "log_likelihood/log_likelihood_integrated_fourier",
    ):
        ours, theirs = (load(folder, name) for folder in folders)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_no_more_images_at_once_than_asked_for(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch sizes are upper bounds."""
    sizes = []
    score = PoseSearch.score

    def counting(self: Any, images: torch.Tensor, ctf: torch.Tensor) -> Any:
        sizes.append(len(images))
        return score(self, images, ctf)

    monkeypatch.setattr(PoseSearch, "score", counting)
    case.run(tmp_path, n_images_per_batch=1)
    case.run(tmp_path, n_images_per_batch=5)
    assert sizes == [1, 1, 1, 2, 1]


def damage(path: Path, how: str) -> None:
    """Make a result one that does not count."""
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "no tensor":
        torch.save({"a": 1}, path)
    else:
        torch.save(torch.zeros(7), path)


@pytest.mark.parametrize("how", ["missing", "cut short", "no tensor", "wrong shape"])
def test_skip_exist_keeps_only_what_is_complete(case: Case, how: str, tmp_path: Path) -> None:
    """A stack with a missing or damaged file is done again, the other one is left alone."""
    folder = case.run(tmp_path)
    expected = load(folder, "optimal_pose/optimal_displacement_y")
    kept = folder / "optimal_pose" / "optimal_template_stack_000000.pt"
    marked = torch.full((2,), 99)
    torch.save(marked, kept)
    damage(folder / "optimal_pose" / "optimal_displacement_y_stack_000001.pt", how)
    case.run(tmp_path, skip_exist=True)
    assert torch.equal(torch.load(kept, weights_only=True), marked)
    np.testing.assert_array_equal(load(folder, "optimal_pose/optimal_displacement_y"), expected)
    case.run(tmp_path)
    assert not torch.equal(torch.load(kept, weights_only=True), marked)


def change_templates(case: Case) -> None:
    """Write the templates of the second structure as those of the first."""
    first, second = (case.folder / f"templates/templates_fourier_map{i}.pt" for i in range(2))
    shutil.copy(second, first)


def change_images(case: Case) -> None:
    """Convert the same images with the other sign."""
    table = read_particles(case.folder / "project" / "particles.star")
    options = ConvertOptions(batch_size=2, plots=False, contrast="invert")
    plan = plan_conversion(table, case.descriptor, options)
    convert(plan, case.folder / "particles", overwrite=True)


def forget(case: Case) -> None:
    """Leave results as a program wrote them that does not say what they were made of."""
    for path in case.folder.rglob("made_of_*.txt"):
        path.unlink()


def run_all_poses(case: Case, output: Path, **options: Any) -> Path:
    """Write all cross-correlations of all stacks; return the folder of the structure."""
    files = case.configured(output)
    run_likelihood_full_cross_correlation(files, case.descriptor, DISPLACER, n_stacks=2, **options)
    return output / "template0"


@pytest.mark.parametrize("change", [change_templates, change_images, forget])
@pytest.mark.parametrize("run", [Case.run, run_all_poses])
def test_skip_exist_keeps_only_results_of_the_same_input(
    case: Case,
    run: Callable[..., Path],
    change: Callable[[Case], None],
    tmp_path: Path,
) -> None:
    """What was made of other templates or images, or nobody knows of what, is made again."""
    shutil.copytree(case.folder, tmp_path / "set")
    paths = [str(tmp_path / f"set/templates/templates_fourier_map{i}.pt") for i in range(2)]
    np.save(tmp_path / "set/templates/template_file_list.npy", np.array(paths))
    mine = replace(case, folder=tmp_path / "set")
    out = mine.folder / "out"
    run(mine, out)
    change(mine)
    with pytest.warns(CryoLikeWarning, match="2 stacks are there, but not known to be of these"):
        run(mine, out, skip_exist=True)
    run(mine, tmp_path / "fresh")
    assert files_below(out) == files_below(tmp_path / "fresh")
    for name in files_below(out):
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "2 stacks are there", CryoLikeWarning)
        run(mine, out, skip_exist=True)


@pytest.mark.parametrize("skip_exist", [True, False])
def test_results_of_other_displacements_stay_alone(
    case: Case, skip_exist: bool, tmp_path: Path
) -> None:
    """Old and new results in one folder would be of two grids, which no file would tell."""
    case.run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    others = configure_displacement(1.0, 3, 3)
    with pytest.raises(OutputExistsError, match="holds other displacements"):
        case.run(tmp_path, skip_exist=skip_exist, displacer=others)
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_a_run_that_is_cut_off_leaves_no_old_results(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a later run with skip_exist finds is of the last run, or absent."""
    folder = case.run(tmp_path)
    n_calls = iter(range(100))
    score = PoseSearch.score

    def failing(self: Any, images: torch.Tensor, ctf: torch.Tensor) -> Any:
        if next(n_calls) == 1:
            raise KeyboardInterrupt
        return score(self, images, ctf)

    monkeypatch.setattr(PoseSearch, "score", failing)
    with pytest.raises(KeyboardInterrupt):
        case.run(tmp_path)
    assert all("stack_000000" in name for name in files_below(folder))
    assert len(files_below(folder)) == 6


def test_matrices(case: Case, tmp_path: Path) -> None:
    """Structures are rows and images columns, in the order of the set."""
    flags = {
        "return_likelihood_optimal_pose_fourier": True,
        "return_likelihood_integrated_pose_fourier": True,
    }
    folders = [case.run(tmp_path, template_index=i, **flags) for i in range(2)]
    stitch_log_likelihood_matrices(output_directory=tmp_path, opt=True, integrated=True, cc=True)
    for matrix, name in (
        ("optimal_fourier_log_likelihood_matrix", "log_likelihood/log_likelihood_optimal_fourier"),
        (
            "integrated_fourier_log_likelihood_matrix",
            "log_likelihood/log_likelihood_integrated_fourier",
        ),
        ("cross_correlation_matrix", "cross_correlation/cross_correlation"),
    ):
        found = torch.load(tmp_path / "likelihood_matrix" / f"{matrix}.pt", weights_only=True)
        assert found.shape == (2, 3)
        np.testing.assert_array_equal(found, np.stack([load(f, name) for f in folders]))


def test_matrices_of_some_stacks_and_elsewhere(case: Case, tmp_path: Path) -> None:
    """Numbers of structures and stacks, and the folder with the results, can be given."""
    case.run(tmp_path / "out" / "batch")
    stitch_log_likelihood_matrices(1, 1, tmp_path / "out", "batch", cc=True)
    path = tmp_path / "out" / "likelihood_matrix" / "cross_correlation_matrix.pt"
    assert torch.load(path, weights_only=True).shape == (1, 2)
    with pytest.raises(IncompleteOutputError, match="template1/cross_correlation"):
        stitch_log_likelihood_matrices(
            output_directory=tmp_path / "out",
            batch_directory="batch",
            template_directory=case.folder / "templates",
            cc=True,
        )


def test_matrices_lack_nothing(case: Case, tmp_path: Path) -> None:
    """Every missing file is named, and no matrix is written."""
    for i in range(2):
        case.run(tmp_path, template_index=i)
    folder = tmp_path / "template1" / "cross_correlation"
    (folder / "cross_correlation_stack_000000.pt").unlink()
    damage(folder / "cross_correlation_stack_000001.pt", "cut short")
    with pytest.raises(IncompleteOutputError) as caught:
        stitch_log_likelihood_matrices(output_directory=tmp_path, cc=True)
    assert len(caught.value.problems) == 2
    damage(folder / "cross_correlation_stack_000001.pt", "wrong shape")
    with pytest.raises(IncompleteOutputError, match=r"has shape \(7,\)"):
        stitch_log_likelihood_matrices(output_directory=tmp_path, cc=True)
    assert not (tmp_path / "likelihood_matrix").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "No matrix is chosen"),
        ({"phys": True}, "Fourier space only"),
        ({"cc": True}, "holds no results"),
    ],
)
def test_matrices_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Asking for nothing, for what does not exist, or too early is an error that says so."""
    with pytest.raises(CryoLikeError, match=message):
        stitch_log_likelihood_matrices(output_directory=tmp_path, **options)


def test_everything_missing_is_named_at_once(tmp_path: Path) -> None:
    """Both folders are checked before any work."""
    with pytest.raises(CryoLikeError) as caught:
        configure_likelihood_files(tmp_path / "no templates", tmp_path / "no particles")
    assert "no templates: no templates there" in str(caught.value)
    assert "no particles: there is no such folder" in str(caught.value)


def test_numbers_beyond_what_there_is(case: Case, tmp_path: Path) -> None:
    """Structures and stacks that do not exist are named with how many there are."""
    with pytest.raises(UsageError) as caught:
        configure_likelihood_files(
            case.folder / "templates", case.folder / "particles", tmp_path, 3, 2
        )
    assert "n_stacks is 3, but there are 2 stacks" in str(caught.value)
    assert "i_template is 2, but the list of templates has 2 files" in str(caught.value)
    with pytest.raises(UsageError, match="template_index is 2"):
        case.run(tmp_path, template_index=2)
    with pytest.raises(UsageError, match="n_stacks is 0"):
        case.run(tmp_path, n_stacks=0)
    with pytest.raises(UsageError, match="both must be at least 1"):
        case.run(tmp_path, n_images_per_batch=0)
    assert not files_below(tmp_path)


def test_two_different_structures_are_a_contradiction(case: Case, tmp_path: Path) -> None:
    """The structure that was configured is not quietly another one when it runs."""
    configured = case.configured(tmp_path, i_template=1)
    with pytest.raises(UsageError, match="configured as 1, but template_index is 0"):
        run_likelihood_optimal_pose(configured, case.descriptor, DISPLACER, n_stacks=2)
    run_likelihood_optimal_pose(configured, case.descriptor, DISPLACER, 1, 2)


DIFFERENT: dict[str, Callable[[ImageDescriptor], ImageDescriptor]] = {
    "pixel size, Å: 4.4 of the templates, 4 of the images": lambda d: replace(
        d, cartesian_grid=replace(d.cartesian_grid, pixel_size_A=4.4)
    ),
    "viewing directions ask for .26, 13, 20.": lambda d: replace(
        d, polar_grid=replace(d.polar_grid, n_inplanes=20)
    ),
    "precision: double of the descriptor, single of the images": lambda d: d.with_precision(
        "double"
    ),
    "shape .*; the descriptor and viewing directions ask for": lambda d: replace(
        d, viewing_distance=1.0
    ),
}


@pytest.mark.parametrize("message", DIFFERENT)
def test_grids_that_differ(case: Case, message: str, tmp_path: Path) -> None:
    """The error says which number differs, and nothing is written."""
    other = replace(case, descriptor=DIFFERENT[message](case.descriptor))
    with pytest.raises(UsageError, match=message):
        other.run(tmp_path)
    assert not files_below(tmp_path)


def test_templates_that_were_moved(case: Case, tmp_path: Path) -> None:
    """Files beside the list are found where the paths in it are old; others are named."""
    moved = tmp_path / "moved"
    moved.mkdir()
    names = [f"templates_fourier_map{i}.pt" for i in range(2)]
    np.save(moved / "template_file_list.npy", np.array([f"/old/place/{n}" for n in names]))
    (moved / names[0]).symlink_to(case.folder / "templates" / names[0])
    with pytest.raises(MissingFileError, match=r"/old/place/templates_fourier_map1\.pt"):
        configure_likelihood_files(moved, case.folder / "particles")
    (moved / names[1]).symlink_to(case.folder / "templates" / names[1])
    found = configure_likelihood_files(moved, case.folder / "particles").template_files
    assert found == tuple(moved / name for name in names)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("opened",)


@pytest.mark.parametrize("content", [b"text", np.arange(3), np.array([_Payload()])])
def test_list_of_templates_that_is_none(case: Case, content: Any, tmp_path: Path) -> None:
    """A damaged list, one of numbers, and pickled objects are refused; nothing is unpickled."""
    path = tmp_path / "template_file_list.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(CryoLikeError, match=r"template_file_list\.npy"):
        configure_likelihood_files(tmp_path, case.folder / "particles")
    assert not Path("opened").exists()


@pytest.mark.parametrize("arguments", [(-1.0, 3, 3), (float("nan"), 3, 3), (float("inf"), 3, 3)])
def test_displacements_out_of_range(arguments: tuple[float, int, int]) -> None:
    """A size that is none is refused at once."""
    with pytest.raises(UsageError, match="max_displacement"):
        configure_displacement(*arguments)


def test_defaults_are_no_displacement() -> None:
    """By default only zero is tried."""
    settings = configure_displacement()
    assert settings == DisplacementSettings(
        max_displacement_pixels=8.0, n_displacements_x=-1, n_displacements_y=-1
    )
    grid = settings.displacements(2.0)
    assert (grid.x_A.tolist(), grid.y_A.tolist()) == ([0.0], [0.0])


@pytest.mark.parametrize(
    ("max_px", "n_x", "n_y"), [(4.0, 2, 2), (3.0, 4, 4), (3.0, 3, 2), (5.0, 2, 5), (2.0, 6, 1)]
)
def test_prior_of_an_even_grid_is_the_area_nearest_to_each(
    max_px: float, n_x: int, n_y: int
) -> None:
    """Counted on a fine lattice over the grid's cells: what is nearest to a displacement is its."""
    grid = configure_displacement(max_px, n_x, n_y).displacements(1.0)
    assert len(grid.x_A) == n_x * n_y + 1
    steps_px = [2 * max_px / (n - 1) if n > 1 else 1.0 for n in (n_x, n_y)]
    fine = [
        (np.arange(n * 120) + 0.5) / 120 * step - n * step / 2
        for n, step in zip((n_x, n_y), steps_px, strict=True)
    ]
    x, y = (axis.ravel() for axis in np.meshgrid(*fine))
    squared = (x[:, None] - grid.x_A) ** 2 + (y[:, None] - grid.y_A) ** 2
    counts = np.bincount(squared.argmin(axis=1), minlength=len(grid.x_A))
    np.testing.assert_allclose(np.exp(grid.log_prior), counts / counts.sum(), atol=2e-3)


@pytest.mark.parametrize(("n_x", "n_y"), [(3, 5), (9, 9), (1, 1), (3, 1)])
def test_prior_of_an_odd_grid_is_flat(n_x: int, n_y: int) -> None:
    """Zero is a point of it, and is not there twice."""
    grid = configure_displacement(4.0, n_x, n_y).displacements(1.0)
    assert len(grid.x_A) == n_x * n_y
    np.testing.assert_allclose(np.exp(grid.log_prior), 1 / (n_x * n_y))
    assert ((grid.x_A == 0) & (grid.y_A == 0)).sum() == 1


@pytest.mark.parametrize("is_converted", [True, False])
def test_scoring_writes_the_same_files(case: Case, tmp_path: Path, is_converted: bool) -> None:
    """One command gives what the published functions and stitching give, number for number."""
    maps = []
    for i in range(2):
        maps.append(tmp_path / f"map{i}.mrc")
        with mrcfile.new(maps[-1]) as file:
            file.set_data(
                density_map(asymmetric_particle(15.0, seed=i), N_PIXELS, PIXEL_A).astype("f4")
            )
            file.voxel_size = PIXEL_A
    write_templates(maps, case.descriptor, tmp_path / "templates", plots=False)
    files = configure_likelihood_files(
        tmp_path / "templates", case.folder / "particles", tmp_path / "wanted", 2
    )
    for i in range(2):
        run_likelihood_optimal_pose(
            *(files, case.descriptor, configure_displacement(1.0, 3, 3), i, 2),
            return_likelihood_optimal_pose_fourier=True,
            return_likelihood_integrated_pose_fourier=True,
        )
    wanted = tmp_path / "wanted"
    stitch_log_likelihood_matrices(output_directory=wanted, opt=True, integrated=True, cc=True)
    options = ScoreOptions(shift_max_px=1.0, published=True, plots=False)
    conversion = ConvertOptions(batch_size=2)
    table = read_particles(case.folder / "project" / "particles.star")
    particles = case.stacks if is_converted else plan_conversion(table, case.descriptor, conversion)
    report = score_particles(plan_scoring(particles, maps, options), tmp_path / "ours")
    names = {name for name in files_below(wanted) if name.endswith(".pt")}
    assert {name for name in files_below(tmp_path / "ours") if name.endswith(".pt")} == names
    assert names.issubset(report.files)
    for name in names:
        ours, theirs = (
            torch.load(f / name, weights_only=True) for f in (tmp_path / "ours", wanted)
        )
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_published_files_of_a_finished_run(case: Case, tmp_path: Path) -> None:
    """They cannot be made later, which is said; where they are, nothing is to be done."""
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(density_map(asymmetric_particle(15.0), N_PIXELS, PIXEL_A).astype("f4"))
        file.voxel_size = PIXEL_A
    plain = ScoreOptions(shift_max_px=1.0, plots=False)
    published = replace(plain, published=True)
    score_particles(plan_scoring(case.stacks, [path], plain), tmp_path / "a")
    with pytest.raises(UsageError, match="without --published"):
        score_particles(plan_scoring(case.stacks, [path], published), tmp_path / "a", resume=True)
    first = score_particles(plan_scoring(case.stacks, [path], published), tmp_path / "b")
    for options in (plain, published):
        plan = plan_scoring(case.stacks, [path], options)
        assert score_particles(plan, tmp_path / "b", resume=True).files == first.files
