"""``cryolike score``: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from tests.program import run_program
from tests.score_sets import COARSE, N_IMAGES, ScoreSet, files_below, write_score_set

from cryolike.store import open_stacks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ScoreSet:
    """Simulate a set and two structures."""
    return write_score_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def scored(data: ScoreSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Score it; the output folder."""
    out = tmp_path_factory.mktemp("scored") / "out"
    outcome = run_program(*data.arguments(out))
    assert outcome.code == 0, outcome.err
    return out


def test_right_structure_wins(scored: Path) -> None:
    """The structure that the images show is more likely for most of them, and for all together."""
    matrix = np.load(scored / "log_likelihood_integrated.npy")
    assert matrix.shape == (N_IMAGES, 2)
    ratio = matrix[:, 0] - matrix[:, 1]
    assert (ratio > 0).mean() > 0.95
    assert ratio.sum() > 300


def test_files(scored: Path) -> None:
    """Tables, matrix, scored set, record and pictures are there, and nothing else."""
    assert sorted(files_below(scored)) == [
        "log_likelihood_integrated.npy",
        "particles_scored.star",
        "plots/correlations.png",
        "plots/directions.png",
        "plots/gallery.png",
        "plots/likelihood_ratios.png",
        "results.csv",
        "results.parquet",
        "scores.json",
    ]


def test_table_and_scored_set_agree(data: ScoreSet, scored: Path) -> None:
    """The scored set has the rows of the source, each with the pose of its best structure."""
    table = pd.read_parquet(scored / "results.parquet")
    assert table["source_row"].tolist() == np.repeat(np.arange(N_IMAGES), 2).tolist()
    assert table["structure"].tolist() == ["true", "other"] * N_IMAGES
    best = table.loc[table.groupby("source_row")["log_likelihood_integrated"].idxmax()]
    ours = starfile.read(scored / "particles_scored.star", always_dict=True)["particles"]
    source = starfile.read(data.star_file, always_dict=True)["particles"]
    assert ours["rlnImageName"].tolist() == source["rlnImageName"].tolist()
    assert ours["rlnImageName"].tolist() == best["image_name"].tolist()
    for column in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst"):
        assert ours[column].to_numpy() == pytest.approx(best[column].to_numpy(), abs=1e-4)


def test_poses_are_near_the_true_ones(data: ScoreSet, scored: Path) -> None:
    """Origins are within half a step of the true ones, with the right sign."""
    ours = starfile.read(scored / "particles_scored.star", always_dict=True)["particles"]
    source = starfile.read(data.star_file, always_dict=True)["particles"]
    for column in ("rlnOriginXAngst", "rlnOriginYAngst"):
        error_A = (ours[column] - source[column]).abs()
        assert error_A.median() < 2.1
        assert np.corrcoef(ours[column], source[column])[0, 1] > 0.8


def test_what_it_says(data: ScoreSet, tmp_path: Path) -> None:
    """It tells the plan, then structures from the likeliest down, with their numbers of images."""
    outcome = run_program(*data.arguments(tmp_path / "out", "--rows", "0:10", "--no-plots"))
    assert outcome.code == 0
    assert "10 images scored against 2 structures" in outcome.out
    lines = outcome.out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("structure "))
    assert lines[first + 1].split()[:2] == ["true", "0.0"]
    assert lines[first + 2].startswith("other")
    assert "templates for each structure" in outcome.out
    assert not (tmp_path / "out" / "plots").exists()


def test_json(data: ScoreSet, tmp_path: Path) -> None:
    """With --json nothing but one object goes to standard output."""
    arguments = data.arguments(tmp_path / "out", "--rows", "0:10", "--no-plots", "--json")
    outcome = run_program(*arguments)
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["n_images"] == 10
    assert told["best_structure"] == "true"
    assert [s["name"] for s in told["structures"]] == ["true", "other"]
    assert sum(s["n_best"] for s in told["structures"]) == 10
    matrix = np.load(tmp_path / "out" / "log_likelihood_integrated.npy")
    assert [s["log_likelihood"] for s in told["structures"]] == pytest.approx(matrix.sum(axis=0))
    assert "results.parquet" in told["files"]


def test_dry_run_writes_nothing(data: ScoreSet, tmp_path: Path) -> None:
    """A dry run tells the number of poses and leaves no folder."""
    outcome = run_program(*data.arguments(tmp_path / "out", "--dry-run", "--json"))
    told = json.loads(outcome.out)
    assert (told["n_images"], told["n_shifts"]) == (N_IMAGES, 25)
    assert told["n_poses"] == told["n_views"] * 25 * 48
    assert not (tmp_path / "out").exists()


