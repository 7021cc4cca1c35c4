"""Writing a run's output so that each file is complete or absent, whenever the run is killed.

Files are written in a folder beside the results, ``.cryolike-wip``, and renamed into place; a
journal there lists the stacks that are complete. When all are, the manifest is put in place and
that folder goes.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
import xxhash

from cryolike.errors import FolderInUseError, OutputError, OutputExistsError
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import (
    FileRecord,
    Manifest,
    RunHeader,
    StackRecord,
    canonical_json,
)
from cryolike.store.tensor_file import TensorFile

__all__ = [
    "Reject",
    "RunFolder",
    "StackContent",
    "TensorDraft",
    "check_free_space",
    "refuse_existing_results",
    "refuse_locked",
]

Reject = tuple[int, int, str, str]
"""A row left out: (metadata file, source row, image name, reason)."""

CHOOSE_ANOTHER = "Choose another output folder, or make room there and ask for permission to write."

RESUME_HINT = (
    "Complete stacks are kept: run the same command again with --resume (skip_exist=True)."
)


class TensorDraft:
    """Polar images of a stack while they are written; a context manager.

    What is not given to `RunFolder.write_stack` is gone at the end.

    Parameters
    ----------
    path
        Where to write.
    target
        Where the file will be when it is complete; errors name it.
    shape
        (n_images, n_shells, n_inplanes).
    dtype
        Of the images.
    """

    def __init__(
        self, path: Path, target: Path, shape: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        self.path, self.target, self.shape, self.dtype = path, target, shape, dtype
        try:
            with writing(target):
                self._file = TensorFile(path, shape, dtype)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, images: torch.Tensor) -> None:
        """Write the next images.

        Parameters
        ----------
        images
            Contiguous, on the processor.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        with writing(self.target):
            self._file.append(images.numpy())

    def read(self, position: int) -> torch.Tensor:
        """Return an image written before, as (1, n_shells, n_inplanes)."""
        with writing(self.target):
            values = self._file.read(position)
        return torch.frombuffer(bytearray(values), dtype=self.dtype).reshape(1, *self.shape[1:])

    def finish(self, name: str) -> FileRecord:
        """Close the file, which is complete then, and put it in place."""
        with writing(self.target):
            record = self._file.finish(name)
            self.target.parent.mkdir(exist_ok=True)
            self.path.replace(self.target)
        return record

    def close(self) -> None:
        """Close the file, and remove it where it is not in place."""
        # What could not be written is not wanted any more; a resumed run removes what stays
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class StackContent:
    """One stack as it is to be written.

    Parameters
    ----------
    index
        Its counter.
    draft
        Its polar images, all of them written; None where no image of the stack can be used.
    metadata
        Plain arrays, none of objects.
    rows
        As in `StackRecord`.
    rejected
        Images left out of it.
    plots
        PNG files by name, as bytes.
    """

    index: int
    draft: TensorDraft | None
    metadata: Mapping[str, np.ndarray]
    rows: tuple[tuple[int, int, int], ...]
    rejected: tuple[Reject, ...] = ()
    plots: Mapping[str, bytes] = field(default_factory=dict)


