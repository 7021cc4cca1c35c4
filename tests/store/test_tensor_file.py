"""Files of tensors written part by part, against what PyTorch and zipfile read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from cryolike.store.manifest import checksum_of_file
from cryolike.store.tensor_file import TensorFile


def some_tensor(n: int, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    """Make random values."""
    return torch.randn((n, 5, 8), dtype=dtype, generator=torch.Generator().manual_seed(n))


def write(path: Path, tensor: torch.Tensor, n_at_once: int) -> str:
    """Write in parts; return the checksum recorded."""
    with TensorFile(path, tensor.shape, tensor.dtype) as file:
        for part in tensor.split(n_at_once):
            file.append(part.numpy())
        record = file.finish("some.pt")
    assert record.name == "some.pt"
    assert record.n_bytes == path.stat().st_size
    return record.xxh3_128


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("n", [1, 7, 300, 70_000])
def test_file_is_what_pytorch_would_have_written(
    tmp_path: Path, n: int, dtype: torch.dtype
) -> None:
    """All but the identifier that PyTorch draws from checksums is the same, byte for byte."""
    path, tensor = tmp_path / "a.pt", some_tensor(n, dtype)
    checksum = write(path, tensor, 64)
    assert checksum == checksum_of_file(path)
    saved = io.BytesIO()
    torch.save(tensor, saved)
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(saved) as theirs:
        assert ours.testzip() is None
        assert ours.namelist() == theirs.namelist()
        for entry in theirs.infolist():
            found = ours.getinfo(entry.filename)
            assert found.header_offset == entry.header_offset
            if not entry.filename.endswith("serialization_id"):
                assert ours.read(entry.filename) == theirs.read(entry.filename)
    assert torch.equal(torch.load(path, weights_only=True), tensor)
    assert torch.equal(torch.load(path, weights_only=True, mmap=True), tensor)


def test_parts_do_not_matter(tmp_path: Path) -> None:
    """The same bytes come out whatever the size of the parts."""
    tensor = some_tensor(50)
    assert write(tmp_path / "a.pt", tensor, 1) == write(tmp_path / "b.pt", tensor, 50)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_values_must_be_as_many_as_promised(tmp_path: Path) -> None:
    """Neither fewer nor more values than the shape says make a file."""
    values = some_tensor(3)
    with TensorFile(tmp_path / "a.pt", values.shape, values.dtype) as file:
        file.append(values[:2].numpy())
        with pytest.raises(ValueError, match="320 bytes of the tensor are missing"):
            file.finish("a.pt")
        with pytest.raises(ValueError, match="320 bytes more than the tensor has"):
            file.append(values[:2].numpy())


def test_tensor_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not even promise as much memory, the file is the same."""
    tensor = some_tensor(20)
    expected = write(tmp_path / "a.pt", tensor, 7)
    empty = torch.empty

    def refuse(*sizes: Any, **keywords: Any) -> torch.Tensor:
        if not isinstance(result := empty(*sizes, **keywords), FakeTensor):
            raise RuntimeError("can't allocate memory")  # noqa: TRY004
        return result

    monkeypatch.setattr(torch, "empty", refuse)
    assert write(tmp_path / "b.pt", tensor, 7) == expected