def test_converted_folder_gives_the_same(data: ScoreSet, scored: Path, tmp_path: Path) -> None:
    """A set that was converted before gives the same scores, rows and poses."""
    converted, out = tmp_path / "converted", tmp_path / "out"
    assert run_program("convert", "star", data.star_file, "-o", converted, "--quiet").code == 0
    assert len(open_stacks(converted)) == N_IMAGES
    structures = ["-s", str(data.true), "-s", str(data.other)]
    outcome = run_program("score", converted, *structures, "-o", out, *COARSE, "--no-plots")
    assert outcome.code == 0, outcome.err
    ours, wanted = (pd.read_parquet(folder / "results.parquet") for folder in (out, scored))
    pd.testing.assert_frame_equal(ours, wanted, rtol=1e-5, atol=1e-4)
    assert (out / "particles_scored.star").read_bytes() == (
        scored / "particles_scored.star"
    ).read_bytes()


def test_equal_names_are_told_apart(data: ScoreSet, tmp_path: Path) -> None:
    """The second structure of one name gets _1."""
    twice = ["-s", str(data.true), "-s", str(data.true), "-o", str(tmp_path / "out")]
    options = (*COARSE, "--dry-run", "--json")
    told = json.loads(run_program("score", data.star_file, *twice, *options).out)
    assert told["structures"] == ["true", "true_1"]


def test_all_problems_at_once(data: ScoreSet, tmp_path: Path) -> None:
    """What is wrong with images and with structures comes in one list, before any work."""
    changed = data.with_values({(3, "rlnImageName"): "000001@missing.mrcs"})
    broken = tmp_path / "broken.mrc"
    broken.write_bytes(b"nothing")
    outcome = run_program(
        *("score", changed, "-o", tmp_path / "out", *COARSE),
        *("-s", broken, "-s", tmp_path / "no.pdb"),
    )
    assert outcome.code == 1
    assert "3 problems" in outcome.err
    for word in ("missing.mrcs", "broken.mrc", "no.pdb"):
        assert word in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shift-max", "13"], "beyond the box"),
        (["--shift-max", "4", "--shift-step", "1.5"], "does not divide"),
        (["--shift-step", "0"], "positive"),
        (["--shift-sd", "0"], "positive"),
        (["--memory", "lots"], "such as 4G"),
        (["--memory", "1K"], "at least"),
        (["--viewing-distance", "0.5"], "choose one"),
        (["--view-spacing", "-3"], "positive"),
        (["--search", "wild"], "not one of"),
        (["--n-compared", "all"], "not one of"),
        (["--resume", "--overwrite"], "contradict"),
        (["--device", "abacus"], "abacus"),
        (["--local", "0"], "at most 180"),
        (["--rows", "5:5"], "START"),
        (["--downsample", "5"], "does not divide"),
    ],
)
def test_wrong_options(data: ScoreSet, tmp_path: Path, options: list[str], words: str) -> None:
    """Each is refused with its own words and code 2, and nothing is written."""
    outcome = run_program(*data.arguments(tmp_path / "out", *options))
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_model_larger_than_the_box(data: ScoreSet, tmp_path: Path) -> None:
    """A model that the box does not hold is refused, saying what box it needs."""
    path = tmp_path / "long.pdb"
    path.write_text(
        "".join(
            f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {300.0 * i:8.3f}{0:8.3f}{0:8.3f}"
            "  1.00  0.00           C\n"
            for i in range(2)
        )
    )
    outcome = run_program("score", data.star_file, "-s", path, "-o", tmp_path / "out", *COARSE)
    assert outcome.code == 2
    assert "does not fit in the box" in outcome.err


def test_grids_that_differ(data: ScoreSet, tmp_path: Path) -> None:
    """A descriptor with other grids than a converted set has is refused, naming the numbers."""
    converted, params = tmp_path / "converted", tmp_path / "params.npz"
    assert run_program("convert", "star", data.star_file, "-o", converted, "--quiet").code == 0
    describe = ("describe", "--n-pixels", "24", "--pixel-size", "4", "-o", params)
    assert run_program(*describe).code == 0
    arguments = ("-s", data.true, "-o", tmp_path / "out", "--params", params)
    outcome = run_program("score", converted, *arguments)
    assert outcome.code == 2
    assert "pixel size, Å: 4 of the templates, 8 of the images" in outcome.err


def test_options_that_mean_nothing_for_a_converted_set(data: ScoreSet, tmp_path: Path) -> None:
    """They are refused rather than ignored."""
    converted = tmp_path / "converted"
    assert run_program("convert", "star", data.star_file, "-o", converted, "--quiet").code == 0
    arguments = ("-s", data.true, "-o", tmp_path / "out", "--random", "3", "--downsample", "2")
    outcome = run_program("score", converted, *arguments)
    assert outcome.code == 2
    assert "--random, --downsample" in outcome.err


