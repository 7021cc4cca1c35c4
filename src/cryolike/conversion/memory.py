"""Memory for results that is used again when nothing refers to it any more.

The system hands out new memory page by page, when each is first written to. For a polar image that
takes a good part of the time of its transform, and more where processes share the memory.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Memory", "SharedMemory", "TensorKind", "receive", "shared_message"]

TensorKind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""

_LINE_BYTES = 64
"""Tensors begin where lines of the processor's caches do."""


class Memory:
    """Memory of one process.

    Parameters
    ----------
    n_kept
        How many pieces of a size are kept at most while nothing refers to them.
    """

    def __init__(self, n_kept: int) -> None:
        self._free: defaultdict[int, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=n_kept))

    def tensors(self, kinds: Sequence[TensorKind]) -> list[Tensor]:
        """Make tensors on the processor with unknown values, all in one piece of memory.

        Parameters
        ----------
        kinds
            Their shapes and types.

        Returns
        -------
        list of Tensor
            The piece is used again when nothing refers to any of them, nor to parts of them.
        """
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds]
        ends = np.cumsum([-(-size // _LINE_BYTES) * _LINE_BYTES for size in sizes]).tolist()
        piece = self._lend(ends[-1])
        starts = [0, *ends]
        return [
            piece[start : start + size].view(dtype).view(shape)
            for start, size, (shape, dtype) in zip(starts, sizes, kinds, strict=False)
        ]

    def _lend(self, n_bytes: int) -> Tensor:
        free = self._free[n_bytes]
        try:  # without looking first: other threads ask too
            piece = free.pop()
        except IndexError:
            piece = _aligned(np.empty(n_bytes + _LINE_BYTES, dtype=np.uint8))
        # All tensors with this memory hold this array, so its end is that of the last of them
        lent = piece[:n_bytes]
        weakref.finalize(lent, free.append, piece).atexit = False
        return torch.from_numpy(lent)


def _aligned(array: np.ndarray) -> np.ndarray:
    """Part of an array from where a line of the caches begins."""
    return array[-array.ctypes.data % _LINE_BYTES :]


class SharedMemory(Memory):
    """Memory that another process gets without copying, by `shared_message` and `receive`.

    A piece is used again when nothing refers to it in either process.

    Parameters
    ----------
    n_kept
        As for `Memory`.
    """

    def __init__(self, n_kept: int) -> None:
        super().__init__(n_kept)
        self._n_kept = n_kept
        self._pieces: defaultdict[int, list[_SharedPiece]] = defaultdict(list)

    def _lend(self, n_bytes: int) -> Tensor:
        pieces = self._pieces[n_bytes]
        idle = [piece for piece in pieces if piece.is_idle]
        for piece in idle[self._n_kept :]:
            pieces.remove(piece)
        if not idle:
            idle = [_SharedPiece(n_bytes)]
            pieces += idle
        return torch.from_numpy(idle[0].lend())


class _SharedPiece:
    """A file without a name, in memory: how often receivers have given it back, then the values."""

    def __init__(self, n_bytes: int) -> None:
        self.descriptor = os.memfd_create("cryolike")
        weakref.finalize(self, os.close, self.descriptor).atexit = False
        self.file_bytes = _LINE_BYTES + n_bytes
        os.ftruncate(self.descriptor, self.file_bytes)
        self._n_returned, self._values = _mapped(self.descriptor, self.file_bytes)
        self._is_lent, self._n_sent, self._process = False, 0, os.getpid()

    @property
    def is_idle(self) -> bool:
        return not self._is_lent and self._n_sent == int(self._n_returned[0])

    def lend(self) -> np.ndarray:
        """Give the values; nobody else gets them before they are forgotten."""
        lent = self._values[:]
        self._is_lent = True
        weakref.finalize(lent, setattr, self, "_is_lent", False).atexit = False
        _piece_at[lent.ctypes.data] = self
        return lent

    def send(self) -> Any:
        """Give a descriptor that another process can have; None in one that got this by forking."""
        if self._process != os.getpid():
            return None
        self._n_sent += 1
        return DupFd(self.descriptor)


_piece_at: weakref.WeakValueDictionary[int, _SharedPiece] = weakref.WeakValueDictionary()
"""Pieces by their addresses in this process."""


def _mapped(descriptor: int, n_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the count and the values that a file holds."""
    memory = np.frombuffer(mmap.mmap(descriptor, n_bytes), dtype=np.uint8)
    return memory[:8].view(np.uint64), memory[_LINE_BYTES:]


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's memory, shape and type are all there is of it."""
    is_lazy = tensor.is_conj() or tensor.is_neg()
    return tensor.is_contiguous() and not is_lazy and not tensor.requires_grad


def shared_message(tensors: Sequence[Tensor]) -> tuple[Any, ...] | None:
    """Say how another process gets tensors without copying.

    Parameters
    ----------
    tensors
        As `SharedMemory.tensors` made them in one call, or parts of these.

    Returns
    -------
    tuple or None
        Arguments for `receive` there, once; None where the tensors are not such.
    """
    addresses = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    piece = _piece_at.get(addresses.pop()) if len(addresses) == 1 else None
    if piece is None or not all(_is_plain(tensor) for tensor in tensors):
        return None
    descriptor = piece.send()
    if descriptor is None:
        return None
    places = [
        (tensor.storage_offset() * tensor.itemsize, tuple(tensor.shape), tensor.dtype)
        for tensor in tensors
    ]
    return descriptor, piece.file_bytes, places


def receive(
    descriptor: Any, n_bytes: int, places: Sequence[tuple[int, tuple[int, ...], torch.dtype]]
) -> list[Tensor]:
    """Get tensors that another process has sent; their memory goes back when they are forgotten.

    Parameters
    ----------
    descriptor, n_bytes, places
        From `shared_message`.

    Returns
    -------
    list of Tensor
        They share memory with the sender, who does not use it meanwhile.
    """
    number = descriptor.detach()
    try:
        n_returned, lent = _mapped(number, n_bytes)
    finally:
        os.close(number)
    weakref.finalize(lent, _give_back, n_returned, os.getpid()).atexit = False
    values = torch.from_numpy(lent)
    return [
        values[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for start, shape, dtype in places
    ]


def _give_back(n_returned: np.ndarray, process: int) -> None:
    # A process that was forked meanwhile has the tensors too, but they are not its own to return
    if process == os.getpid():
        n_returned += 1
