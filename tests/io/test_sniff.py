"""Files of other kinds, and paths that are no files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cryolike.errors import MetadataError, MissingFileError
from cryolike.io.sniff import read_head, recognise


def zip_archive() -> bytes:
    """Bytes of an archive with one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.star", "data_\n")
    return stream.getvalue()


def numpy_file() -> bytes:
    """Bytes of a saved array."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "web page", "Download"),
        (b"<HTML>", "web page", "Download"),
        (gzip.compress(b"x", mtime=0), "gzip", "gunzip"),
        (bz2.compress(b"x"), "bzip2", "bunzip2"),
        (lzma.compress(b"x"), "xz", "unxz"),
        (zip_archive(), "ZIP", "Unpack"),
        (numpy_file(), "NumPy", ""),
    ],
)
def test_kinds_are_recognised(content: bytes, name: str, remedy: str) -> None:
    """What programs write is named, with the remedy where there is one for every reader."""
    kind = recognise(content)
    assert kind is not None
    assert name in kind.name
    assert remedy in kind.remedy
    assert bool(remedy) == bool(kind.remedy)


@pytest.mark.parametrize(
    "content", [b"", b"data_optics\n", b"# a\n<html>", b"\x06\0\0\0" * 256, b" PK\x03\x04"]
)
def test_others_are_not(content: bytes) -> None:
    """Nothing is said of files that a reader may want, or that are of no known kind."""
    assert recognise(content) is None


def test_head_of_a_file(tmp_path: Path) -> None:
    """No more than the bytes that are asked for are read, and fewer where there are fewer."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_head(path, wanted="a file", for_folder="", n_bytes=2) == b"ab"
    assert read_head(path, wanted="a file", for_folder="") == b"abc"


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe are told apart, and none is waited for."""
    with pytest.raises(MissingFileError, match="no such file"):
        read_head(tmp_path / "absent", wanted="a STAR file", for_folder="")
    with pytest.raises(MetadataError, match="a folder, not a STAR file") as caught:
        read_head(tmp_path, wanted="a STAR file", for_folder="Give the file in it.")
    assert "Give the file in it." in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MetadataError, match="no regular file"):
        read_head(tmp_path / "pipe", wanted="a STAR file", for_folder="")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason is told."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a"
    path.write_bytes(b"abc")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MetadataError, match="cannot be read: Permission denied"):
        read_head(path, wanted="a STAR file", for_folder="")
