"""One thread for each core, in each of which PyTorch uses one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

__all__ = ["n_usable_cores", "single_threaded_workers"]


def n_usable_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


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