class RunFolder:
    """An output folder while a run writes to it; a context manager.

    Parameters
    ----------
    folder
        Made where it does not exist.
    header
        What the run is asked to do.
    skip_exist
        Keep the complete stacks of an earlier run of the same header.
    overwrite
        Remove results of an earlier run first.

    Raises
    ------
    OutputExistsError
        On entering, where there are results and neither option is given, or results of another
        run are to be resumed. Nothing has been changed then.
    FolderInUseError
        On entering, where another process writes to the folder.
    """

    def __init__(
        self, folder: Path, header: RunHeader, *, skip_exist: bool = False, overwrite: bool = False
    ) -> None:
        self.layout = OutputLayout(folder)
        self._header, self._skip_exist, self._overwrite = header, skip_exist, overwrite
        self._lock: IO[str] | None = None
        self._made_folder = self._made_wip = False
        self.records: dict[int, StackRecord] = {}
        """Complete stacks by counter, those of earlier runs included."""

    def __enter__(self) -> Self:
        if self.layout.folder.exists() and not self.layout.folder.is_dir():
            msg = f"{self.layout.folder} is a file, not a folder. Choose another output folder."
            raise OutputExistsError(msg)
        if not (self._skip_exist or self._overwrite):
            refuse_existing_results(self.layout.folder)
        self._made_folder = not self.layout.folder.exists()
        self._made_wip = not self.layout.wip.exists()
        try:
            with writing(self.layout.folder, CHOOSE_ANOTHER if self._made_wip else RESUME_HINT):
                self.layout.wip.mkdir(parents=True, exist_ok=True)
                self._lock = acquire_lock(self.layout.wip_lock)
            if not (self._skip_exist or self._overwrite):
                # A run that finished since we looked, before we held the lock
                _refuse_results(self.layout, self.layout.results_present())
            self._prepare()
        except FolderInUseError:
            raise
        except BaseException:
            self._leave_after_error(remove_wip=self._made_wip and not self._is_wip_needed())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._leave_after_error(remove_wip=not self._is_wip_needed())
            return
        with writing(self.layout.folder):
            self._leave(remove_wip=not self._is_wip_needed())

    def _is_wip_needed(self) -> bool:
        """Whether wip holds the only record of what results there are."""
        is_finished = self.layout.manifest.exists()
        has_results = self.layout.wip_journal.exists() and bool(self.layout.results_present())
        return has_results and not is_finished

    def _prepare(self) -> None:
        """Find what counts of an earlier run, and remove the rest.

        Whenever this is killed, the records left describe all results that count.
        """
        if self._overwrite:
            with writing(self.layout.folder):
                self.layout.wip_journal.unlink(missing_ok=True)
        elif self._skip_exist:
            earlier = self._earlier_run()
            if earlier is not None:
                header, records = earlier
                self._refuse_other_run(header)
                self.records = {r.index: r for r in records if self._is_intact(r)}
                if self.is_finished:
                    return
        with writing(self.layout.folder):
            lines = [_journal_line(self.records[i]) for i in sorted(self.records)]
            _write_text(self.layout.wip_journal, "".join(lines))
            _write_text(self.layout.wip_header, self._header.to_json())
            self.layout.manifest.unlink(missing_ok=True)
            self._remove_remnants()

    def _earlier_run(self) -> tuple[RunHeader, tuple[StackRecord, ...]] | None:
        if self.layout.manifest.exists() and not self._has_begun():
            manifest = Manifest.load(self.layout.manifest)
            return manifest.header, manifest.stacks
        if self.layout.wip_header.exists():
            try:
                header = RunHeader.from_dict(json.loads(self.layout.wip_header.read_text()))
                return header, tuple(_read_journal(self.layout.wip_journal))
            except (ValueError, KeyError, TypeError) as error:
                msg = (
                    f"{self.layout.wip} is damaged ({error}), so the run cannot be resumed. Use "
                    "--overwrite, or another folder."
                )
                raise OutputExistsError(msg) from error
        if present := self.layout.results_present():
            msg = (
                f"{self.layout.folder} holds {present[0].name} and others, but no record of the "
                "run that wrote them, so it cannot be resumed. Use --overwrite, or another folder."
            )
            raise OutputExistsError(msg)
        return None

    def _has_begun(self) -> bool:
        """Whether this very run began to replace a finished one and was cut off at once."""
        if not self.layout.wip_journal.exists():
            return False
        try:
            return self.layout.wip_header.read_text(encoding="utf-8") == self._header.to_json()
        except (OSError, UnicodeDecodeError):
            return False

    def _refuse_other_run(self, earlier: RunHeader) -> None:
        changes = [change for record in earlier.inputs if (change := record.change())]
        if changes:
            listed = "\n    ".join(changes[:10])
            msg = (
                f"{self.layout.folder} cannot be resumed: {len(changes):,} source files have "
                f"changed since:\n    {listed}\n    → Convert anew with --overwrite."
            )
            raise OutputExistsError(msg)
        differences = self._header.differences(earlier)
        if differences or earlier.inputs != self._header.inputs:
            listed = "\n    ".join(differences or ["other source files"])
            msg = (
                f"{self.layout.folder} holds a run with other settings:\n    {listed}\n"
                "    → Use the same settings to resume, --overwrite, or another folder."
            )
            raise OutputExistsError(msg)

    def _is_intact(self, record: StackRecord) -> bool:
        return all(self._is_file_intact(file) for file in record.files)

    def _is_file_intact(self, file: FileRecord) -> bool:
        return not file.fault(self.layout.folder)

    @property
    def is_complete(self) -> bool:
        """Whether all stacks of the run are there."""
        return len(self.records) == self._header.n_stacks

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: all stacks, the manifest and what else it lists."""
        if not (self.is_complete and self.layout.manifest.exists()):
            return False
        files = Manifest.load(self.layout.manifest).files
        return all(self._is_file_intact(file) for file in files)

    def draft(
        self, index: int, shape: tuple[int, int, int], dtype: torch.dtype, suffix: str = ""
    ) -> TensorDraft:
        """Begin the polar images of a stack.

        Parameters
        ----------
        index
            Counter of the stack.
        shape
            (n_images, n_shells, n_inplanes).
        dtype
            Of the images.
        suffix
            Tells one draft of a stack from another.

        Raises
        ------
        OutputError
            Where the disk refuses.
        """
        target = self.layout.path(self.layout.tensor_name(index))
        return TensorDraft(self.layout.wip / (target.name + suffix), target, shape, dtype)

    def write_stack(self, content: StackContent) -> StackRecord:
        """Write one stack; afterwards it is complete, before it is absent.

        Raises
        ------
        OutputError
            Where the disk is full or refuses.
        """
        names = self.layout.tensor_name(content.index), self.layout.metadata_name(content.index)
        files = []
        if content.draft is not None:
            files = [
                content.draft.finish(names[0]),
                self._write_file(names[1], lambda file: write_arrays(file, content.metadata)),
            ]
            files += [
                self._write_file(name, partial(_write_bytes, data=data))
                for name, data in content.plots.items()
            ]
        record = StackRecord(
            index=content.index,
            n_images=0 if content.draft is None else content.draft.shape[0],
            rows=content.rows,
            rejected=content.rejected,
            files=tuple(files),
        )
        with writing(self.layout.wip_journal), self.layout.wip_journal.open("a") as journal:
            journal.write(_journal_line(record))
        self.records[record.index] = record
        return record

    def finish(self, rejected_rows: tuple[Reject, ...] = ()) -> Manifest:
        """Put the list of rejects and the manifest in place and remove ``.cryolike-wip``.

        Parameters
        ----------
        rejected_rows
            Rows left out before any image was read.

        Returns
        -------
        Manifest
            Of the finished run.
        """
        stacks = tuple(self.records[index] for index in sorted(self.records))
        rejects = [*rejected_rows, *(reject for stack in stacks for reject in stack.rejected)]
        files = []
        if rejects:
            data = rejects_csv(rejects, [record.path for record in self._header.inputs])
            files.append(self._write_file(self.layout.rejects.name, lambda file: file.write(data)))
        manifest = Manifest(header=self._header, stacks=stacks, files=tuple(files))
        with writing(self.layout.manifest):
            _write_text(self.layout.manifest, manifest.to_json(), via=self.layout.wip)
        return manifest

    def _write_file(self, name: str, write: Callable[[_HashingFile], Any]) -> FileRecord:
        target = self.layout.path(name)
        draft = self.layout.wip / target.name
        try:
            with writing(target):
                target.parent.mkdir(exist_ok=True)
                with draft.open("wb", buffering=0) as raw:
                    file = _HashingFile(raw)
                    write(file)
                draft.replace(target)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        return FileRecord(name=name, n_bytes=file.n_bytes, xxh3_128=file.digest.hexdigest())

    def _remove_remnants(self) -> None:
        """Remove files of stacks that do not count, and drafts."""
        kept = {self.layout.path(file.name) for r in self.records.values() for file in r.files}
        for path in self.layout.results_present():
            if path not in kept:
                path.unlink()
        self._clear_wip(self.layout.wip_header, self.layout.wip_journal)

    def _clear_wip(self, *kept: Path) -> None:
        for path in self.layout.wip.iterdir():
            if path not in (self.layout.wip_lock, *kept):
                path.unlink()

    def _leave_after_error(self, *, remove_wip: bool) -> None:
        """Leave; what cannot be removed stays, and the first error is the one that is told."""
        with suppress(OSError):
            self._leave(remove_wip=remove_wip)

    def _leave(self, *, remove_wip: bool) -> None:
        """Unlock; where `remove_wip`, leave no trace of having been here."""
        try:
            if remove_wip:
                self._clear_wip()
                self.layout.wip_lock.unlink(missing_ok=True)
                self.layout.wip.rmdir()
                self.layout.remove_empty_folders()
                if self._made_folder and not any(self.layout.folder.iterdir()):
                    self.layout.folder.rmdir()
        finally:
            if self._lock is not None:
                self._lock.close()


def refuse_existing_results(folder: Path) -> None:
    """Refuse a folder that holds anything of ours.

    Parameters
    ----------
    folder
        Output folder; it need not exist.

    Raises
    ------
    FolderInUseError
        Where another process writes to it.
    OutputExistsError
        Where there are results, finished or not.
    """
    layout = OutputLayout(folder)
    present = layout.results_present()
    if layout.wip_lock.exists():
        present.append(layout.wip)
        refuse_locked(layout.wip_lock)
    _refuse_results(layout, present)


def _refuse_results(layout: OutputLayout, present: list[Path]) -> None:
    if present:
        msg = (
            f"{layout.folder} already holds {len(present):,} files of a conversion "
            f"(first: {present[0].name}). Resume that run with --resume (skip_exist=True), "
            "replace it with --overwrite (overwrite=True), or choose another folder."
        )
        raise OutputExistsError(msg)


class _HashingFile(io.RawIOBase):
    """A file that knows the checksum of what was written to it."""

    def __init__(self, raw: io.RawIOBase | IO[bytes]) -> None:
        self._raw = raw
        self.n_bytes = 0
        self.digest = xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self.n_bytes += len(view)
        left = view
        while len(left):
            left = left[self._raw.write(left) :]
        return len(view)


def _write_bytes(file: _HashingFile, data: bytes) -> None:
    file.write(data)


def write_arrays(file: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.npz`` whose bytes depend on its content only.

    Parameters
    ----------
    file
        Binary file to write to; it need not be seekable.
    arrays
        None of them of objects.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # ZipInfo without a date: numpy.savez would write the present time
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Refuse to start what the disk cannot hold.

    Parameters
    ----------
    folder
        Output folder; it need not exist.
    n_bytes
        That will be written.

    Raises
    ------
    OutputError
        Where less is free.
    """
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        msg = (
            f"{folder}: {n_bytes / 1e9:.1f} GB will be written, but only {free / 1e9:.1f} GB are "
            "free there. Choose another disk, fewer rows, a lower resolution factor, or "
            "downsampling."
        )
        raise OutputError(msg)