def test_ctf_that_is_zero(data: ScoreSet, tmp_path: Path) -> None:
    """It is an error that names the row; on request the row is left out and listed."""
    changed = data.with_values({(7, "rlnCtfScalefactor"): 0.0})
    arguments = ["score", changed, "-s", data.true, "-o", tmp_path / "out", *COARSE]
    outcome = run_program(*arguments)
    assert outcome.code == 1
    assert "row 7" in outcome.err
    assert "--on-bad-image skip" in outcome.err
    outcome = run_program(*arguments, "--resume", "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    assert "skipped: 1 row" in outcome.out
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    assert rejects["source_row"].tolist() == [7]
    table = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert table["source_row"].tolist() == [row for row in range(N_IMAGES) if row != 7]


def test_bad_rows_are_skipped_on_request(data: ScoreSet, tmp_path: Path) -> None:
    """A row without an image is left out and listed; its pose stays as it was."""
    changed = data.with_values({(3, "rlnImageName"): "000001@missing.mrcs"})
    arguments = ["score", changed, "-s", data.true, "-o", tmp_path / "out", *COARSE]
    outcome = run_program(*arguments, "--on-bad-row", "skip", "--no-plots")
    assert outcome.code == 0, outcome.err
    assert pd.read_csv(tmp_path / "out" / "rejects.csv")["source_row"].tolist() == [3]
    ours = starfile.read(tmp_path / "out" / "particles_scored.star", always_dict=True)["particles"]
    source = starfile.read(changed, always_dict=True)["particles"]
    assert len(ours) == N_IMAGES
    assert ours["rlnAngleRot"][3] == pytest.approx(source["rlnAngleRot"][3], abs=1e-4)
    assert ours["rlnAngleRot"][4] != pytest.approx(source["rlnAngleRot"][4], abs=1e-4)


def test_one_structure(data: ScoreSet, tmp_path: Path) -> None:
    """With one structure there is nothing to compare; the picture shows how sharp poses are."""
    arguments = ["score", data.star_file, "-s", data.true, "-o", tmp_path / "out", *COARSE]
    outcome = run_program(*arguments)
    assert outcome.code == 0, outcome.err
    assert "30 images scored against 1 structure" in outcome.out
    assert (tmp_path / "out" / "plots" / "pose_sharpness.png").is_file()


def test_local_search(data: ScoreSet, tmp_path: Path) -> None:
    """Best views stay near the metadata's, but where its angles are all zero."""
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    turned = {(row, "rlnAngleRot"): 100.0 for row in range(N_IMAGES)}
    turned |= {(row, "rlnAngleTilt"): 70.0 for row in range(N_IMAGES)}
    changed = data.with_values(turned | {(5, name): 0.0 for name in names})
    out = tmp_path / "out"
    arguments = ["score", changed, "-s", data.true, "-o", out, *COARSE, "--no-plots"]
    outcome = run_program(*arguments, "--local", "25")
    assert outcome.code == 0, outcome.err
    assert "within 25° of the metadata's poses" in outcome.out
    table = pd.read_parquet(out / "results.parquet")
    rot, tilt = np.deg2rad(table["rlnAngleRot"]), np.deg2rad(table["rlnAngleTilt"])
    given = np.array([np.sin(1.2217) * np.cos(1.7453), np.sin(1.2217) * np.sin(1.7453)])
    cosine = np.sin(tilt) * (np.cos(rot) * given[0] + np.sin(rot) * given[1])
    angle_deg = np.rad2deg(np.arccos(np.clip(cosine + np.cos(tilt) * np.cos(1.2217), -1, 1)))
    assert (angle_deg.drop(5) < 25.1).all()
    assert angle_deg[5] > 25.1


def test_local_search_is_around_the_given_shifts(data: ScoreSet, tmp_path: Path) -> None:
    """Where no other displacements are tried, origins stay as they are."""
    out = tmp_path / "out"
    arguments = ["score", data.star_file, "-s", data.true, "-o", out, "--view-spacing", "15"]
    outcome = run_program(*arguments, "--local", "25", "--shift-max", "0", "--no-plots", "--quiet")
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(out / "results.parquet")
    source = starfile.read(data.star_file, always_dict=True)["particles"]
    for column in ("rlnOriginXAngst", "rlnOriginYAngst"):
        assert table[column].to_numpy() == pytest.approx(source[column].to_numpy(), abs=1e-3)


def test_local_search_without_poses(data: ScoreSet, tmp_path: Path) -> None:
    """It is refused where no row has a pose."""
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    changed = data.with_values({(row, name): 0.0 for row in range(N_IMAGES) for name in names})
    arguments = ["score", changed, "-s", data.true, "-o", tmp_path / "out", *COARSE]
    outcome = run_program(*arguments, "--local", "20")
    assert outcome.code == 2
    assert "the set has no viewing directions" in outcome.err


def test_refinement(data: ScoreSet, scored: Path, tmp_path: Path) -> None:
    """Poses leave the grid; likelihoods stay."""
    out = tmp_path / "out"
    outcome = run_program(*data.arguments(out, "--refine", "--no-plots"))
    assert outcome.code == 0, outcome.err
    ours, grid = (pd.read_parquet(folder / "results.parquet") for folder in (out, scored))
    name = "log_likelihood_integrated"
    assert ours[name].to_numpy() == pytest.approx(grid[name].to_numpy(), abs=1e-4)
    assert (ours["rlnAngleTilt"] - grid["rlnAngleTilt"]).abs().median() > 0.01
