"""Headers of particle stacks in MRC files: what they say, checked against the size of the file.

Layout of the header: MRC2014, https://www.ccpem.ac.uk/mrc_format/mrc2014.php, with the additions
of IMOD, https://bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import byte_order_from_machine_stamp

from cryolike.errors import MissingFileError, Notice, Problem, StackError, counted
from cryolike.io.sniff import recognise

__all__ = [
    "MOST_BYTES_OF_ONE",
    "HeaderFields",
    "StackHeader",
    "decompressor",
    "open_stack",
    "read_header_fields",
    "read_stack_header",
    "reason_of",
    "stack_error",
    "truncated",
    "unreadable",
]

Compression = Literal["", "gzip", "bz2"]
ByteOrder = Literal["<", ">"]

HEADER_BYTES: int = HEADER_DTYPE.itemsize

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

_COPY_AGAIN = "Copy or write the file again."

_CHECK_DISK = "Check the disk that holds it, and copy the file again."

_PIXEL_SIZE_TOLERANCE = 1e-3

MOST_BYTES_OF_ONE = {"gzip": 1_032, "bz2": 2_000_000}
"""No compressed byte can expand to more (46 MB of zeros are 32 bytes of bzip2)."""


@dataclass(frozen=True, kw_only=True)
class HeaderFields:
    """The header of any MRC file, stack or map, before anything in it is judged.

    Parameters
    ----------
    path
        The file, as it was given.
    fields
        Of the header, by mrcfile's names, in the file's byte order.
    dtype
        Type of a value in the file, with its byte order.
    compression
        'gzip' or 'bz2' where the whole file is compressed.
    file_size
        Size on disk in bytes.
    mtime_ns
        Time of the last modification in ns.
    order_notices
        What was doubtful about the byte order.
    dtype_notices
        What was doubtful about the type.
    """

    path: str
    fields: np.void
    dtype: np.dtype[Any]
    compression: Compression
    file_size: int
    mtime_ns: int
    order_notices: tuple[Notice, ...]
    dtype_notices: tuple[Notice, ...]

    @property
    def data_offset(self) -> int:
        """Where the values begin, in (decompressed) bytes."""
        return HEADER_BYTES + int(self.fields["nsymbt"])

    @property
    def spacing_A(self) -> tuple[float, float, float]:
        """Along x, y and z, Å; NaN where the header does not know."""
        cell, fields = self.fields["cella"], self.fields
        x, y, z = (_spacing_A(float(cell[axis]), int(fields[f"m{axis}"])) for axis in "xyz")
        return x, y, z


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

    @property
    def promised_bytes(self) -> int:
        """Size of the (decompressed) file by its header."""
        return self.data_offset + self.n_images * self.image_bytes


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
    found = read_header_fields(path)
    path, fields = found.path, found.fields
    n_images, box_px = _shape(path, fields)
    pixel_size_A, pixel_size_notices = _pixel_size(fields)
    header = StackHeader(
        path=path,
        n_images=n_images,
        box_px=box_px,
        mode=int(fields["mode"]),
        dtype=found.dtype,
        data_offset=found.data_offset,
        pixel_size_A=pixel_size_A,
        compression=found.compression,
        file_size=found.file_size,
        mtime_ns=found.mtime_ns,
        notices=(
            *found.order_notices,
            *_identity_notices(fields),
            *_axis_notices(path, fields),
            *found.dtype_notices,
            *pixel_size_notices,
            *_compression_notices(found.compression),
        ),
    )
    return replace(header, notices=(*header.notices, *_size_notices(header)))


def read_header_fields(path: str | os.PathLike[str], wanted: str = "an MRC stack") -> HeaderFields:
    """Read the header of any MRC file; what its fields say is left to the caller to judge.

    Parameters
    ----------
    path
        An MRC file, as it is or compressed with gzip or bzip2.
    wanted
        What it should be, for messages.

    Raises
    ------
    MissingFileError
        If there is no such file.
    StackError
        If it cannot be opened, is no MRC file, or holds values of a type that cannot be read.
    """
    path = os.fspath(path)
    with open_stack(path, wanted) as file:
        status = os.fstat(file.fileno())
        raw, compression = _first_bytes(path, file)
    _check_is_mrc(path, raw, status.st_size, compression, wanted)
    order, order_notices = _byte_order(raw)
    fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
    dtype, dtype_notices = _dtype(path, fields)
    return HeaderFields(
        path=path,
        fields=fields,
        dtype=dtype,
        compression=compression,
        file_size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        order_notices=order_notices,
        dtype_notices=dtype_notices,
    )


def stack_error(path: str, message: str, remedy: str = "") -> StackError:
    """Make the error of one fault of a stack."""
    return StackError(Problem(message=message, remedy=remedy, file=path, kind="stack"))


def open_stack(path: str, wanted: str = "an MRC stack") -> IO[bytes]:
    """Open a regular file, unbuffered."""
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(_missing(path)) from None
    except PermissionError:
        raise stack_error(path, "may not be read", "Ask for permission to read it.") from None
    except (OSError, ValueError) as error:
        raise stack_error(path, f"cannot be opened: {reason_of(error)}", _CHECK_DISK) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise stack_error(path, f"is {kind}, not {wanted}", "Give the file itself.")


def _missing(path: str) -> Problem:
    message, remedy = "does not exist", "Check the name and the folder it is looked for in."
    if Path(path).is_symlink():
        target = Path(path).readlink()
        message = f"is a symbolic link to {target}, which does not exist on this machine"
        remedy = "Copy the file it points to, or mount the disk that holds it."
    return Problem(message=message, remedy=remedy, file=path, kind="missing")


def reason_of(error: BaseException) -> str:
    """Give the system's reason, without the number and the file name."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _compression(raw: bytes) -> Compression:
    if raw.startswith(b"\x1f\x8b"):
        return "gzip"
    return "bz2" if raw.startswith(b"BZh") else ""