@contextmanager
def writing(target: Path, advice: str = RESUME_HINT) -> Iterator[None]:
    """Turn what the system says while writing into one clear error.

    Parameters
    ----------
    target
        What is written.
    advice
        What the user can do.
    """
    try:
        yield
    except (FolderInUseError, OutputError):
        raise
    except (OSError, RuntimeError) as error:
        # torch raises RuntimeError where its writer fails
        number = getattr(error, "errno", None)
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file would be larger than allowed",
            errno.EACCES: "no permission",
            errno.EROFS: "the file system is read-only",
        }.get(number or 0, getattr(error, "strerror", None) or str(error))
        msg = f"{target} cannot be written: {reason}. {advice}"
        raise OutputError(msg) from error


def acquire_lock(path: Path) -> IO[str]:
    """Hold a folder of unfinished work until the file is closed.

    Parameters
    ----------
    path
        The lock in that folder; it names this process afterwards.

    Raises
    ------
    FolderInUseError
        Where another process holds it.
    """
    while True:
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise _in_use(path) from error
        # A run that has just finished may have removed the file before we locked it
        if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            break
        lock.close()
        path.parent.mkdir(exist_ok=True)
    try:
        # Not by way of the file's buffer, which would be written again when it is closed
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        lock.close()
        raise
    return lock


