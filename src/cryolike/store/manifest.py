"""What a run was asked to do and what it has written, as plain values and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from cryolike.errors import IncompleteOutputError

__all__ = [
    "FORMAT_VERSION",
    "FileRecord",
    "InputRecord",
    "Manifest",
    "RunHeader",
    "StackRecord",
    "checksum_of_file",
    "checksum_of_rows",
    "ranges_of_rows",
    "rows_of_ranges",
]

FORMAT_VERSION = 1
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of ours.

    Parameters
    ----------
    name
        Relative to the output folder.
    n_bytes
        Size.
    xxh3_128
        Checksum of the content, hexadecimal.
    """

    name: str
    n_bytes: int
    xxh3_128: str

    def fault(self, folder: Path, *, by_content: bool = True) -> str:
        """Say how the file in an output folder differs from its record; empty where it does not.

        Parameters
        ----------
        folder
            The output folder.
        by_content
            Whether to read it, or only look at its size.
        """
        path = folder / self.name
        try:
            size = path.stat().st_size
            if size != self.n_bytes:
                return f"{self.name} has {size:,} bytes, was written with {self.n_bytes:,}"
            if by_content and checksum_of_file(path) != self.xxh3_128:
                return f"{self.name} was changed: its checksum differs"
        except FileNotFoundError:
            return f"{self.name} is missing"
        except OSError as error:
            return f"{self.name} cannot be read ({error.strerror})"
        return ""


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """A file that was read.

    Parameters
    ----------
    path
        Absolute; symbolic links are kept.
    n_bytes
        Size.
    mtime_ns
        Time of the last modification, ns since 1970.
    """

    path: str
    n_bytes: int
    mtime_ns: int

    @classmethod
    def of_path(cls, path: str | Path) -> Self:
        """Record a file as it is now."""
        state = Path(path).stat()
        return cls(
            path=str(Path(path).absolute()), n_bytes=state.st_size, mtime_ns=state.st_mtime_ns
        )

    def change(self) -> str:
        """Say how the file differs from its record; empty where it does not."""
        try:
            now = InputRecord.of_path(self.path)
        except OSError as error:
            return f"{self.path} cannot be read any more ({error.strerror})"
        if now.n_bytes != self.n_bytes:
            return f"{self.path} had {self.n_bytes:,} bytes and has {now.n_bytes:,}"
        if now.mtime_ns != self.mtime_ns:
            return f"{self.path} was modified at another time than recorded"
        return ""


