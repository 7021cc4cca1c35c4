"""Threads that stay, and what they leave behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cryolike.threads import in_single_threads


def numbers_of_threads() -> tuple[int, int]:
    """How many threads PyTorch would use here, and in a thread that is new to it."""
    with ThreadPoolExecutor(1) as new:
        return torch.get_num_threads(), new.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 50])
def test_results_come_in_order_from_no_more_threads_than_asked_for(n_threads: int) -> None:
    """Whoever finishes first; PyTorch has one thread in each and its own number afterwards."""
    used, numbers = set[int](), set[int]()

    def work(item: int) -> int:
        used.add(threading.get_ident())
        numbers.add(torch.get_num_threads())
        time.sleep(0.002 * (item % 3))
        return item**2

    before = numbers_of_threads()
    with ThreadPoolExecutor(4) as workers:
        for _ in range(2):
            found = in_single_threads(workers, n_threads, work, range(20))
            assert found == [i**2 for i in range(20)]
            assert numbers_of_threads() == before
    assert 1 <= len(used) <= min(n_threads, 4)
    assert numbers == {1}


def test_an_error_ends_the_work_and_is_not_kept() -> None:
    """Items not begun are left, and nothing that the work refers to stays."""

    class Held:
        """Something that is to go when nobody needs it."""

    held, begun = Held(), list[int]()
    alive = weakref.ref(held)

    def work(item: int, _: Held = held) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("one")
        time.sleep(0.05)

    before = numbers_of_threads()
    gc.disable()
    try:
        with ThreadPoolExecutor(2) as workers:
            with pytest.raises(ValueError, match="one"):
                in_single_threads(workers, 2, work, range(100))
            assert numbers_of_threads() == before
        del held, work
        assert alive() is None
    finally:
        gc.enable()
    assert len(begun) < 10
