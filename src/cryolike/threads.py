"""One thread for each core, in each of which PyTorch uses one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

__all__ = ["in_single_threads", "n_usable_cores", "single_threaded_workers"]


def n_usable_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_single_threads(
    workers: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """Work on items in threads that stay for later, in each of which PyTorch uses one thread.

    Making threads takes a millisecond, in which two cores transform ten images.

    Parameters
    ----------
    workers
        The threads.
    work, items
        What to do, and with what.

    Returns
    -------
    list
        Results in the order of the items, when all are done.
    """

    def work_alone(item: _Item) -> _Result:
        torch.set_num_threads(1)
        return work(item)

    n_before = torch.get_num_threads()
    try:
        under_way = [workers.submit(work_alone, item) for item in items]
        wait(under_way)
    finally:
        torch.set_num_threads(n_before)
    return [one.result() for one in under_way]


@contextmanager
def single_threaded_workers(n_workers: int) -> Iterator[ThreadPoolExecutor]:
    """Make threads in each of which PyTorch uses one thread.

    Threads of PyTorch's own wait for each other at every step, which is slow as soon as anything
    else, such as our reading and writing, wants a core.

    Parameters
    ----------
    n_workers
        Threads to make.

    Yields
    ------
    ThreadPoolExecutor
        Shut down at the end.
    """
    n_before = torch.get_num_threads()
    set_one = partial(torch.set_num_threads, 1)
    try:
        with ThreadPoolExecutor(n_workers, initializer=set_one) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_before)