@dataclass(frozen=True, kw_only=True)
class StackRecord:
    """A stack that is complete.

    Parameters
    ----------
    index
        Its counter.
    n_images
        Images in it.
    rows
        Its source rows in order, as half-open ranges (metadata file, start, stop).
    rejected
        Images left out of it: (metadata file, source row, image name, reason).
    files
        Its tensor, metadata and plots.
    """

    index: int
    n_images: int
    rows: tuple[tuple[int, int, int], ...]
    rejected: tuple[tuple[int, int, str, str], ...] = ()
    files: tuple[FileRecord, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`."""
        return cls(
            index=values["index"],
            n_images=values["n_images"],
            rows=tuple((a, b, c) for a, b, c in values["rows"]),
            rejected=tuple((a, b, c, d) for a, b, c, d in values["rejected"]),
            files=tuple(FileRecord(**file) for file in values["files"]),
        )


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """What a run was asked to do; two runs with equal headers write equal stacks.

    Parameters
    ----------
    program
        Name and version.
    kind
        Layout of the input: 'star', 'cryosparc', 'job' or 'paired'.
    reader_arguments
        What the metadata was read with.
    options
        Of the conversion.
    descriptor
        Grids and precision.
    n_rows
        Rows chosen, before any was skipped.
    rows
        Checksum of which rows these are, in order, without those skipped.
    n_stacks
        Stacks the run makes.
    inputs
        Metadata files and stacks.
    """

    program: str
    kind: str
    reader_arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    descriptor: Mapping[str, Any]
    n_rows: int
    rows: str
    n_stacks: int
    inputs: tuple[InputRecord, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`."""
        inputs = tuple(InputRecord(**record) for record in values["inputs"])
        return cls(**{**values, "inputs": inputs})

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    def differences(self, other: RunHeader) -> list[str]:
        """Say how what was asked for differs from an earlier run; inputs aside.

        To skip unusable images now is no difference: a run that stops at them has written only
        stacks without any.
        """
        found = []
        ours, theirs = json.loads(self.to_json()), json.loads(other.to_json())
        if ours["options"].get("on_bad_image") == "skip":
            theirs["options"]["on_bad_image"] = "skip"
        for group in ("program", "kind", "reader_arguments", "options", "descriptor", "n_rows"):
            a, b = ours[group], theirs[group]
            if not isinstance(a, dict) or not isinstance(b, dict):
                a, b = {group: a}, {group: b}
            found += [
                f"{key}: {b.get(key)!r} then, {a.get(key)!r} now"
                for key in sorted(a.keys() | b.keys())
                if a.get(key) != b.get(key)
            ]
        if not found and ours["rows"] != theirs["rows"]:
            found.append("other rows were chosen")
        return found


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished run.

    Parameters
    ----------
    header
        What it was asked to do.
    stacks
        What it wrote, in order.
    files
        Further files of ours.
    """

    header: RunHeader
    stacks: tuple[StackRecord, ...]
    files: tuple[FileRecord, ...] = field(default=())

    def all_files(self) -> list[FileRecord]:
        """Every file of ours but the manifest itself."""
        return [*(file for stack in self.stacks for file in stack.files), *self.files]

    def to_json(self) -> str:
        """Canonical JSON with a checksum of itself."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        digest = xxhash.xxh3_128_hexdigest(canonical_json(content).encode())
        return canonical_json({**content, "checksum": digest})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a manifest.

        Raises
        ------
        IncompleteOutputError
            Where there is none, it was changed, or a newer version wrote it.
        """
        try:
            text = path.read_bytes().decode()
            values = json.loads(text)
            version = values.pop("format_version")
        except FileNotFoundError:
            if not path.parent.is_dir():
                msg = f"{path.parent}: there is no such folder."
                raise IncompleteOutputError(msg) from None
            msg = (
                f"{path.parent} holds no finished conversion (no {path.name}). If a run was "
                "interrupted, run it again with --resume (skip_exist=True)."
            )
            raise IncompleteOutputError(msg) from None
        except OSError as error:
            msg = f"{path} cannot be read ({error.strerror})."
            raise IncompleteOutputError(msg) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{path} is damaged ({error}). Convert again."
            raise IncompleteOutputError(msg) from error
        if version != FORMAT_VERSION:
            msg = (
                f"{path} has format version {version}; this program reads {FORMAT_VERSION}. "
                "Use the version of cryolike that wrote it."
            )
            raise IncompleteOutputError(msg)
        try:
            manifest = cls(
                header=RunHeader.from_dict(values["header"]),
                stacks=tuple(StackRecord.from_dict(stack) for stack in values["stacks"]),
                files=tuple(FileRecord(**file) for file in values["files"]),
            )
            is_changed = manifest.to_json() != text
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{path} is damaged ({error}). Convert again."
            raise IncompleteOutputError(msg) from error
        if is_changed:
            msg = f"{path} was changed after it was written. Convert again."
            raise IncompleteOutputError(msg)
        return manifest


def canonical_json(content: Any) -> str:
    """JSON that depends on the content only: a line for each entry of long lists."""
    if isinstance(content, dict) and ("stacks" in content or "inputs" in content):
        parts = []
        for key in sorted(content):
            value = content[key]
            if isinstance(value, (list, tuple)) and value:
                body = ",\n".join(_compact_json(entry) for entry in value)
                parts.append(f"{json.dumps(key)}: [\n{body}\n]")
            else:
                parts.append(f"{json.dumps(key)}: {_compact_json(value)}")
        return "{\n" + ",\n".join(parts) + "\n}\n"
    return _compact_json(content)


def _compact_json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def checksum_of_file(path: Path) -> str:
    """Checksum of a file's content, as in `FileRecord`."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def checksum_of_rows(metadata_index: np.ndarray, source_row: np.ndarray) -> str:
    """Checksum of rows and their order; both (n,)."""
    rows = np.stack([metadata_index, source_row], axis=1).astype("<i8")
    return xxhash.xxh3_128_hexdigest(rows.tobytes())


def ranges_of_rows(
    metadata_index: np.ndarray, source_row: np.ndarray
) -> tuple[tuple[int, int, int], ...]:
    """Rows as half-open ranges.

    Parameters
    ----------
    metadata_index, source_row
        Which file, and which row of it; (n,).

    Returns
    -------
    tuple
        (metadata file, start, stop) for each run of consecutive rows.
    """
    if source_row.size == 0:
        return ()
    is_break = (np.diff(source_row) != 1) | (np.diff(metadata_index) != 0)
    starts = np.concatenate([[0], np.flatnonzero(is_break) + 1])
    stops = np.concatenate([starts[1:], [source_row.size]]) - 1
    return tuple(
        (int(metadata_index[a]), int(source_row[a]), int(source_row[b]) + 1)
        for a, b in zip(starts, stops, strict=True)
    )


def rows_of_ranges(ranges: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Inverse of `ranges_of_rows`: (n, 2) of metadata file and source row."""
    parts = [
        np.stack([np.full(stop - start, file), np.arange(start, stop)], axis=1)
        for file, start, stop in ranges
    ]
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.int64)
