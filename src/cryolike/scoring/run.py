"""Carry out a plan of scoring: structure by structure, block by block, resumable."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cryolike.conversion.assembly import unusable_images
from cryolike.conversion.run import resolve_device
from cryolike.errors import (
    ImageError,
    IncompleteOutputError,
    Notice,
    OutputError,
    Problem,
    UsageError,
    counted,
)
from cryolike.particles import ParticleTable
from cryolike.plot import png_bytes
from cryolike.scoring.pictures import draw_scores, picture_names
from cryolike.scoring.plan import Candidate, ScorePlan, templates_of
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.published import write_published_files
from cryolike.scoring.search import PoseSearch
from cryolike.scoring.sources import ImageBlock, rows_in_whole
from cryolike.store.likelihood_files import LikelihoodLayout
from cryolike.store.manifest import FileRecord
from cryolike.store.scored_particles import write_scored_particles
from cryolike.store.scores import (
    ScoreLayout,
    ScoreTable,
    read_rejects,
    read_results,
    write_results,
)
from cryolike.store.tiles import RECORD_NAME, TileFolder
from cryolike.store.writer import Reject, check_free_space, rejects_csv

__all__ = ["ScoreReport", "check_run", "score_particles"]

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
_NO_FOLDER = ScoreLayout(Path())
"""For the names of files."""


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
            lines.append(
                f"skipped: {counted(len(self.rejects), 'row')}, listed in {_NO_FOLDER.rejects}"
            )
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
    tiles = check_run(plan, folder, resume=resume, overwrite=overwrite, device=device)
    with tiles:
        if tiles.is_finished:
            return _report_again(plan, folder, tiles, started)
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


def check_run(
    plan: ScorePlan,
    folder_output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
) -> TileFolder:
    """Refuse what `score_particles` would refuse before its work; nothing is written.

    Parameters
    ----------
    plan, folder_output, resume, overwrite, device
        As in `score_particles`.

    Returns
    -------
    TileFolder
        The output folder, not entered.

    Raises
    ------
    UsageError, OutputError
        As `score_particles`.
    """
    folder = Path(folder_output)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other: choose one.")
    resolve_device(device)
    _refuse_overwriting_sources(plan, folder)
    tiles = TileFolder(
        folder, plan.header(), resume=resume, overwrite=overwrite, result_names=_names(plan)
    )
    tiles.check()
    check_free_space(folder, _bytes_needed(plan))
    return tiles


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
        self._columns: list[dict[str, np.ndarray]] = []

    def compute(self) -> None:
        """Compute all tiles that are missing, structure by structure."""
        for number, structure in enumerate(self._plan.structures):
            missing, rejected = {}, []
            for index, block in enumerate(self._plan.blocks):
                tile = self._tiles.read(_tile_name(number, index))
                if tile is None:
                    missing[index] = block
                else:
                    rejected += _rejects_of_tile(tile)
            _refuse_rejects(self._plan, rejected)
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
                self.rejects += tuple(r for tile in tiles for r in _rejects_of_tile(tile))
            scored = [tile for tile in tiles if "rows" in tile]
            if not scored:
                raise _nothing_left(self._plan, self.rejects)
            of_structures.append(
                {name: np.concatenate([tile[name] for tile in scored]) for name in _COLUMNS}
            )
        self._columns = of_structures
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
            ScoreLayout(folder).rejects.write_bytes(data)
        if self._plan.options.published:
            write_published_files(
                folder,
                self._columns,
                _positions_in_stacks(source.stacks_of_rows, rows),
                self._plan.displacements,
                self._plan.descriptor.polar_grid,
            )
        if self._plan.options.plots:
            _write_pictures(self._plan, scores, rows, folder)


def _positions_in_stacks(stacks: dict[int, range], rows: np.ndarray) -> dict[int, slice]:
    """Positions of the scored images of each stack; of stacks that have any."""
    edges = {
        number: np.searchsorted(rows, [of_stack.start, of_stack.stop]).tolist()
        for number, of_stack in stacks.items()
    }
    return {number: slice(*edge) for number, edge in edges.items() if edge[0] < edge[1]}


def _write_pictures(plan: ScorePlan, scores: ScoreTable, rows: np.ndarray, folder: Path) -> None:
    plots = ScoreLayout(folder).plots
    plots.mkdir()
    for name, figure in draw_scores(plan, scores, rows).items():
        (plots / f"{name}.png").write_bytes(png_bytes(figure))


def _tile_name(structure: int, block: int) -> str:
    return f"structure_{structure:04d}_block_{block:06d}"


def _tile(block: ImageBlock, scores: PoseScores) -> dict[str, np.ndarray]:
    """Arrays of a tile."""
    of_scores = {name: np.asarray(getattr(scores, name)) for name in _SCORES}
    return {"rows": block.rows, **of_scores, **vars(scores.poses)}


def _rejected(block: ImageBlock) -> dict[str, np.ndarray]:
    return {"rejected": np.array(json.dumps(block.rejected))}


def _rejects_of_tile(tile: dict[str, np.ndarray]) -> list[Reject]:
    return [
        (file, row, name, reason) for file, row, name, reason in json.loads(str(tile["rejected"]))
    ]


def _refuse_rejects(plan: ScorePlan, rejected: Sequence[Reject]) -> None:
    """Refuse what an earlier run has left out where nothing is to be left out."""
    if rejected and plan.options.on_bad_image == "error":
        remedy = (
            "An earlier run was asked to leave these images out. Ask for it again with "
            "--on-bad-image skip (on_bad_image='skip'), or correct them and use --overwrite."
        )
        raise unusable_images(plan.source.table, rejected, remedy)


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
    layout = _NO_FOLDER
    paths = [layout.table, layout.table_as_text, layout.matrix, layout.scored_star]
    if plan.source.table.kind == "cryosparc":
        paths.append(layout.scored_cs)
    if plan.options.plots:
        paths += _picture_paths(plan)
    if plan.options.published:
        paths.append(LikelihoodLayout(layout.folder).displacements)
    return [path.as_posix() for path in paths]


def _picture_paths(plan: ScorePlan) -> list[Path]:
    names = picture_names(len(plan.structures))
    return [_NO_FOLDER.plots / f"{name}.png" for name in names]


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


def _report_again(plan: ScorePlan, folder: Path, tiles: TileFolder, started: float) -> ScoreReport:
    """Report on a run that was finished before; draw what pictures are missing.

    Raises
    ------
    IncompleteOutputError
        Where other files have changed since.
    ImageError, UsageError
        Where it has left images out that may not be left out, or did not write published files.
    """
    records = tiles.earlier_files()
    layout, table = ScoreLayout(folder), plan.source.table
    plots = {path.as_posix() for path in _picture_paths(plan)}
    _refuse_changed(folder, [record for record in records if record.name not in plots])
    displacements = LikelihoodLayout(_NO_FOLDER.folder).displacements.as_posix()
    if plan.options.published and displacements not in {record.name for record in records}:
        msg = (
            f"{folder} holds a finished run without --published, and how it came to its poses is "
            "not kept. Use --overwrite to score again, or another folder."
        )
        raise UsageError(msg)
    rejects = read_rejects(layout.rejects, table.metadata_files)
    _refuse_rejects(plan, [reject for reject in rejects if reject not in plan.source.rejects])
    whole = {record.name for record in records if not record.fault(folder)}
    if plan.options.plots and not whole.issuperset(plots):
        rows = _rows_without(table, rejects)
        records = tiles.add(
            lambda drafts: _write_pictures(plan, read_results(folder), rows, drafts)
        )
    n_tiles = len(plan.structures) * len(plan.blocks)
    return ScoreReport(
        folder=folder,
        structures=tuple(structure.name for structure in plan.structures),
        log_likelihood_integrated=np.load(layout.matrix, allow_pickle=False),
        rejects=rejects,
        notices=plan.notices,
        n_tiles=n_tiles,
        n_tiles_kept=n_tiles,
        files=tuple(record.name for record in records),
        seconds=time.perf_counter() - started,
    )


def _refuse_changed(folder: Path, records: Sequence[FileRecord]) -> None:
    faults = [fault for record in records if (fault := record.fault(folder))]
    if not records:
        faults = [f"{RECORD_NAME} lists no files"]
    if faults:
        raise IncompleteOutputError(
            Problem(
                message=f"{counted(len(faults), 'file')} of a finished run cannot be used",
                file=str(folder),
                places=faults,
                remedy="Put them back, or score again with --overwrite or into another folder.",
            )
        )


def _rows_without(table: ParticleTable, rejects: Sequence[Reject]) -> np.ndarray:
    """Positions in a table of the rows that were not left out."""
    left_out = {(file, row) for file, row, *_ in rejects}
    names = zip(table.metadata_index.tolist(), table.source_row.tolist(), strict=True)
    return np.flatnonzero([name not in left_out for name in names])
