"""A tensor's file, as `torch.save` writes it, part by part: it is never whole in memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import xxhash
from isal.isal_zlib import crc32

from cryolike.store.manifest import FileRecord

__all__ = ["TensorFile"]

_LOCAL_HEADER_BYTES = 30
_DESCRIPTOR = b"PK\x07\x08"
_CENTRAL_HEADER = b"PK\x01\x02"
_CENTRAL_HEADER_BYTES = 46
_CENTRAL_CRC = 16


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
        # Memory that is never touched takes none
        tensor = torch.empty(tuple(shape), dtype=dtype)
        self._n_rows, self._n_bytes = shape[0], tensor.nbytes
        self._file = path.open("w+b")
        try:
            with torch.serialization.skip_data():
                torch.save(tensor, self._file)
            self._file.flush()
            self._start, self._directory = self._places()
            self._hash, self._crc, self._n_written = xxhash.xxh3_128(), 0, 0
            self._file.seek(0)
            self._hash.update(self._file.read(self._start))
            self._file.seek(self._start)
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

    def _places(self) -> tuple[int, int]:
        """Where the values begin, and the archive's record of them."""
        with zipfile.ZipFile(self._file) as archive:
            (entry,) = (info for info in archive.infolist() if info.filename.endswith("/data/0"))
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        start = entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        self._file.seek(start + self._n_bytes)
        tail = self._file.read()
        directory = tail.rindex(entry.filename.encode()) - _CENTRAL_HEADER_BYTES
        if not (tail.startswith(_DESCRIPTOR) and tail[directory:].startswith(_CENTRAL_HEADER)):
            msg = "this version of PyTorch lays files out in a way that cryolike does not know"
            raise RuntimeError(msg)
        return start, directory

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
        end = self._start + self._n_bytes
        self._file.seek(end)
        tail = bytearray(self._file.read())
        for place in (len(_DESCRIPTOR), self._directory + _CENTRAL_CRC):
            tail[place : place + 4] = self._crc.to_bytes(4, "little")
        self._file.seek(end)
        self._file.write(tail)
        self._file.close()
        self._hash.update(tail)
        return FileRecord(name=name, n_bytes=end + len(tail), xxh3_128=self._hash.hexdigest())
