"""Particle stacks in MRC files: what their headers say, and single images by number.

`read_stack_header` looks at the first bytes of a file only. `StackReader` reads the
images that are asked for and nothing else.

Layout of the header: MRC2014, https://www.ccpem.ac.uk/mrc_format/mrc2014.php, with the additions
of IMOD, https://bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import shutil
import stat
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import byte_order_from_machine_stamp

from cryolike.errors import MissingFileError, Notice, OutputError, Problem, StackError

__all__ = ["StackHeader", "StackReader", "read_stack_header"]

Compression = Literal["", "gzip", "bz2"]
ByteOrder = Literal["<", ">"]

HEADER_BYTES = HEADER_DTYPE.itemsize

_DTYPE_OF_MODE = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_WHY_NOT_MODE = {
    3: ("holds complex values (mode 3), not images", "Give the real-space stack."),
    4: ("holds complex values (mode 4), not images", "Give the real-space stack."),
    101: (
        "holds packed 4-bit values (mode 101), which cannot be read",
        "Convert it to mode 2 first, for example with IMOD: newstack -mode 2 IN OUT.",
    ),
}
# With sizes below 2^16 at most one byte order can be right: swapped, they are at least 2^16.
_MAX_BOX_PX = 65_535

_IMOD_STAMP = 1_146_047_817
_IMOD_STAMP_OFFSET = 152 - HEADER_DTYPE.fields["extra2"][1]
_IMOD_SIGNED_BYTES = 1
_IMOD_PACKED_4_BIT = 16

_FIRST_BYTES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "Run git lfs pull."),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, not an MRC stack", ""),
    (b"II*\0", "is a TIFF file, not an MRC stack", ""),
    (b"MM\0*", "is a TIFF file, not an MRC stack", ""),
    (b"II+\0", "is a BigTIFF or EER file, not an MRC stack", ""),
    (b"\x93NUMPY", "is a NumPy array (a .cs file?), not an MRC stack", ""),
    (b"PK\x03\x04", "is a ZIP archive, not an MRC stack", "Unpack it first."),
    (b"\xfd7zXZ\0", "is compressed with xz, which cannot be read", "Decompress it: unxz FILE."),
    (b"(\xb5/\xfd", "is compressed with zstd, which cannot be read", "Decompress it: unzstd FILE."),
    (b"\x1f\x8b", "is compressed twice", "Decompress it once."),
    (b"BZh", "is compressed twice", "Decompress it once."),
)
_GIVE_A_STACK = "Give an MRC stack."
_COPY_AGAIN = "Copy or write the file again."

_PIXEL_SIZE_TOLERANCE = 1e-3
_BOUNCE_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_MAX_BYTES_PER_CALL = 1 << 30
_MAX_BUFFERS_PER_CALL = 1024


@dataclass(frozen=True, kw_only=True)
class StackHeader:
    """What the header of an MRC stack says, checked against the size of the file.

    Parameters
    ----------
    path
        The file, as it was given.
    n_images
        Number of images (sections).
    box_px
        Width and height of each image in pixels.
    mode
        MRC mode: 0, 1, 2, 6 or 12.
    dtype
        Type of a pixel in the file, with its byte order.
    data_offset
        Where the first image begins, in (decompressed) bytes.
    pixel_size_A
        Along x, Å; NaN where the header does not know. Exactly 1.0 is kept, though many programs
        write it where they do not know.
    compression
        'gzip' or 'bz2' where the whole file is compressed.
    file_size
        Size on disk in bytes.
    mtime_ns
        Time of the last modification in ns.
    notices
        Doubtful values that were accepted. The text before the first colon is the same for all
        notices of one kind; no notice names the file.
    """

    path: str
    n_images: int
    box_px: int
    mode: int
    dtype: np.dtype[Any]
    data_offset: int
    pixel_size_A: float
    compression: Compression
    file_size: int
    mtime_ns: int
    notices: tuple[Notice, ...] = ()

    @property
    def image_bytes(self) -> int:
        """Size of one image in the file, in bytes."""
        return self.box_px**2 * self.dtype.itemsize


def read_stack_header(path: str | os.PathLike[str]) -> StackHeader:
    """Read and check the header of an MRC stack.

    Only the first 1024 bytes are read (and decompressed, where the file is compressed). The kind
    of file is told by its content, not by its name.

    Parameters
    ----------
    path
        An MRC file, as it is or compressed with gzip or bzip2.

    Returns
    -------
    StackHeader
        With the doubtful values that were accepted as notices.

    Raises
    ------
    MissingFileError
        If there is no such file.
    StackError
        If it cannot be opened, is no MRC file, is no stack of square real images, or is shorter
        than its header says.
    """
    path = os.fspath(path)
    with _open(path) as file:
        status = os.fstat(file.fileno())
        raw, compression = _first_bytes(path, file)
    _check_is_mrc(path, raw, status.st_size, compression)
    order, order_notices = _byte_order(raw)
    fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
    dtype, dtype_notices = _dtype(path, fields)
    n_images, box_px = _shape(path, fields)
    pixel_size_A, pixel_size_notices = _pixel_size(fields)
    header = StackHeader(
        path=path,
        n_images=n_images,
        box_px=box_px,
        mode=int(fields["mode"]),
        dtype=dtype,
        data_offset=HEADER_BYTES + int(fields["nsymbt"]),
        pixel_size_A=pixel_size_A,
        compression=compression,
        file_size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        notices=(
            *order_notices,
            *_identity_notices(fields),
            *_axis_notices(path, fields),
            *dtype_notices,
            *pixel_size_notices,
            *_compression_notices(compression),
        ),
    )
    return replace(header, notices=(*header.notices, *_size_notices(header)))


def _error(path: str, message: str, remedy: str = "") -> StackError:
    return StackError(Problem(message=message, remedy=remedy, file=path, kind="stack"))


def _open(path: str) -> IO[bytes]:
    """Open a regular file, unbuffered."""
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(_missing(path)) from None
    except PermissionError:
        raise _error(path, "may not be read", "Ask for permission to read it.") from None
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be opened: {_reason(error)}") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise _error(path, f"is {kind}, not an MRC stack", "Give the stack file itself.")


def _missing(path: str) -> Problem:
    message, remedy = "does not exist", "Check the name and the folder it is looked for in."
    if Path(path).is_symlink():
        target = Path(path).readlink()
        message = f"is a symbolic link to {target}, which does not exist on this machine"
        remedy = "Copy the file it points to, or mount the disk that holds it."
    return Problem(message=message, remedy=remedy, file=path, kind="missing")


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _compression(raw: bytes) -> Compression:
    if raw.startswith(b"\x1f\x8b"):
        return "gzip"
    return "bz2" if raw.startswith(b"BZh") else ""


def _decompressor(file: IO[bytes], compression: Compression) -> gzip.GzipFile | bz2.BZ2File:
    """Wrap a compressed file; closing the wrapper leaves `file` open."""
    return gzip.GzipFile(fileobj=file, mode="rb") if compression == "gzip" else bz2.BZ2File(file)


def _first_bytes(path: str, file: IO[bytes]) -> tuple[bytes, Compression]:
    """Return the (decompressed) header, or less where the file is shorter."""
    compression: Compression = ""
    try:
        raw = os.pread(file.fileno(), HEADER_BYTES, 0)
        compression = _compression(raw)
        if compression:
            with _decompressor(file, compression) as stream:
                raw = stream.read(HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, compression, error) from error
    return raw, compression


def _unreadable(path: str, compression: Compression, error: BaseException) -> StackError:
    if not compression:
        return _error(path, f"cannot be read: {_reason(error)}")
    return _error(
        path,
        f"cannot be decompressed, its {compression} data are damaged or cut off: {_reason(error)}",
        "Copy or download the file again.",
    )


def _check_is_mrc(path: str, raw: bytes, file_size: int, compression: Compression) -> None:
    """Raise an error that says what was found where it cannot be an MRC header.

    Raises
    ------
    StackError
        If the file is empty or shorter than a header, or something else by its first bytes.
    """
    if not raw:
        found = f"has no content inside its {compression} data" if compression else "is empty"
        raise _error(path, found, _COPY_AGAIN)
    for magic, found, remedy in _FIRST_BYTES:
        if raw.startswith(magic):
            raise _error(path, found, remedy or _GIVE_A_STACK)
    if raw.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise _error(path, "is an HTML page (a failed download?), not an MRC stack", _GIVE_A_STACK)
    size = len(raw) if compression else file_size
    if _is_text(raw):
        first_line = raw.split(b"\n", 1)[0].strip()[:40].decode(errors="replace")
        of = f"is {size:,} bytes of text" if not compression or size < HEADER_BYTES else "is text"
        raise _error(path, f"{of}, not an MRC stack; it begins with {first_line!r}", _GIVE_A_STACK)
    if len(raw) < HEADER_BYTES:
        size_text = f"{size:,} bytes" + (" when decompressed" if compression else "")
        raise _error(path, f"has {size_text}, an MRC header alone has 1,024", _COPY_AGAIN)
    if not any(raw):
        raise _error(path, "begins with 1,024 zero bytes, not with a header", _COPY_AGAIN)
    if not (_plausible_orders(raw) or _stamped_order(raw) or _map_identifier(raw) == b"MAP"):
        raise _error(path, "is not an MRC file: no header field makes sense", _GIVE_A_STACK)


def _is_text(raw: bytes) -> bool:
    # Binary headers hold zero bytes; text does not. A multi-byte character may be cut at the end.
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in raw)


def _map_identifier(raw: bytes) -> bytes:
    return bytes(np.frombuffer(raw, HEADER_DTYPE)[0]["map"]).rstrip(b" ")


def _stamped_order(raw: bytes) -> ByteOrder | None:
    """Byte order by the machine stamp; None where the stamp is none of the known ones."""
    try:
        stamped: ByteOrder = byte_order_from_machine_stamp(_machine_stamp(raw))
    except ValueError:
        return None
    return stamped


def _machine_stamp(raw: bytes) -> bytes:
    return bytes(np.frombuffer(raw, HEADER_DTYPE)[0]["machst"])


def _plausible_orders(raw: bytes) -> list[ByteOrder]:
    """Byte orders that make mode and sizes believable; never both."""
    orders: tuple[ByteOrder, ...] = ("<", ">")
    return [order for order in orders if _is_plausible(raw, order)]


def _is_plausible(raw: bytes, order: ByteOrder) -> bool:
    fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
    known_mode = int(fields["mode"]) in _DTYPE_OF_MODE or int(fields["mode"]) in _WHY_NOT_MODE
    nx, ny, nz = (int(fields[name]) for name in ("nx", "ny", "nz"))
    return known_mode and _are_sizes_possible(nx, ny, nz)


def _are_sizes_possible(nx: int, ny: int, nz: int) -> bool:
    return 1 <= nx <= _MAX_BOX_PX and 1 <= ny <= _MAX_BOX_PX and nz >= 1


def _byte_order(raw: bytes) -> tuple[ByteOrder, tuple[Notice, ...]]:
    """Byte order of the header, by its stamp where that gives sense."""
    stamped, plausible = _stamped_order(raw), _plausible_orders(raw)
    order = plausible[0] if plausible else stamped or "<"
    if order == stamped:
        return order, ()
    name = {"<": "little-endian", ">": "big-endian"}[order]
    stamp = f"stamp {_machine_stamp(raw).hex(' ')}, data {name}"
    if stamped is None:
        message = "no known machine stamp in the header; byte order told from sizes and mode"
        return order, (Notice(f"{message}: {stamp}", "note"),)
    message = "machine stamp contradicts the header; byte order told from sizes and mode"
    return order, (Notice(f"{message}: {stamp}"),)


def _dtype(path: str, fields: np.void) -> tuple[np.dtype[Any], tuple[Notice, ...]]:
    """Type of a pixel, in the byte order of the header.

    Raises
    ------
    StackError
        If the mode is not one of real numbers of a whole number of bytes.
    """
    mode = int(fields["mode"])
    stamp, flags = _imod_stamp_and_flags(fields)
    has_imod_flags = stamp == _IMOD_STAMP
    if mode == 0 and has_imod_flags and flags & _IMOD_PACKED_4_BIT:
        _, remedy = _WHY_NOT_MODE[101]
        raise _error(path, "holds packed 4-bit values (mode 0 with IMOD's flag for them)", remedy)
    if mode in _WHY_NOT_MODE:
        raise _error(path, *_WHY_NOT_MODE[mode])
    if mode not in _DTYPE_OF_MODE:
        message = f"has mode {mode}, which is not one that can be read (0, 1, 2, 6 or 12)"
        raise _error(path, message, "Check that it is an MRC file; convert it to mode 2.")
    dtype = np.dtype(_DTYPE_OF_MODE[mode]).newbyteorder(fields.dtype["nx"].byteorder)
    if mode != 0:
        return dtype, ()
    if not has_imod_flags:
        return dtype, (Notice("8-bit values are taken as signed, as MRC2014 says", "note"),)
    if flags & _IMOD_SIGNED_BYTES:
        return dtype, ()
    notice = Notice("8-bit values are taken as unsigned, as IMOD's flag in the header says", "note")
    return np.dtype("u1"), (notice,)


def _imod_stamp_and_flags(fields: np.void) -> tuple[int, int]:
    integer = np.dtype("i4").newbyteorder(fields.dtype["nx"].byteorder)
    both = np.frombuffer(fields["extra2"].tobytes(), integer, 2, _IMOD_STAMP_OFFSET)
    return int(both[0]), int(both[1])


def _shape(path: str, fields: np.void) -> tuple[int, int]:
    """Return number of images and box size.

    Raises
    ------
    StackError
        If a size is zero, negative or unbelievably large, or if the images are not square.
    """
    nx, ny, nz = (int(fields[name]) for name in ("nx", "ny", "nz"))
    if not _are_sizes_possible(nx, ny, nz):
        message = f"has a header with impossible sizes: {nz:,} images of {nx:,}×{ny:,} pixels"
        raise _error(path, message, "Check that it is an MRC file, and copy or write it again.")
    if nx != ny:
        message = f"holds images of {nx:,}×{ny:,} pixels; only square ones can be used"
        raise _error(path, message, "Extract the particles again in a square box.")
    return nz, nx


def _axis_notices(path: str, fields: np.void) -> tuple[Notice, ...]:
    """Check that columns, rows and sections are x, y and z.

    Raises
    ------
    StackError
        If they are something else.
    """
    axes = tuple(int(fields[name]) for name in ("mapc", "mapr", "maps"))
    if axes == (1, 2, 3):
        return ()
    if axes == (0, 0, 0):
        return (Notice("axis order missing in the header (all zero); taken as 1, 2, 3"),)
    message = f"has axis order (mapc, mapr, maps) {axes}; stacks need (1, 2, 3)"
    raise _error(path, message, "Write it again with columns along x, rows along y.")


def _identity_notices(fields: np.void) -> Iterator[Notice]:
    """Tell of identifiers that are unusual for a stack of images."""
    identifier, space_group = bytes(fields["map"]), int(fields["ispg"])
    if identifier != b"MAP ":
        name = identifier.decode("ascii", "backslashreplace")
        yield Notice(
            f"no 'MAP ' in the header; taken for an MRC file all the same: {name!r}", "note"
        )
    if fields["nx"] == fields["ny"] == fields["nz"]:
        message = "looks like a 3-D map (a cube); its sections are taken as images"
        yield Notice(f"{message}: {fields['nz']:,} sections", "note")
    if 401 <= space_group <= 630:
        message = "marked as a stack of 3-D maps; all its sections are taken as images"
        yield Notice(f"{message}: space group {space_group}")


def _compression_notices(compression: Compression) -> tuple[Notice, ...]:
    if not compression:
        return ()
    message = "compressed; it will be decompressed into a temporary file"
    return (Notice(f"{message}: {compression}", "note"),)


def _pixel_size(fields: np.void) -> tuple[float, tuple[Notice, ...]]:
    """Pixel size along x in Å, NaN where the header does not know."""
    along_x = _spacing_A(float(fields["cella"]["x"]), int(fields["mx"]))
    along_y = _spacing_A(float(fields["cella"]["y"]), int(fields["my"]))
    if abs(along_x - along_y) > _PIXEL_SIZE_TOLERANCE * along_x:
        message = "pixel sizes in the header differ; that along x is taken"
        return along_x, (Notice(f"{message}: {along_x:g} Å along x, {along_y:g} Å along y"),)
    return along_x, ()


def _spacing_A(cell_A: float, n_intervals: int) -> float:
    if n_intervals <= 0 or not (0 < cell_A < math.inf):
        return math.nan
    return cell_A / n_intervals


def _promised_bytes(header: StackHeader) -> int:
    """Size of the (decompressed) file by its header."""
    return header.data_offset + header.n_images * header.image_bytes


def _size_notices(header: StackHeader) -> tuple[Notice, ...]:
    """Compare the size of the file with what its header says, where it is not compressed.

    Raises
    ------
    StackError
        If images are missing.
    """
    promised = _promised_bytes(header)
    extension = header.data_offset - HEADER_BYTES
    fits_without = not header.compression and header.file_size == promised - extension
    if extension < 0 or (fits_without and extension > 0):
        message = f"has a header with a wrong size of the extended header: {extension:,} bytes"
        remedy = _COPY_AGAIN
        if fits_without:
            message += "; the size of the file fits only if there is none"
            remedy = "If so, set nsymbt (the 4 bytes from byte 92 of the file) to 0."
        raise _error(header.path, message, remedy)
    if header.compression or header.file_size == promised:
        return ()
    if header.file_size < promised:
        raise _truncated(header, header.file_size)
    message = "longer than the header says; the rest is not read"
    return (Notice(f"{message}: {header.file_size - promised:,} bytes more"),)


def _truncated(header: StackHeader, n_bytes: int) -> StackError:
    """Error that tells the sizes and how many images are complete."""
    promised = _promised_bytes(header)
    n_complete = max(0, n_bytes - header.data_offset) // header.image_bytes
    complete = {
        0: f"none of the {header.n_images:,} images is complete",
        1: f"only image 1 of {header.n_images:,} is complete",
    }.get(n_complete, f"images 1 to {n_complete:,} of {header.n_images:,} are complete")
    size = f"{n_bytes:,} bytes" + (", decompressed," if header.compression else "")
    message = f"is cut off: it has {size} of {promised:,} that its header says; {complete}"
    return _error(header.path, message, _COPY_AGAIN)


class StackReader:
    """Reads single images out of MRC stacks, as float32.

    Files stay open between calls, the most recently used ones. Several threads may read at the
    same time. Compressed files are decompressed once, into a nameless temporary file; it is kept
    until `max_open_files` compressed ones are in use.

    Parameters
    ----------
    max_open_files
        How many files are kept open.
    scratch_folder
        Where compressed files are decompressed to; the system's temporary folder by default.

    Raises
    ------
    ValueError
        If `max_open_files` is not positive.
    """

    def __init__(self, max_open_files: int = 64, scratch_folder: str | None = None) -> None:
        if max_open_files < 1:
            msg = f"max_open_files is {max_open_files}, must be at least 1"
            raise ValueError(msg)
        self._max_open_files = max_open_files
        self._scratch_folder = scratch_folder
        self._files: OrderedDict[tuple[str, int, int], _OpenFile] = OrderedDict()
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
            self._close_idle()

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
        order = np.argsort(indices)
        indices, positions = indices[order], positions[order]
        is_first = np.append(True, np.diff(indices) != 0)
        with self._borrowed(header) as descriptor:
            self._read_distinct(header, descriptor, indices[is_first], positions[is_first], out)
            if not header.compression:
                _check_unchanged(header, descriptor)
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
        is_direct = header.dtype == out.dtype
        limit = _MAX_BYTES_PER_CALL if is_direct else _BOUNCE_BYTES
        n_at_once = min(max(1, limit // header.image_bytes), _MAX_BUFFERS_PER_CALL)
        memory = out.data.cast("B")
        for start, end in _runs(indices, n_at_once):
            first, places = int(indices[start]), positions[start:end].tolist()
            if is_direct:
                _fill(header, descriptor, first, _destinations(memory, header.image_bytes, places))
            else:
                self._convert(header, descriptor, first, places, out)

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
        key = (header.path, header.file_size, header.mtime_ns)
        with self._lock:
            if self._closed:
                msg = "the StackReader is closed"
                raise ValueError(msg)
            file = self._files.setdefault(key, _OpenFile())
            self._files.move_to_end(key)
            file.n_users += 1
            self._close_idle()
        try:
            yield file.descriptor(header, self._scratch_folder)
        finally:
            with self._lock:
                file.n_users -= 1
                self._close_idle()

    def _close_idle(self) -> None:
        """Close the longest unused files beyond the limit, plain ones first.

        The lock must be held.
        """
        limit = 0 if self._closed else self._max_open_files
        n_too_many = len(self._files) - limit
        if n_too_many <= 0:
            return
        idle = [key for key, file in self._files.items() if file.n_users == 0]
        # A plain file is opened again at no cost, a compressed one decompressed again.
        idle.sort(key=lambda key: self._files[key].is_temporary)
        for key in idle[:n_too_many]:
            self._files.pop(key).close()


class _OpenFile:
    """One open file and how many threads use it; opened at first use."""

    def __init__(self) -> None:
        self.n_users = 0
        self.is_temporary = False
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def descriptor(self, header: StackHeader, scratch_folder: str | None) -> int:
        with self._lock:
            if self._file is None:
                self.is_temporary = bool(header.compression)
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
    if positions.size != indices.size or np.unique(positions).size != positions.size:
        msg = "out_positions must be as many as image_indices, and all different"
        raise ValueError(msg)
    if indices.size and (positions.min() < 0 or positions.max() >= len(out)):
        msg = f"out_positions must be from 0 to {len(out) - 1}, the last of out"
        raise ValueError(msg)
    outside = indices[(indices < 0) | (indices >= header.n_images)]
    if outside.size:
        message = f"has {header.n_images:,} images; there is no image {int(outside[0]) + 1:,}"
        remedy = "Was the stack written again after the metadata?"
        raise _error(header.path, f"{message} (counted from 1)", remedy)
    return indices, positions


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
            raise _error(header.path, f"cannot be read: {_reason(error)}") from error
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
    return _error(header.path, message, remedy)


def _check_unchanged(header: StackHeader, descriptor: int) -> None:
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        raise _error(header.path, f"cannot be read: {_reason(error)}") from error
    if status.st_size != header.file_size:
        sizes = f"{header.file_size:,} bytes before, {status.st_size:,} now"
        raise _changed(header, f"changed while it was being read: {sizes}")
    if status.st_mtime_ns != header.mtime_ns:
        raise _changed(header, "changed while it was being read: its modification time differs")


def _open_as_promised(header: StackHeader, scratch_folder: str | None) -> IO[bytes]:
    """Open a stack, decompressed where need be, if it is still the one of the header."""
    file = _open(header.path)
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
        raise _no_scratch(header, folder, _reason(error)) from error
    needed = _promised_bytes(header)
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
    promised, n_done = _promised_bytes(header), 0
    with _decompressor(file, header.compression) as stream:
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
            raise _unreadable(header.path, header.compression, error) from error
    if n_done < promised:
        raise _truncated(header, n_done)
    if has_more:
        message = f"expands beyond the {promised:,} bytes that its header says"
        remedy = "Decompress it yourself, and check that it is the file you expect."
        raise _error(header.path, message, remedy)


def _write_all(file: IO[bytes], data: bytes, header: StackHeader, folder: str) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[file.write(left) :]
        except OSError as error:
            raise _no_scratch(header, folder, _reason(error)) from error


def _no_scratch(header: StackHeader, folder: str, reason: str) -> OutputError:
    message = f"cannot be decompressed into a temporary file in {folder}: {reason}"
    remedy = "Choose another scratch folder, or decompress the stack yourself."
    return OutputError(Problem(message=message, remedy=remedy, file=header.path, kind="stack"))
