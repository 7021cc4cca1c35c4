"""Single images, by number, out of particle stacks in MRC files.

`StackReader` reads the images that are asked for and nothing else. Where they are in the file, it
takes from the header, as `cryolike.io.mrc_header.read_stack_header` gives it.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import IO

import numpy as np

from cryolike.errors import OutputError, Problem, StackError
from cryolike.io.mrc_header import (
    StackHeader,
    decompressor,
    open_stack,
    reason_of,
    stack_error,
    truncated,
    unreadable,
)

__all__ = ["StackReader"]

_BOUNCE_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_MAX_BYTES_PER_CALL = 1 << 30
_MAX_BUFFERS_PER_CALL = 1024
_MAX_DECOMPRESSED = 64


class StackReader:
    """Reads single images out of MRC stacks, as float32.

    Files stay open between calls, the most recently used ones. Several threads may read at the
    same time. Compressed files are decompressed into nameless temporary files, which are kept like
    open files.

    Parameters
    ----------
    max_open_files
        How many plain files are kept open, and how many decompressed ones; by default half of the
        files that the process may have open, at most 1,024, and 64.
    scratch_folder
        Where compressed files are decompressed to; the system's temporary folder by default.

    Raises
    ------
    ValueError
        If `max_open_files` is not positive.
    """

    def __init__(
        self, max_open_files: int | None = None, scratch_folder: str | None = None
    ) -> None:
        if max_open_files is not None and max_open_files < 1:
            msg = f"max_open_files is {max_open_files}, must be at least 1"
            raise ValueError(msg)
        self._scratch_folder = scratch_folder
        self._plain = _OpenFiles(max_open_files or _most_open_files())
        self._decompressed = _OpenFiles(max_open_files or _MAX_DECOMPRESSED)
        self._lock = threading.Lock()
        self._closed = False
        self._bounce = threading.local()

    def __enter__(self) -> StackReader:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; one that another thread still reads is closed when that is done."""
        with self._lock:
            self._closed = True
            for files in (self._plain, self._decompressed):
                files.limit = 0
                files.close_idle()

    def read(
        self,
        header: StackHeader,
        image_indices: np.ndarray,
        out: np.ndarray,
        out_positions: np.ndarray | None = None,
    ) -> None:
        """Read images of one stack.

        Parameters
        ----------
        header
            Of the stack, from `read_stack_header`.
        image_indices
            0-based numbers of the images, shape (n,), in any order; repeats are read once.
        out
            Takes the images as float32, C-contiguous, shape (m, box_px, box_px).
        out_positions
            Where in `out` each image goes, shape (n,), all different; 0 to n − 1 by default.

        Raises
        ------
        MissingFileError
            If the file is gone.
        StackError
            If the stack has fewer images, cannot be read, changed since its header was read, or
            does not decompress to just what its header says.
        OutputError
            If the temporary file for a compressed stack cannot be written.
        ValueError
            If `out` or the indices have a wrong shape or type, or the reader is closed.
        """
        indices, positions = _checked_request(header, image_indices, out, out_positions)
        if indices.size == 0:
            return
        with self._borrowed(header) as descriptor:
            if indices.size == 1:
                # Rows of many stacks in disorder come one by one, so this must be quick
                self._read_run(header, descriptor, int(indices[0]), positions.tolist(), out)
            else:
                self._read_any(header, descriptor, indices, positions, out)
            if not header.compression:
                _check_unchanged(header, descriptor)

    def _read_any(
        self,
        header: StackHeader,
        descriptor: int,
        indices: np.ndarray,
        positions: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Read images in any order, each of them once."""
        order = np.argsort(indices)
        indices, positions = indices[order], positions[order]
        is_first = np.append(True, np.diff(indices) != 0)
        self._read_distinct(header, descriptor, indices[is_first], positions[is_first], out)
        source = positions[is_first][np.cumsum(is_first) - 1]
        for repeat in np.flatnonzero(~is_first):
            out[positions[repeat]] = out[source[repeat]]

    def _read_distinct(
        self,
        header: StackHeader,
        descriptor: int,
        indices: np.ndarray,
        positions: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Read images whose indices ascend, each run of neighbours with few calls."""
        limit = _MAX_BYTES_PER_CALL if header.dtype == out.dtype else _BOUNCE_BYTES
        n_at_once = min(max(1, limit // header.image_bytes), _MAX_BUFFERS_PER_CALL)
        for start, end in _runs(indices, n_at_once):
            places = positions[start:end].tolist()
            self._read_run(header, descriptor, int(indices[start]), places, out)

    def _read_run(
        self,
        header: StackHeader,
        descriptor: int,
        first: int,
        positions: list[int],
        out: np.ndarray,
    ) -> None:
        """Read neighbouring images, few enough for one call."""
        if header.dtype == out.dtype:
            memory = out.data.cast("B")
            places = _destinations(memory, header.image_bytes, positions)
            _fill(header, descriptor, first, places)
        else:
            self._convert(header, descriptor, first, positions, out)

    def _convert(
        self,
        header: StackHeader,
        descriptor: int,
        first: int,
        positions: list[int],
        out: np.ndarray,
    ) -> None:
        """Read neighbouring images through a buffer and convert them."""
        n_bytes = len(positions) * header.image_bytes
        buffer: np.ndarray | None = getattr(self._bounce, "buffer", None)
        if buffer is None or buffer.size < n_bytes:
            buffer = np.empty(max(n_bytes, _BOUNCE_BYTES), np.uint8)
            self._bounce.buffer = buffer
        _fill(header, descriptor, first, [buffer.data[:n_bytes]])
        images = buffer[:n_bytes].view(header.dtype).reshape(-1, header.box_px, header.box_px)
        copy = _copy_half if header.dtype == np.float16 else np.copyto
        for image, position in zip(images, positions, strict=True):
            copy(out[position], image)

    @contextmanager
    def _borrowed(self, header: StackHeader) -> Iterator[int]:
        """Lend the descriptor of a file; it is not closed meanwhile."""
        files = self._decompressed if header.compression else self._plain
        with self._lock:
            if self._closed:
                msg = "the StackReader is closed"
                raise ValueError(msg)
            file = files.get((header.path, header.file_size, header.mtime_ns))
            file.n_users += 1
            files.close_idle()
        try:
            try:
                descriptor = file.descriptor(header, self._scratch_folder)
            except StackError as error:
                if not _is_out_of_files(error):
                    raise
                with self._lock:
                    self._plain.close_half()
                    self._decompressed.close_half()
                descriptor = file.descriptor(header, self._scratch_folder)
            yield descriptor
        finally:
            with self._lock:
                file.n_users -= 1
                files.close_idle()


class _OpenFiles:
    """Open files, the longest unused ones first; the reader's lock must be held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._files: OrderedDict[tuple[str, int, int], _OpenFile] = OrderedDict()

    def get(self, key: tuple[str, int, int]) -> _OpenFile:
        file = self._files.setdefault(key, _OpenFile())
        self._files.move_to_end(key)
        return file

    def close_half(self) -> None:
        """Keep fewer files from now on: others in this process want some too."""
        self.limit = max(1, min(self.limit, len(self._files)) // 2)
        self.close_idle()

    def close_idle(self) -> None:
        """Close files that nobody uses beyond the limit."""
        n_too_many = len(self._files) - self.limit
        if n_too_many > 0:
            idle = [key for key, file in self._files.items() if file.n_users == 0]
            for key in idle[:n_too_many]:
                self._files.pop(key).close()


def _is_out_of_files(error: StackError) -> bool:
    """Whether a stack could not be opened because too many files are open."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


def _most_open_files() -> int:
    """Half of the files that this process may have open, but no more than 1,024."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(1, min(1024, soft // 2))


class _OpenFile:
    """One open file and how many threads use it; opened at first use."""

    def __init__(self) -> None:
        self.n_users = 0
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def descriptor(self, header: StackHeader, scratch_folder: str | None) -> int:
        with self._lock:
            if self._file is None:
                self._file = _open_as_promised(header, scratch_folder)
            return self._file.fileno()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _checked_request(
    header: StackHeader,
    image_indices: np.ndarray,
    out: np.ndarray,
    out_positions: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and positions as int64.

    Raises
    ------
    StackError
        If an index is not one of an image of the stack.
    ValueError
        If shapes or types are wrong.
    """
    box = (header.box_px, header.box_px)
    if (
        out.ndim != 3
        or out.shape[1:] != box
        or out.dtype != np.float32
        or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        msg = f"out must be writeable C-contiguous float32 of shape (m, {box[0]}, {box[1]})"
        raise ValueError(msg)
    indices = _as_integers("image_indices", image_indices)
    if out_positions is None:
        positions = np.arange(indices.size)
    else:
        positions = _as_integers("out_positions", out_positions)
    if positions.size != indices.size or (
        positions.size > 1 and np.unique(positions).size != positions.size
    ):
        msg = "out_positions must be as many as image_indices, and all different"
        raise ValueError(msg)
    if not _all_below(positions, len(out)):
        msg = f"out_positions must be from 0 to {len(out) - 1}, the last of out"
        raise ValueError(msg)
    if not _all_below(indices, header.n_images):
        outside = indices[(indices < 0) | (indices >= header.n_images)]
        message = f"has {header.n_images:,} images; there is no image {int(outside[0]) + 1:,}"
        remedy = "Was the stack written again after the metadata?"
        raise stack_error(header.path, f"{message} (counted from 1)", remedy)
    return indices, positions


def _all_below(values: np.ndarray, limit: int) -> bool:
    """Whether all values are from 0 to `limit` − 1; quick for a single one."""
    if values.size == 1:
        return 0 <= int(values[0]) < limit
    return values.size == 0 or bool(values.min() >= 0 and values.max() < limit)


def _as_integers(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        msg = f"{name} must be a one-dimensional array of integers"
        raise ValueError(msg)
    return array.astype(np.int64)


def _runs(indices: np.ndarray, n_at_most: int) -> Iterator[tuple[int, int]]:
    """Cut ascending indices where one is left out; yield start and end of each part."""
    bounds = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), indices.size]
    for start, end in pairwise(bounds):
        for part in range(start, end, n_at_most):
            yield part, min(part + n_at_most, end)


def _destinations(memory: memoryview, image_bytes: int, positions: list[int]) -> list[memoryview]:
    """Memory of the images at `positions`, neighbours joined."""
    starts = [i for i, place in enumerate(positions) if i == 0 or place != positions[i - 1] + 1]
    return [
        memory[positions[start] * image_bytes : (positions[end - 1] + 1) * image_bytes]
        for start, end in pairwise([*starts, len(positions)])
    ]


def _copy_half(out: np.ndarray, image: np.ndarray) -> None:
    """Copy float16 values in the machine's byte order, ten times as fast as NumPy does."""
    import torch  # here, because it loads slowly and only this needs it

    torch.from_numpy(out).copy_(torch.from_numpy(image))


def _fill(header: StackHeader, descriptor: int, first: int, buffers: list[memoryview]) -> None:
    """Read from image `first` on until all buffers are full.

    Raises
    ------
    StackError
        If the file ends before that or cannot be read.
    """
    offset, n_done = header.data_offset + first * header.image_bytes, 0
    while buffers:
        try:
            n_read = os.preadv(descriptor, buffers, offset + n_done)
        except OSError as error:
            raise stack_error(header.path, f"cannot be read: {reason_of(error)}") from error
        if n_read == 0:
            number = first + n_done // header.image_bytes + 1
            message = f"ends within image {number:,} of {header.n_images:,} (counted from 1)"
            raise _changed(header, f"{message}, which was there when its header was read")
        n_done += n_read
        buffers = _unfilled(buffers, n_read)


def _unfilled(buffers: list[memoryview], n_bytes: int) -> list[memoryview]:
    """Drop the first `n_bytes` of the buffers."""
    for i, buffer in enumerate(buffers):
        if n_bytes < buffer.nbytes:
            return [buffer[n_bytes:], *buffers[i + 1 :]]
        n_bytes -= buffer.nbytes
    return []


def _changed(header: StackHeader, message: str) -> StackError:
    remedy = "Wait until the program that writes it is done, then start again."
    return stack_error(header.path, message, remedy)


def _check_unchanged(header: StackHeader, descriptor: int) -> None:
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        raise stack_error(header.path, f"cannot be read: {reason_of(error)}") from error
    if status.st_size != header.file_size:
        sizes = f"{header.file_size:,} bytes before, {status.st_size:,} now"
        raise _changed(header, f"changed while it was being read: {sizes}")
    if status.st_mtime_ns != header.mtime_ns:
        raise _changed(header, "changed while it was being read: its modification time differs")


def _open_as_promised(header: StackHeader, scratch_folder: str | None) -> IO[bytes]:
    """Open a stack, decompressed where need be, if it is still the one of the header."""
    file = open_stack(header.path)
    try:
        _check_unchanged(header, file.fileno())
        if not header.compression:
            return file
        temporary = _decompressed(header, file, scratch_folder)
    except BaseException:
        file.close()
        raise
    file.close()
    return temporary


def _decompressed(header: StackHeader, file: IO[bytes], scratch_folder: str | None) -> IO[bytes]:
    """Decompress into a temporary file without a name, which vanishes when it is closed.

    Raises
    ------
    StackError
        If the data are damaged, or fewer or more than the header says.
    OutputError
        If the temporary file cannot be written.
    """
    folder = scratch_folder or tempfile.gettempdir()
    temporary = _scratch_file(header, folder)
    try:
        for chunk in _decompressed_chunks(header, file):
            _write_all(temporary, chunk, header, folder)
        _check_unchanged(header, file.fileno())
    except BaseException:
        temporary.close()
        raise
    return temporary


def _scratch_file(header: StackHeader, folder: str) -> IO[bytes]:
    """Open a file without a name in a folder that has room for the decompressed stack."""
    try:
        n_free = shutil.disk_usage(folder).free
        temporary: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _no_scratch(header, folder, reason_of(error)) from error
    needed = header.promised_bytes
    if needed > n_free:
        temporary.close()
        raise _no_scratch(header, folder, f"{needed:,} bytes needed, {n_free:,} free")
    return temporary


def _decompressed_chunks(header: StackHeader, file: IO[bytes]) -> Iterator[bytes]:
    """Yield just the bytes that the header promises.

    Raises
    ------
    StackError
        If there are fewer or more, or if the data are damaged.
    """
    promised, n_done = header.promised_bytes, 0
    with decompressor(file, header.compression) as stream:
        try:
            while n_done < promised:
                chunk = stream.read(min(_CHUNK_BYTES, promised - n_done))
                if not chunk:
                    break
                n_done += len(chunk)
                yield chunk
            # One byte more shows whether the end is reached, and has checksums verified.
            has_more = bool(stream.read(1))
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(header.path, header.compression, error) from error
    if n_done < promised:
        raise truncated(header, n_done)
    if has_more:
        message = f"expands beyond the {promised:,} bytes that its header says"
        remedy = "Decompress it yourself, and check that it is the file you expect."
        raise stack_error(header.path, message, remedy)


def _write_all(file: IO[bytes], data: bytes, header: StackHeader, folder: str) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[file.write(left) :]
        except OSError as error:
            raise _no_scratch(header, folder, reason_of(error)) from error


def _no_scratch(header: StackHeader, folder: str, reason: str) -> OutputError:
    message = f"cannot be decompressed into a temporary file in {folder}: {reason}"
    remedy = "Choose another scratch folder, or decompress the stack yourself."
    return OutputError(Problem(message=message, remedy=remedy, file=header.path, kind="stack"))
