"""The first bytes of a file: what tells files of other kinds from the one a reader expects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryolike.errors import MetadataError, MissingFileError, Problem

__all__ = ["BOM", "CSDAT_MAGIC", "NUMPY_MAGIC", "FileKind", "read_head", "recognise"]

BOM = b"\xef\xbb\xbf"
NUMPY_MAGIC = b"\x93NUMPY"
CSDAT_MAGIC = b"\x95CSDAT"


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """A kind of file that is never what a reader wants.

    Parameters
    ----------
    name
        What it is, with its article.
    remedy
        What to do about it; empty where that depends on what was expected.
    """

    name: str
    remedy: str = ""


_LFS_POINTER = FileKind(
    name="a Git LFS pointer", remedy="Fetch the file itself with `git lfs pull`."
)
_WEB_PAGE = FileKind(
    name="a web page (HTML; a failed download?)", remedy="Download the file itself."
)
_TIFF = FileKind(name="a TIFF file")

_TEXTS = (
    (b"version https://git-lfs", _LFS_POINTER),
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
)
_MAGICS = (
    (NUMPY_MAGIC, FileKind(name="a NumPy file (a cryoSPARC .cs file?)")),
    (
        CSDAT_MAGIC,
        FileKind(
            name="a .cs file in cryoSPARC's compressed CSDAT format",
            remedy="Save it again with cryosparc-tools (Dataset.load(…).save(…)), or export the "
            "result group in cryoSPARC.",
        ),
    ),
    (b"\x89HDF\r\n\x1a\n", FileKind(name="an HDF5 file")),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"II+\0", FileKind(name="a BigTIFF or EER file")),
    (b"PK\x03\x04", FileKind(name="a ZIP archive", remedy="Unpack it first.")),
    (b"\x1f\x8b", FileKind(name="a gzip-compressed file", remedy="Decompress it: gunzip FILE.")),
    (b"BZh", FileKind(name="a bzip2-compressed file", remedy="Decompress it: bunzip2 FILE.")),
    (b"\xfd7zXZ\0", FileKind(name="an xz-compressed file", remedy="Decompress it: unxz FILE.")),
    (b"(\xb5/\xfd", FileKind(name="a zstd-compressed file", remedy="Decompress it: unzstd FILE.")),
)


def recognise(head: bytes) -> FileKind | None:
    """Recognise a file by its first bytes.

    Parameters
    ----------
    head
        At least the first 64 bytes, or all there are.

    Returns
    -------
    FileKind or None
        None where they are of none of the kinds known here. Neither STAR nor MRC files are.
    """
    text = head[:1024].removeprefix(BOM).lstrip().lower()
    for begin, kind in _TEXTS:
        if text.startswith(begin):
            return kind
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), None)


def read_head(path: Path, *, wanted: str, for_folder: str, n_bytes: int = 1024) -> bytes:
    """Read the first bytes of a metadata file.

    Parameters
    ----------
    path
        The file.
    wanted
        What it should be, with its article, for messages.
    for_folder
        What to do where it is a folder.
    n_bytes
        How many bytes.

    Returns
    -------
    bytes
        Fewer where the file is shorter.

    Raises
    ------
    MissingFileError
        Where there is no such file.
    MetadataError
        Where it is a folder, a pipe or the like, or cannot be read.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(n_bytes)
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        message, remedy = f"cannot be read: {error.strerror}", "Check its permissions."
        raise MetadataError(Problem(message=message, remedy=remedy, file=str(path))) from error
    if is_there:
        what, remedy = ("a folder", for_folder) if is_folder else ("no regular file", "Copy it.")
        message = f"this is {what}, not {wanted}"
        raise MetadataError(Problem(message=message, remedy=remedy, file=str(path)))
    problem = Problem(
        message="there is no such file",
        remedy="Check the path; it is relative to the working directory.",
        file=str(path),
        kind="missing",
    )
    raise MissingFileError(problem)