def decompressor(file: IO[bytes], compression: Compression) -> gzip.GzipFile | bz2.BZ2File:
    """Wrap a compressed file; closing the wrapper leaves `file` open."""
    return gzip.GzipFile(fileobj=file, mode="rb") if compression == "gzip" else bz2.BZ2File(file)


def _first_bytes(path: str, file: IO[bytes]) -> tuple[bytes, Compression]:
    """Return the (decompressed) header, or less where the file is shorter."""
    compression: Compression = ""
    try:
        raw = os.pread(file.fileno(), HEADER_BYTES, 0)
        compression = _compression(raw)
        if compression:
            with decompressor(file, compression) as stream:
                raw = stream.read(HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, compression, error) from error
    return raw, compression


def unreadable(path: str, compression: Compression, error: BaseException) -> StackError:
    """Make the error of a file that cannot be read, or not be decompressed."""
    if not compression:
        return stack_error(path, f"cannot be read: {reason_of(error)}", _CHECK_DISK)
    return stack_error(
        path,
        f"cannot be decompressed, its {compression} data are damaged or cut off: "
        f"{reason_of(error)}",
        "Copy or download the file again.",
    )


def _check_is_mrc(
    path: str, raw: bytes, file_size: int, compression: Compression, wanted: str
) -> None:
    """Raise an error that says what was found where it cannot be an MRC header.

    Raises
    ------
    StackError
        If the file is empty or shorter than a header, or something else by its first bytes.
    """
    give = f"Give {wanted}."
    if not raw:
        message = f"has no content inside its {compression} data" if compression else "is empty"
        raise stack_error(path, message, _COPY_AGAIN)
    if _compression(raw):
        raise stack_error(path, "is compressed twice", "Decompress it once.")
    if found := recognise(raw):
        remedy = found.remedy or give
        raise stack_error(path, f"is {found.name}, not {wanted}", remedy)
    size = len(raw) if compression else file_size
    if _is_text(raw):
        first_line = raw.split(b"\n", 1)[0].strip()[:40].decode(errors="replace")
        of = f"is {size:,} bytes of text" if not compression or size < HEADER_BYTES else "is text"
        raise stack_error(path, f"{of}, not {wanted}; it begins with {first_line!r}", give)
    if len(raw) < HEADER_BYTES:
        size_text = f"{size:,} bytes" + (" when decompressed" if compression else "")
        raise stack_error(path, f"has {size_text}, an MRC header alone has 1,024", _COPY_AGAIN)
    if not any(raw):
        raise stack_error(path, "begins with 1,024 zero bytes, not with a header", _COPY_AGAIN)
    if not (_plausible_orders(raw) or _stamped_order(raw) or _map_identifier(raw) == b"MAP"):
        raise stack_error(path, "is not an MRC file: no header field makes sense", give)


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
        raise stack_error(
            path, "holds packed 4-bit values (mode 0 with IMOD's flag for them)", remedy
        )
    if mode in _WHY_NOT_MODE:
        raise stack_error(path, *_WHY_NOT_MODE[mode])
    if mode not in _DTYPE_OF_MODE:
        message = f"has mode {mode}, which is not one that can be read (0, 1, 2, 6 or 12)"
        raise stack_error(path, message, "Check that it is an MRC file; convert it to mode 2.")
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
        raise stack_error(
            path, message, "Check that it is an MRC file, and copy or write it again."
        )
    if nx != ny:
        message = f"holds images of {nx:,}×{ny:,} pixels; only square ones can be used"
        raise stack_error(path, message, "Extract the particles again in a square box.")
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
    raise stack_error(path, message, "Write it again with columns along x, rows along y.")


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


