"""A tensor's file, as `torch.save` writes it, part by part: it is never whole in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import torch
import xxhash
from isal.isal_zlib import crc32
from torch._subclasses.fake_tensor import FakeTensorMode

from cryolike.store.manifest import FileRecord

__all__ = ["TensorFile"]

_DESCRIPTOR = b"PK\x07\x08"
_CENTRAL_HEADER = b"PK\x01\x02"
_CENTRAL_CRC = 16


class _Frame:
    """A file in memory that takes what PyTorch writes around the values it leaves out."""

    def __init__(self) -> None:
        self.before, self.after = bytearray(), bytearray()
        self.n_left_out = 0

    def write(self, data: Any) -> int:
        part = self.after if self.n_left_out else self.before
        part += data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_CUR or self.n_left_out:
            raise _UNKNOWN_LAYOUT
        self.n_left_out = offset
        return len(self.before) + offset

    def flush(self) -> None:
        """Do nothing: all is in memory."""


_UNKNOWN_LAYOUT = RuntimeError(
    "this version of PyTorch lays files out in a way that cryolike does not know"
)


class TensorFile:
    """A file that `torch.load` will read, while it is written; a context manager.

    PyTorch writes all but the values and leaves room for them; the file is a ZIP archive without
    compression, so the values lie there as in memory. Their CRC, which comes after them, is put in
    at the end.

    Parameters
    ----------
    path
        Where to write; replaced where it exists.
    shape
        Of the tensor.
    dtype
        Of the tensor.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        frame = _frame_around(tuple(shape), dtype)
        self._n_rows, self._n_bytes = shape[0], math.prod(shape) * dtype.itemsize
        self._start, self._tail = len(frame.before), frame.after
        self._places_of_crc = _places_of_crc(frame.after)
        if frame.n_left_out != self._n_bytes:
            raise _UNKNOWN_LAYOUT
        self._hash, self._crc, self._n_written = xxhash.xxh3_128(frame.before), 0, 0
        self._file = path.open("w+b")
        try:
            self._file.write(frame.before)
        except BaseException:
            self._file.close()
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

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def append(self, values: Any) -> None:
        """Write the next values.

        Parameters
        ----------
        values
            Contiguous, with a buffer of bytes as in memory.
        """
        data = memoryview(values).cast("B")
        self._n_written += len(data)
        if self._n_written > self._n_bytes:
            msg = f"{self._n_written - self._n_bytes:,} bytes more than the tensor has"
            raise ValueError(msg)
        self._hash.update(data)
        self._crc = crc32(data, self._crc)
        self._file.write(data)

    def read(self, position: int) -> bytes:
        """Read back what lies at a position of the first axis."""
        n_bytes = self._n_bytes // self._n_rows
        self._file.flush()
        return os.pread(self._file.fileno(), n_bytes, self._start + position * n_bytes)

    def finish(self, name: str) -> FileRecord:
        """Close the file, which is complete then.

        Parameters
        ----------
        name
            To record it by.
        """
        if self._n_written != self._n_bytes:
            msg = f"{self._n_bytes - self._n_written:,} bytes of the tensor are missing"
            raise ValueError(msg)
        for place in self._places_of_crc:
            self._tail[place : place + 4] = self._crc.to_bytes(4, "little")
        self._hash.update(self._tail)
        self._file.write(self._tail)
        self._file.close()
        return FileRecord(
            name=name,
            n_bytes=self._start + self._n_bytes + len(self._tail),
            xxh3_128=self._hash.hexdigest(),
        )


def _frame_around(shape: tuple[int, ...], dtype: torch.dtype) -> _Frame:
    """Have PyTorch write all of a file but the values."""
    frame = _Frame()
    file = cast("IO[bytes]", frame)
    try:
        # Memory that is never touched takes none
        tensor = torch.empty(shape, dtype=dtype)
    except RuntimeError:
        # The system does not promise more than it has; tensors without memory take seconds to load
        with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(torch.empty(shape, dtype=dtype), file)
        return frame
    with torch.serialization.skip_data():
        torch.save(tensor, file)
    return frame


def _places_of_crc(tail: bytes | bytearray) -> tuple[int, int]:
    """Where the CRC of the values goes: right after them, and in the archive's directory."""
    directory = tail.rindex(b"/data/0")
    directory = tail.rindex(_CENTRAL_HEADER, 0, directory)
    if not tail.startswith(_DESCRIPTOR):
        raise _UNKNOWN_LAYOUT
    return len(_DESCRIPTOR), directory + _CENTRAL_CRC
