"""Memory that is used again, in one process and between two, never while anything refers to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cryolike.conversion.memory import (
    Memory,
    SharedMemory,
    TensorKind,
    receive,
    shared_message,
)

KINDS: list[TensorKind] = [
    ((3, 5), torch.complex64),
    ((3, 0), torch.float32),
    ((3,), torch.int64),
    ((3, 2, 7), torch.float64),
]


def place(tensors: list[Tensor]) -> int:
    """Address of the first."""
    return tensors[0].data_ptr()


@pytest.mark.parametrize("make", [Memory, SharedMemory])
def test_tensors_have_places_of_their_own(make: Callable[[int], Memory]) -> None:
    """They have the shapes and types asked for, begin at cache lines and do not overlap."""
    memory = make(2)
    for _ in range(2):
        tensors = memory.tensors(KINDS)
        assert [(tuple(tensor.shape), tensor.dtype) for tensor in tensors] == KINDS
        assert {tensor.data_ptr() % 64 for tensor in tensors} == {0}
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
        for number, tensor in enumerate(tensors):
            tensor.fill_(number)
        for number, tensor in enumerate(tensors):
            assert torch.all(tensor == number)


@pytest.mark.parametrize("make", [Memory, SharedMemory])
@pytest.mark.parametrize(
    "keep",
    [
        lambda tensors: tensors[2],
        lambda tensors: tensors[0][1, 2:].real,
        lambda tensors: tensors[3].numpy()[1],
        lambda tensors: tensors[3].numpy().ravel().view(np.uint8)[3:4],
        lambda tensors: tensors[0].untyped_storage(),
        lambda tensors: memoryview(tensors[3].numpy()),
    ],
    ids=["tensor", "part", "array", "bytes", "storage", "view"],
)
def test_nothing_that_is_referred_to_is_used_again(
    make: Callable[[int], Memory], keep: Callable[[list[Tensor]], Any]
) -> None:
    """Any reference to any part keeps the whole; when the last is gone, the place is free."""
    memory = make(2)
    kept = keep(memory.tensors(KINDS))
    first = kept.data_ptr() if hasattr(kept, "data_ptr") else np.asarray(kept).ctypes.data
    others = [memory.tensors(KINDS) for _ in range(4)]
    for tensors in others:
        start = tensors[0].untyped_storage().data_ptr()
        assert not start <= first < start + tensors[0].untyped_storage().nbytes()
    places = {place(tensors) for tensors in others}
    del others, tensors, kept
    again = {place(memory.tensors(KINDS)) for _ in range(20)}
    assert len(again | places) <= 5  # the one that was kept, too


def n_open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def n_maps() -> int:
    """Files of shared memory that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:cryolike")


def test_only_so_many_pieces_are_kept() -> None:
    """What is given back beyond that is the system's again."""
    memory = Memory(2)
    held = [memory.tensors(KINDS) for _ in range(6)]
    del held
    assert [len(free) for free in memory._free.values()] == [2]
    shared, before = SharedMemory(2), n_open_files()
    held = [shared.tensors(KINDS) for _ in range(6)]
    assert n_open_files() == before + 12  # each has one of its own and its map's
    del held
    shared.tensors(KINDS)
    assert n_open_files() == before + 4
    del shared
    assert n_open_files() == before


def sent_and_received(tensors: list[Tensor]) -> list[Tensor]:
    """As another process has them; a process may also send something to itself."""
    message = shared_message(tensors)
    assert message is not None
    return receive(*message)


def test_a_receiver_has_the_same_memory() -> None:
    """What one side writes, the other reads, at another address."""
    tensors = SharedMemory(1).tensors(KINDS)
    received = sent_and_received(tensors)
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in received] == KINDS
    tensors[3].copy_(torch.arange(42).view(3, 2, 7))
    received[2].fill_(7)
    assert torch.equal(received[3], tensors[3])
    assert tensors[2].tolist() == [7, 7, 7]
    assert place(received) != place(tensors)


def test_parts_can_be_sent() -> None:
    """Some of the tensors, and rows of them, arrive as they are."""
    tensors = SharedMemory(1).tensors(KINDS)
    tensors[3].copy_(torch.arange(42).view(3, 2, 7))
    (received,) = sent_and_received([tensors[3][1:]])
    assert torch.equal(received, tensors[3][1:])


@pytest.mark.parametrize("n_times", [1, 2])
def test_memory_of_a_receiver_is_not_used_again(n_times: int) -> None:
    """A piece that was sent is free when all who got it have forgotten it, and not before."""
    memory = SharedMemory(2)
    tensors = memory.tensors(KINDS)
    tensors[2].fill_(5)
    first = place(tensors)
    received = [sent_and_received(tensors)[2].numpy() for _ in range(n_times)]
    del tensors
    while received:
        memory.tensors(KINDS)[2].fill_(6)
        assert place(memory.tensors(KINDS)) != first
        assert received.pop().tolist() == [5, 5, 5]
    found = [memory.tensors(KINDS) for _ in range(2)]
    assert first in map(place, found)


def test_a_message_on_its_way_keeps_the_memory() -> None:
    """Between sending and receiving nobody refers to the values, but they must stay."""
    memory = SharedMemory(1)
    tensors = memory.tensors(KINDS)
    tensors[2].fill_(5)
    message = shared_message(tensors)
    del tensors
    memory.tensors(KINDS)[2].fill_(6)
    assert message is not None
    assert receive(*message)[2].tolist() == [5, 5, 5]


def test_only_whole_messages_of_one_piece_go_without_copying() -> None:
    """Other tensors, those of two pieces, and columns have to be copied."""
    memory = SharedMemory(2)
    one, other = memory.tensors(KINDS), memory.tensors(KINDS)
    assert shared_message(Memory(1).tensors(KINDS)) is None
    assert shared_message([torch.zeros(3)]) is None
    assert shared_message([one[0], other[2]]) is None
    assert shared_message([one[0][:, 1:]]) is None
    assert shared_message([one[0].conj()]) is None


def test_a_forked_process_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what its parent had, but the parent still uses that; nor can it send it on."""
    memory = SharedMemory(1)
    tensors = memory.tensors(KINDS)
    first, received = place(tensors), sent_and_received(tensors)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 0)
        assert shared_message(tensors) is None
        del received
    del tensors
    assert place(memory.tensors(KINDS)) != first


def test_received_memory_is_unmapped() -> None:
    """Files and maps of what is forgotten are closed."""
    memory = SharedMemory(1)
    sent_and_received(memory.tensors(KINDS))  # starts what sends descriptors
    before = n_open_files(), n_maps()
    received = sent_and_received(memory.tensors(KINDS))
    assert n_maps() > before[1]
    del received
    after = n_open_files(), n_maps()
    assert after == before