def refuse_locked(path: Path) -> None:
    """Refuse a folder of unfinished work that another process holds.

    Parameters
    ----------
    path
        The lock in that folder.

    Raises
    ------
    FolderInUseError
        Where another process holds it.
    """
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(path) from error


def _in_use(path: Path) -> FolderInUseError:
    owner = path.read_text() or "another process"
    msg = f"{path.parent.parent} is being written to by {owner}. Wait for it, or stop it."
    return FolderInUseError(msg)


def _write_text(path: Path, text: str, via: Path | None = None) -> None:
    draft = (via or path.parent) / f"{path.name}.part"
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _journal_line(record: StackRecord) -> str:
    text = canonical_json(asdict(record))
    return f"{xxhash.xxh3_128_hexdigest(text.encode())} {text}\n"


def _read_journal(path: Path) -> Iterator[StackRecord]:
    """Stacks that the journal lists; a line that was cut short or changed does not count."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        digest, _, text = line.partition(b" ")
        if text.endswith(b"\n") and xxhash.xxh3_128_hexdigest(text[:-1]).encode() == digest:
            yield StackRecord.from_dict(json.loads(text))


def rejects_csv(rejects: Sequence[Reject], metadata_files: Sequence[str]) -> bytes:
    """List rows left out.

    Parameters
    ----------
    rejects
        In any order.
    metadata_files
        That they count from.

    Returns
    -------
    bytes
        Names that are not UTF-8 are the bytes they came in as.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["metadata_file", "source_row", "image_name", "reason"])
    for metadata_index, source_row, image_name, reason in sorted(rejects):
        table.writerow([metadata_files[metadata_index], source_row, image_name, reason])
    return text.getvalue().encode("utf-8", "surrogateescape")
