"""Files of the published likelihood functions: their names, and tensors complete or absent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryolike.errors import IncompleteOutputError
from cryolike.store.scores import whole_file
from cryolike.store.tensor_file import TensorFile

__all__ = [
    "MATRICES",
    "OPTIMAL_POSE_FILES",
    "LikelihoodLayout",
    "load_tensor",
    "save_tensor",
    "write_tensor",
]

OPTIMAL_POSE_FILES = {
    "cross_correlation": "cross_correlation/cross_correlation",
    "template": "optimal_pose/optimal_template",
    "displacement_x": "optimal_pose/optimal_displacement_x",
    "displacement_y": "optimal_pose/optimal_displacement_y",
    "inplane_rotation": "optimal_pose/optimal_inplane_rotation",
    "log_likelihood_optimal": "log_likelihood/log_likelihood_optimal_fourier",
    "log_likelihood_integrated": "log_likelihood/log_likelihood_integrated_fourier",
    "cross_correlation_full": "cross_correlation/cross_correlation_pose_msdw",
}
"""What each tensor of a stack of images is called, before its number."""

MATRICES = {
    "log_likelihood_optimal": "optimal_fourier_log_likelihood_matrix",
    "log_likelihood_integrated": "integrated_fourier_log_likelihood_matrix",
    "cross_correlation": "cross_correlation_matrix",
}
"""What each matrix of all structures and images is called."""


@dataclass(frozen=True)
class LikelihoodLayout:
    """Where results of the published functions are.

    Parameters
    ----------
    folder
        The output folder.
    """

    folder: Path

    @property
    def displacements(self) -> Path:
        """Displacements tried, Å, (2, n_displacements)."""
        return self.folder / "displacements_set.pt"

    def tensor(self, kind: str, template: int, stack: int) -> Path:
        """Name a tensor of a stack of images under one structure; `kind` as in the list above."""
        name = f"{OPTIMAL_POSE_FILES[kind]}_stack_{stack:06d}.pt"
        return self.folder / f"template{template}" / name

    def origin(self, kind: str, template: int, stack: int) -> Path:
        """Name the record of what the tensors written together with one were made of."""
        path = self.tensor(kind, template, stack)
        return path.with_name(f"made_of_{path.stem}.txt")

    def matrix(self, kind: str) -> Path:
        """Name a matrix of all structures and images."""
        return self.folder / "likelihood_matrix" / f"{MATRICES[kind]}.pt"

    def templates(self) -> list[int]:
        """Numbers of the structures that have a folder."""
        names = (path.name for path in self.folder.glob("template*") if path.is_dir())
        return sorted(int(name[8:]) for name in names if re.fullmatch(r"template\d+", name))

    def stacks(self, kind: str, template: int) -> list[int]:
        """Numbers of the stacks that have a tensor."""
        model = self.tensor(kind, template, 0)
        found = model.parent.glob(model.name.replace("000000", "[0-9]" * 6))
        return sorted(int(path.stem[-6:]) for path in found)


def save_tensor(path: Path, tensor: Tensor) -> None:
    """Write a tensor as `torch.save` does; the file is complete or absent.

    Raises
    ------
    OutputError
        Where the disk is full or refuses.
    """
    with whole_file(path) as draft:
        torch.save(tensor, draft)


@contextmanager
def write_tensor(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Iterator[TensorFile]:
    """Write a tensor part by part; the file is complete or absent.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Of the whole tensor.

    Yields
    ------
    TensorFile
        To append to.

    Raises
    ------
    OutputError
        Where the disk is full or refuses.
    """
    with whole_file(path) as draft, TensorFile(draft, shape, dtype) as file:
        yield file
        file.finish(path.name)


def load_tensor(path: Path) -> Tensor:
    """Map a tensor into memory.

    Raises
    ------
    IncompleteOutputError
        Where the file is missing or damaged.
    """
    try:
        tensor = torch.load(path, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise IncompleteOutputError(f"{path}: there is no such file.") from None
    except Exception:  # torch's message tells how to run what is in the file
        raise IncompleteOutputError(f"{path} is damaged, or holds no tensor.") from None
    if not isinstance(tensor, Tensor):
        raise IncompleteOutputError(f"{path} holds no tensor.")
    return tensor
