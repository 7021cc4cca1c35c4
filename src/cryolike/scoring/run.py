"""Carry out a plan of scoring: structure by structure, block by block, resumable."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cryolike.conversion.run import resolve_device
from cryolike.errors import ImageError, Notice, OutputError, Problem, UsageError, counted
from cryolike.plot import png_bytes
from cryolike.scoring.pictures import draw_scores
from cryolike.scoring.plan import Candidate, ScorePlan, templates_of
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.scoring.sources import ImageBlock, rows_in_whole
from cryolike.store.scored_particles import write_scored_particles
from cryolike.store.scores import ScoreLayout, ScoreTable, write_results
from cryolike.store.tiles import TileFolder
from cryolike.store.writer import Reject, check_free_space, rejects_csv

__all__ = ["ScoreReport", "score_particles"]

logger = logging.getLogger(__name__)

ProgressBars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Makes a progress bar of a title, as `cryolike.progress.progress_bar` does."""

_POSES = tuple(column.name for column in fields(Poses))
_SCORES = tuple(column.name for column in fields(PoseScores) if column.name != "poses")
_SCORES_OF_TABLE = (
    "cross_correlation",
    "log_likelihood_optimal",
    "log_likelihood_integrated",
    "left_out",
)
_COLUMNS = ("rows", *_SCORES, *_POSES)
_REJECTS_NAME = "rejects.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreReport:
    """What scoring a set found.

    Parameters
    ----------
    folder
        Output folder.
    scores
        Of all images that could be scored; None where an earlier run had finished.
    structures
        Their names.
    log_likelihood_integrated
        Nats, (n_images, n_structures).
    rejects
        Rows left out because the caller chose to skip bad ones:
        (metadata file, source row, image name, reason).
    notices
        Defaults applied, doubtful values accepted.
    n_tiles, n_tiles_kept
        Pairs of block and structure, and how many of them an earlier run had computed.
    files
        What was written, below `folder`.
    seconds
        Wall time.
    """

    folder: Path
    structures: tuple[str, ...]
    log_likelihood_integrated: np.ndarray
    scores: ScoreTable | None = None
    rejects: tuple[Reject, ...] = ()
    notices: tuple[Notice, ...] = ()
    n_tiles: int = 0
    n_tiles_kept: int = 0
    files: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def n_images(self) -> int:
        """Images scored."""
        return len(self.log_likelihood_integrated)

    @property
    def n_best(self) -> np.ndarray:
        """Of how many images each structure is the best, (n_structures,)."""
        best = self.log_likelihood_integrated.argmax(axis=1)
        return np.bincount(best, minlength=len(self.structures))

    @property
    def log_likelihood(self) -> np.ndarray:
        """Log-likelihood of all images together under each structure, nats, (n_structures,)."""
        total: np.ndarray = self.log_likelihood_integrated.sum(axis=0)
        return total

    @property
    def best_structure(self) -> str:
        """The structure under which all images together are most likely."""
        return self.structures[int(self.log_likelihood.argmax())]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notices that are warnings, as text."""
        return tuple(notice.message for notice in self.notices if notice.level == "warning")

    def describe(self) -> str:
        """Say in a few lines what was found."""
        total, best = self.log_likelihood, self.n_best
        lines = [
            f"{counted(self.n_images, 'image')} scored against "
            f"{counted(len(self.structures), 'structure')} in {self.folder} ({self.seconds:.1f} s)"
        ]
        if len(self.structures) > 1:
            width = max(len("structure"), *map(len, self.structures))
            lines.append(
                f"{'structure':<{width}}  {'log-likelihood':>16}  {'an image':>10}  best of images"
            )
            for i in np.argsort(-total, kind="stable"):
                less = total[i] - total.max()
                lines.append(
                    f"{self.structures[i]:<{width}}  {less:>11,.1f} nats  "
                    f"{less / self.n_images:>10,.2f}  {best[i]:,}"
                )
        if self.n_tiles_kept:
            lines.append(
                f"kept from an earlier run: {self.n_tiles_kept:,} of {self.n_tiles:,} parts"
            )
        if self.rejects:
            lines.append(f"skipped: {counted(len(self.rejects), 'row')}, listed in {_REJECTS_NAME}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "folder": str(self.folder),
            "n_images": self.n_images,
            "n_skipped": len(self.rejects),
            "best_structure": self.best_structure,
            "structures": [
                {"name": name, "log_likelihood": float(total), "n_best": int(n)}
                for name, total, n in zip(
                    self.structures, self.log_likelihood, self.n_best, strict=True
                )
            ],
            "files": list(self.files),
            "n_parts": self.n_tiles,
            "n_parts_kept": self.n_tiles_kept,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }


def score_particles(
    plan: ScorePlan,
    folder_output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    progress: ProgressBars | None = None,
) -> ScoreReport:
    """Compare all images of a set with all structures.

    Parameters
    ----------
    plan
        From `cryolike.scoring.plan.plan_scoring`.
    folder_output
        Where to write; made where it does not exist.
    resume
        Keep what an earlier run of the same plan has computed.
    overwrite
        Replace the results of an earlier run.
    device
        'cpu', 'cuda', or 'auto' for the GPU where there is one.
    progress
        Makes progress bars.

    Returns
    -------
    ScoreReport
        Also where everything was there already.

    Raises
    ------
    ImageError
        Where images cannot be used and are not to be skipped. What is computed is kept.
    UsageError
        Where both `resume` and `overwrite` are asked for, or there is no such device.
    OutputError
        Where results cannot be written, or those of another run are in the way.
    """
    started = time.perf_counter()
    folder = Path(folder_output)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other: choose one.")
    resolve_device(device)
    _refuse_overwriting_sources(plan, folder)
    check_free_space(folder, _bytes_needed(plan))
    tiles = TileFolder(
        folder, plan.header(), resume=resume, overwrite=overwrite, result_names=_names(plan)
    )
    with tiles:
        if tiles.is_finished:
            return _earlier_report(plan, folder, time.perf_counter() - started)
        run = _Run(plan, tiles, device, progress or (lambda _: nullcontext(_report_nothing)))
        run.compute()
        scores, rows = run.assemble()
        records = tiles.finish(lambda results: run.write(scores, rows, results))
    return ScoreReport(
        folder=folder,
        structures=scores.structures,
        log_likelihood_integrated=scores.log_likelihood_integrated,
        scores=scores,
        rejects=run.rejects,
        notices=plan.notices,
        n_tiles=run.n_tiles,
        n_tiles_kept=run.n_tiles_kept,
        files=tuple(record.name for record in records),
        seconds=time.perf_counter() - started,
    )


def _report_nothing(_done: int, _total: int) -> None: ...


class _Run:
    """Computes what is missing, then makes results of all of it."""

    def __init__(
        self, plan: ScorePlan, tiles: TileFolder, device: str, progress: ProgressBars
    ) -> None:
        self._plan, self._tiles, self._device, self._progress = plan, tiles, device, progress
        self._n_done = 0
        self.n_tiles = len(plan.structures) * len(plan.blocks)
        self.n_tiles_kept = 0
        self.rejects: tuple[Reject, ...] = plan.source.rejects

    def compute(self) -> None:
        """Compute all tiles that are missing, structure by structure."""
        for number, structure in enumerate(self._plan.structures):
            missing = {
                index: block
                for index, block in enumerate(self._plan.blocks)
                if self._tiles.read(_tile_name(number, index)) is None
            }
            self.n_tiles_kept += len(self._plan.blocks) - len(missing)
            self._n_done += self._plan.n_images - sum(map(len, missing.values()))
            if missing:
                self._score(number, structure, missing)

    def _score(self, number: int, structure: Candidate, missing: dict[int, range]) -> None:
        plan, options = self._plan, self._plan.options
        of_all = f" ({number + 1}/{len(plan.structures)})" if len(plan.structures) > 1 else ""
        with self._progress(f"templates of {structure.name}{of_all}") as bar:
            templates = templates_of(plan, structure, progress=bar)
        search = PoseSearch(
            templates,
            plan.displacements,
            mode=options.search,
            refine=options.refine,
            n_compared=options.n_compared,
            device=resolve_device(self._device),
            memory_bytes=options.memory_bytes,
        )
        blocks = plan.source.blocks(
            missing, self._device, skip_unusable=options.on_bad_image == "skip"
        )
        n_in_all = plan.n_images * len(plan.structures)
        with self._progress(f"scoring {structure.name}{of_all}") as bar:
            bar(self._n_done, n_in_all)
            for block in blocks:
                tile = _rejected(block)
                if len(block.rows):
                    scores = search.score(
                        block.images,
                        block.ctf,
                        near=plan.near(block.rows),
                        within_rad=options.local_rad,
                    )
                    tile |= _tile(block, scores)
                self._tiles.write(_tile_name(number, block.index), tile)
                self._n_done += len(missing[block.index])
                bar(self._n_done, n_in_all)

    def assemble(self) -> tuple[ScoreTable, np.ndarray]:
        """Put all tiles together; also the positions in the source's table of what they hold.

        Images that could not be scored are left out.
        """
        of_structures = []
        for number in range(len(self._plan.structures)):
            tiles = [self._read(number, index) for index in range(len(self._plan.blocks))]
            if number == 0:
                self.rejects += tuple(
                    (file, row, name, reason)
                    for tile in tiles
                    for file, row, name, reason in json.loads(str(tile["rejected"]))
                )
            scored = [tile for tile in tiles if "rows" in tile]
            if not scored:
                raise _nothing_left(self._plan, self.rejects)
            of_structures.append(
                {name: np.concatenate([tile[name] for tile in scored]) for name in _COLUMNS}
            )
        table, rows = self._plan.source.table, of_structures[0]["rows"]
        matrices: dict[str, Any] = {
            name: np.stack([columns[name] for columns in of_structures], axis=1)
            for name in (*_SCORES_OF_TABLE, *_POSES)
        }
        scores = ScoreTable(
            source_row=table.source_row[rows],
            image_name=np.array([table.image_name(int(row)) for row in rows], dtype=object),
            uid=None if table.uid is None else table.uid[rows],
            structures=tuple(structure.name for structure in self._plan.structures),
            **matrices,
        )
        return scores, rows

    def _read(self, number: int, index: int) -> dict[str, np.ndarray]:
        tile = self._tiles.read(_tile_name(number, index))
        if tile is None:
            msg = "a part that was computed cannot be read any more. Run again with --resume."
            raise OutputError(msg)
        return tile

    def write(self, scores: ScoreTable, rows: np.ndarray, folder: Path) -> None:
        """Write all results into a folder."""
        source = self._plan.source
        write_results(folder, scores)
        write_scored_particles(
            folder,
            source.whole_table,
            rows_in_whole(source, rows),
            scores.best_poses(),
            pixel_size_A=source.on_disk.pixel_size_A,
            box_px=source.on_disk.side_px,
        )
        if self.rejects:
            data = rejects_csv(self.rejects, source.table.metadata_files)
            (folder / _REJECTS_NAME).write_bytes(data)
        if self._plan.options.plots:
            (folder / "plots").mkdir()
            for name, figure in draw_scores(self._plan, scores, rows).items():
                (folder / "plots" / f"{name}.png").write_bytes(png_bytes(figure))


def _tile_name(structure: int, block: int) -> str:
    return f"structure_{structure:04d}_block_{block:06d}"


def _tile(block: ImageBlock, scores: PoseScores) -> dict[str, np.ndarray]:
    """Arrays of a tile."""
    of_scores = {name: np.asarray(getattr(scores, name)) for name in _SCORES}
    return {"rows": block.rows, **of_scores, **vars(scores.poses)}


def _rejected(block: ImageBlock) -> dict[str, np.ndarray]:
    return {"rejected": np.array(json.dumps(block.rejected))}


def _nothing_left(plan: ScorePlan, rejects: tuple[Reject, ...]) -> ImageError:
    return ImageError(
        Problem(
            message=f"none of {counted(plan.n_images, 'image')} can be scored",
            file=", ".join(plan.source.table.metadata_files),
            places=[f"row {row}: {name} ({reason})" for _, row, name, reason in rejects],
            remedy="Look at the images and their CTF parameters with `cryolike inspect`.",
            kind="image",
        )
    )


def _names(plan: ScorePlan) -> list[str]:
    """Files that a run writes for certain."""
    layout = ScoreLayout(Path())
    names = [layout.table, layout.table_as_text, layout.matrix, layout.scored_star]
    if plan.source.table.kind == "cryosparc":
        names.append(layout.scored_cs)
    return [path.name for path in names]


def _bytes_needed(plan: ScorePlan) -> int:
    """Bytes that tiles and results take, about."""
    return plan.n_images * len(plan.structures) * 400


def _refuse_overwriting_sources(plan: ScorePlan, folder: Path) -> None:
    paths = [*map(Path, plan.source.input_paths), *(s.path for s in plan.structures)]
    sources = {path.resolve() for path in paths}
    clash = [folder / name for name in _names(plan) if (folder / name).resolve() in sources]
    if clash:
        msg = f"{clash[0]} is a source file. Choose another output folder."
        raise OutputError(msg)


def _earlier_report(plan: ScorePlan, folder: Path, seconds: float) -> ScoreReport:
    """Report on a run that was finished before."""
    n_tiles = len(plan.structures) * len(plan.blocks)
    return ScoreReport(
        folder=folder,
        structures=tuple(structure.name for structure in plan.structures),
        log_likelihood_integrated=np.load(ScoreLayout(folder).matrix, allow_pickle=False),
        notices=plan.notices,
        n_tiles=n_tiles,
        n_tiles_kept=n_tiles,
        seconds=seconds,
    )
