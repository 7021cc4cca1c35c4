"""Long work cut into tiles, each of which is complete or absent whenever the work is killed.

Tiles and drafts lie in a folder beside the results, ``.cryolike-wip``. When all tiles are there the
results are made of them in that folder, and moved into place; the record, which is written last,
lists them. Before that a list says which files are about to be moved, so that those of a run that
was killed meanwhile are known.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from cryolike.errors import FolderInUseError, OutputError, OutputExistsError
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import FileRecord, InputRecord, canonical_json, checksum_of_file
from cryolike.store.writer import (
    CHOOSE_ANOTHER,
    acquire_lock,
    refuse_locked,
    write_arrays,
    writing,
)

__all__ = ["RECORD_NAME", "TileFolder", "WorkHeader", "refuse_existing_scores"]

RECORD_NAME = "scores.json"
"""What a finished run was asked to do, and the files it wrote."""

RESUME_ADVICE = "What is computed is kept: run the same command again with --resume (resume=True)."
"""After an error."""

_HEADER, _RESULTS, _PLACED = "score.json", "results", "placed.json"


@dataclass(frozen=True, kw_only=True)
class WorkHeader:
    """What a run was asked to do; two runs with equal headers compute equal tiles.

    Parameters
    ----------
    settings
        Plain values by name; groups of settings are mappings of their own.
    inputs
        Files that are read.
    """

    settings: Mapping[str, Any]
    inputs: tuple[InputRecord, ...]

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`."""
        inputs = tuple(InputRecord(**record) for record in values["inputs"])
        return cls(settings=values["settings"], inputs=inputs)

    def differences(self, earlier: WorkHeader) -> list[str]:
        """Say how what was asked for differs from an earlier run, and which files have changed."""
        changed = [change for record in earlier.inputs if (change := record.change())]
        ours, theirs = _flat(json.loads(self.to_json())), _flat(json.loads(earlier.to_json()))
        found = [
            f"{key}: {theirs.get(key)!r} then, {ours.get(key)!r} now"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        if not (changed or found) and earlier.inputs != self.inputs:
            found = ["other input files"]
        return changed + found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name every setting, those of groups with the name of their group before."""
    flat: dict[str, Any] = {}
    for key, value in values["settings"].items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


class TileFolder:
    """An output folder while tiles are computed; a context manager.

    Parameters
    ----------
    folder
        Made where it does not exist.
    header
        What the run is asked to do.
    resume
        Keep the tiles of an earlier run of the same header.
    overwrite
        Remove tiles and results of an earlier run first.
    result_names
        Files that will be written; without `overwrite`, none that is there is replaced.

    Raises
    ------
    OutputExistsError
        On entering, where there are results or tiles and neither option is given, or those of
        another run are to be resumed. Nothing has been changed then.
    FolderInUseError
        On entering, where another process writes to the folder.
    """

    def __init__(
        self,
        folder: Path,
        header: WorkHeader,
        *,
        resume: bool = False,
        overwrite: bool = False,
        result_names: Sequence[str] = (),
    ) -> None:
        self._layout = OutputLayout(folder)
        self._result_names = tuple(result_names)
        self._header, self._resume, self._overwrite = header, resume, overwrite
        self._record = folder / RECORD_NAME
        self._wip = self._layout.wip
        self._placed = self._wip / _PLACED
        self._lock: IO[str] | None = None
        self._is_kept = False
        self.is_finished = False
        """Whether an earlier run has done all of it."""

    def __enter__(self) -> Self:
        made = not self._layout.folder.exists()
        self.check()
        self._is_kept = self._wip.exists()
        try:
            with writing(self._layout.folder, CHOOSE_ANOTHER):
                self._wip.mkdir(parents=True, exist_ok=True)
                self._lock = acquire_lock(self._layout.wip_lock)
            self._prepare()
        except FolderInUseError:
            raise
        except BaseException:
            with suppress(OSError):
                self._leave(remove_wip=not self._is_kept)
                if made and not any(self._layout.folder.iterdir()):
                    self._layout.folder.rmdir()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            # The list of files that were being moved is still needed where that failed
            self._leave(remove_wip=self.is_finished and not self._placed.exists())

    def check(self) -> None:
        """Refuse what entering would refuse, and change nothing.

        Raises
        ------
        OutputExistsError, FolderInUseError
            As on entering.
        OutputError
            Where nothing may be written.
        """
        folder = self._layout.folder
        if self._layout.wip_lock.exists():
            refuse_locked(self._layout.wip_lock)
        if not (self._resume or self._overwrite):
            refuse_existing_scores(folder)
        if not self._overwrite:
            self._refuse_files_of_others()
        _refuse_other_content(self._layout)
        _refuse_unwritable(folder)
        if self._resume:
            self._refuse_other_run()

    def _prepare(self) -> None:
        """Find what counts of an earlier run, and remove the rest."""
        header_file = self._wip / _HEADER
        if self._resume:
            self._refuse_other_run()
            self.is_finished = self._record.exists() and not header_file.exists()
            if self.is_finished:
                return
        with writing(self._layout.folder, RESUME_ADVICE):
            if self._overwrite:
                self._remove_earlier()
            self._write_json(header_file, asdict(self._header))
            self._is_kept = True

    def _refuse_other_run(self) -> None:
        earlier = self._earlier_header()
        if earlier is not None and (differences := self._header.differences(earlier)):
            listed = "\n    ".join(differences[:10])
            msg = (
                f"{self._layout.folder} holds a run with other settings or input files:\n"
                f"    {listed}\n    → Resume with the same ones, use --overwrite, or another "
                "folder."
            )
            raise OutputExistsError(msg)

    def _refuse_files_of_others(self) -> None:
        if self._record.exists() or (self._wip / _HEADER).exists():
            return
        paths = [self._layout.folder / name for name in self._result_names]
        if present := [str(path) for path in paths if path.exists()]:
            msg = (
                f"{', '.join(present)} would be replaced. Choose another output folder, or "
                "--overwrite (overwrite=True)."
            )
            raise OutputExistsError(msg)

    def _earlier_header(self) -> WorkHeader | None:
        for path in (self._wip / _HEADER, self._record):
            if path.exists():
                try:
                    return WorkHeader.from_dict(json.loads(path.read_bytes()))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    msg = (
                        f"{path} is damaged ({error}), so the run cannot be resumed. Use "
                        "--overwrite, or another folder."
                    )
                    raise OutputExistsError(msg) from error
        return None

    def _remove_earlier(self) -> None:
        """Remove what an earlier run left, its record first."""
        self._is_kept = True
        names = self._known_names()
        self._write_json(self._placed, sorted(names))
        self._record.unlink(missing_ok=True)
        self._remove(names)
        self._clear_wip()

    def _remove(self, names: Iterable[str]) -> None:
        """Remove results, and folders below the output folder that are empty then."""
        folder = self._layout.folder.resolve()
        for name in names:
            path = (folder / name).resolve()
            if path.is_relative_to(folder):
                path.unlink(missing_ok=True)
                if path.parent != folder and path.parent.is_dir():
                    with suppress(OSError):
                        path.parent.rmdir()

    def _known_names(self) -> set[str]:
        """Files that an earlier run has put in place, or may have."""
        return {*self._placed_names(), *(file.name for file in self.earlier_files())}

    def _placed_names(self) -> list[str]:
        """Files that a run was moving when it was killed."""
        with suppress(OSError, ValueError):
            names = json.loads(self._placed.read_bytes())
            if isinstance(names, list):
                return [name for name in names if _is_text(name)]
        return []

    def earlier_files(self) -> tuple[FileRecord, ...]:
        """Files of a finished run, as its record lists them; none where that is damaged."""
        try:
            files = json.loads(self._record.read_bytes())["files"]
            records = tuple(FileRecord(**file) for file in files)
            # Joined with a folder, anything but a text would raise later
            return tuple(record for record in records if _is_text(record.name))
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def _write_json(self, target: Path, content: Any) -> None:
        draft = self._wip / f"{target.name}.part"
        draft.write_text(canonical_json(content), encoding="utf-8")
        draft.replace(target)

    def _clear_wip(self) -> None:
        for path in self._wip.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._layout.wip_lock:
                path.unlink()

    def _leave(self, *, remove_wip: bool) -> None:
        try:
            if remove_wip:
                self._clear_wip()
                self._layout.wip_lock.unlink(missing_ok=True)
                self._wip.rmdir()
        finally:
            if self._lock is not None:
                self._lock.close()

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Read a tile; None where it is absent or damaged."""
        try:
            # Its parts have checksums, which tell where a disk kept less than it promised
            path = self._wip / f"{name}.npz"
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                return {key: data[key] for key in data.files}
        except Exception:  # zipfile and numpy raise a dozen kinds for damaged files
            return None

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a tile; afterwards it is complete, before it is absent.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        path = self._wip / f"{name}.npz"
        draft = path.with_suffix(".part")
        with writing(path, RESUME_ADVICE):
            with draft.open("wb") as file:
                write_arrays(file, arrays)
            draft.replace(path)

    def finish(self, write_results: Callable[[Path], None]) -> tuple[FileRecord, ...]:
        """Make the results, put them in place, and end the run.

        Parameters
        ----------
        write_results
            Writes all files into the folder that it is given.

        Returns
        -------
        tuple of FileRecord
            The files, by their names below the output folder.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        with writing(self._layout.folder, RESUME_ADVICE):
            made = self._put_in_place(write_results)
            # Those of a run that was killed here, and was to write others
            self._remove(self._known_names() - {record.name for record in made})
            records = self._write_record(made)
            # Without it a run is finished
            (self._wip / _HEADER).unlink()
        self.is_finished = True
        return records

    def add(self, write_files: Callable[[Path], None]) -> tuple[FileRecord, ...]:
        """Add files to the results of a finished run.

        Parameters
        ----------
        write_files
            Writes them into the folder that it is given.

        Returns
        -------
        tuple of FileRecord
            All files of the run.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        with writing(self._layout.folder, RESUME_ADVICE):
            new = {record.name: record for record in self._put_in_place(write_files)}
            records = {record.name: record for record in self.earlier_files()} | new
            return self._write_record([records[name] for name in sorted(records)])

    def _put_in_place(self, write_files: Callable[[Path], None]) -> list[FileRecord]:
        """Write files in the folder of unfinished work, and move all of them."""
        drafts, folder = self._wip / _RESULTS, self._layout.folder
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir()
        write_files(drafts)
        made = sorted(path for path in drafts.rglob("*") if path.is_file())
        records = [_file_record(path, drafts) for path in made]
        names = {record.name for record in records}
        self._write_json(self._placed, sorted(names.union(self._placed_names())))
        for path, record in zip(made, records, strict=True):
            target = folder / record.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        return records

    def _write_record(self, records: Sequence[FileRecord]) -> tuple[FileRecord, ...]:
        content = asdict(self._header) | {"files": [asdict(record) for record in records]}
        self._write_json(self._record, content)
        self._placed.unlink()
        return tuple(records)


def _is_text(name: Any) -> bool:
    return isinstance(name, str) and "\0" not in name


def _file_record(path: Path, folder: Path) -> FileRecord:
    return FileRecord(
        name=path.relative_to(folder).as_posix(),
        n_bytes=path.stat().st_size,
        xxh3_128=checksum_of_file(path),
    )


def refuse_existing_scores(folder: Path) -> None:
    """Refuse a folder that holds the results of a scoring run, finished or not.

    Raises
    ------
    OutputExistsError
        Where it does.
    """
    layout = OutputLayout(folder)
    present = [path for path in (folder / RECORD_NAME, layout.wip / _HEADER) if path.exists()]
    if present:
        state = "a finished run" if present[0].name == RECORD_NAME else "an unfinished run"
        msg = (
            f"{folder} already holds {state} of scoring. Go on with it with --resume "
            "(resume=True), replace it with --overwrite (overwrite=True), or choose another folder."
        )
        raise OutputExistsError(msg)


def _refuse_other_content(layout: OutputLayout) -> None:
    """Refuse what would be mixed with, or hidden by, results of scoring."""
    if layout.folder.exists() and not layout.folder.is_dir():
        msg = f"{layout.folder} is a file, not a folder. Choose another output folder."
        raise OutputExistsError(msg)
    results = [path for path in layout.results_present() if path != layout.rejects]
    if layout.wip_header.exists() or results:
        msg = f"{layout.folder} holds a converted set. Choose another output folder for scores."
        raise OutputExistsError(msg)


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be made, or written to."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        msg = f"{existing} is a file, not a folder. Choose another output folder."
        raise OutputExistsError(msg)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{existing} cannot be written: no permission. {CHOOSE_ANOTHER}")