def _size_notices(header: StackHeader) -> tuple[Notice, ...]:
    """Compare the size of the file with what its header says, where it is not compressed.

    Raises
    ------
    StackError
        If images are missing.
    """
    promised = header.promised_bytes
    extension = header.data_offset - HEADER_BYTES
    fits_without = not header.compression and header.file_size == promised - extension
    if extension < 0 or (fits_without and extension > 0):
        message = f"has a header with a wrong size of the extended header: {extension:,} bytes"
        remedy = _COPY_AGAIN
        if fits_without:
            message += "; the size of the file fits only if there is none"
            remedy = "If so, set nsymbt (the 4 bytes from byte 92 of the file) to 0."
        raise stack_error(header.path, message, remedy)
    most = MOST_BYTES_OF_ONE.get(header.compression, 1) * header.file_size
    if header.compression and most < promised:
        message = (
            f"is cut off or damaged: its {header.file_size:,} bytes of {header.compression} data "
            f"cannot hold the {promised:,} bytes that its header says"
        )
        raise stack_error(header.path, message, _COPY_AGAIN)
    if header.compression or header.file_size == promised:
        return ()
    if header.file_size < promised:
        raise truncated(header, header.file_size)
    message = "longer than the header says; the rest is not read"
    return (Notice(f"{message}: {header.file_size - promised:,} bytes more"),)


def truncated(header: StackHeader, n_bytes: int) -> StackError:
    """Error that tells the sizes and how many images are complete."""
    promised = header.promised_bytes
    n_complete = max(0, n_bytes - header.data_offset) // header.image_bytes
    complete = {
        0: f"none of the {counted(header.n_images, 'image')} is complete",
        1: f"only image 1 of {header.n_images:,} is complete",
    }.get(n_complete, f"images 1 to {n_complete:,} of {header.n_images:,} are complete")
    size = f"{n_bytes:,} bytes" + (", decompressed," if header.compression else "")
    message = f"is cut off: it has {size} of {promised:,} that its header says; {complete}"
    return stack_error(header.path, message, _COPY_AGAIN)
