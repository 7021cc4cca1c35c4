"""One thread for each core, in each of which PyTorch uses one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

__all__ = ["in_single_threads", "n_usable_cores", "single_threaded_workers"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def n_usable_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def in_single_threads(
    workers: ThreadPoolExecutor,
    n_threads: int,
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
) -> list[_Result]:
    """Work on items in threads that stay for later, in each of which PyTorch uses one thread.

    Making threads takes half a millisecond or more each time, as long as an image.

    Parameters
    ----------
    workers
        The threads.
    n_threads
        How many of them to use at most.
    work, items
        What to do, and with what.

    Returns
    -------
    list
        Results in the order of the items, when all are done.
    """
    todo, results = deque(enumerate(items)), dict[int, _Result]()

    def work_alone(_: int) -> None:
        # Each time, since the number of the caller's thread, restored below, counts here too
        torch.set_num_threads(1)
        while True:
            try:
                i, item = todo.popleft()
            except IndexError:
                return
            try:
                results[i] = work(item)
            except BaseException:
                todo.clear()  # for the other threads
                raise

    n_before = torch.get_num_threads()
    try:
        list(workers.map(work_alone, range(min(n_threads, len(items)))))
    finally:
        todo.clear()
        torch.set_num_threads(n_before)
    return [results[i] for i in range(len(items))]


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
