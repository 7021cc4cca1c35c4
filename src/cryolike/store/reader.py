"""Opening a converted set again, without loading it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import IncompleteOutputError
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import Manifest, StackRecord
from cryolike.store.metadata import frame_of_arrays

__all__ = ["ConvertedImage", "StackSet", "open_stacks", "read_arrays"]


@dataclass(frozen=True, kw_only=True)
class ConvertedImage:
    """One image and where it came from.

    Parameters
    ----------
    polar_image
        Complex, (n_shells, n_inplanes).
    metadata_file, source_row
        STAR or .cs file, and the 0-based row of it.
    image_file, image_index
        Stack, and the 0-based image of it.
    """

    polar_image: torch.Tensor
    metadata_file: str
    source_row: int
    image_file: str
    image_index: int


class StackSet:
    """A converted set: a sequence of polar images in the order of the source rows.

    Stacks are mapped into memory, not loaded; only what is used is read.

    Parameters
    ----------
    folder
        Output folder of a finished conversion.

    Examples
    --------
    >>> stacks = open_stacks("converted")          # doctest: +SKIP
    >>> stacks.table.query("defocus_u_A > 15000")  # doctest: +SKIP
    >>> stacks[17].source_row, stacks[17].polar_image.shape  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path) -> None:
        self.layout = OutputLayout(Path(folder))
        self.manifest = Manifest.load(self.layout.manifest)
        self._stacks = [stack for stack in self.manifest.stacks if stack.n_images]
        self._ends = np.cumsum([stack.n_images for stack in self._stacks])

    def __repr__(self) -> str:
        return f"<StackSet {self.layout.folder}: {len(self):,} images in {self.n_stacks:,} stacks>"

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._stacks else 0

    @property
    def n_stacks(self) -> int:
        """Number of stacks that hold images."""
        return len(self._stacks)

    @cached_property
    def descriptor(self) -> ImageDescriptor:
        """Grids and precision of the images."""
        return ImageDescriptor.from_arrays(self.manifest.header.descriptor)

    def images(self, i_stack: int) -> torch.Tensor:
        """Polar images of one stack, mapped: complex, (n_images, n_shells, n_inplanes)."""
        path = self.layout.path(self.layout.tensor_name(self._stacks[i_stack].index))
        try:
            images = torch.load(path, weights_only=True, mmap=True)
        except (OSError, RuntimeError) as error:
            raise _unreadable(path, str(error)) from error
        except Exception:  # torch's message tells how to run what is in the file
            raise _unreadable(path, "it holds other things than a tensor") from None
        if not isinstance(images, torch.Tensor):
            raise _unreadable(path, "it holds no tensor")
        return images

    def metadata(self, i_stack: int) -> dict[str, np.ndarray]:
        """Everything stored about one stack, by its key in the file."""
        return read_arrays(self.layout.path(self.layout.metadata_name(self._stacks[i_stack].index)))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Iterate over the stacks' images."""
        return (self.images(i) for i in range(self.n_stacks))

    def frame(self, i_stack: int) -> pd.DataFrame:
        """One row an image of one stack, with its place in it."""
        stack = self._stacks[i_stack]
        with self._reading_metadata(i_stack):
            frame = frame_of_arrays(self.metadata(i_stack))
            frame.insert(0, "stack", stack.index)
            frame.insert(1, "index_in_stack", np.arange(stack.n_images))
            if len(frame) != stack.n_images:
                raise ValueError(f"{len(frame)} rows for {stack.n_images} images")
            return frame

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row an image, in the order of the set, with its place in the stacks."""
        frames = [self.frame(i) for i in range(self.n_stacks)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def __getitem__(self, i_image: int) -> ConvertedImage:
        """Image by its position in the set."""
        i_image = range(len(self))[i_image]
        i_stack = int(np.searchsorted(self._ends, i_image, side="right"))
        within = i_image - (int(self._ends[i_stack - 1]) if i_stack else 0)
        with self._reading_metadata(i_stack):
            arrays = self.metadata(i_stack)
            return ConvertedImage(
                polar_image=self.images(i_stack)[within],
                metadata_file=str(arrays["metadata_files"][arrays["metadata_index"][within]]),
                source_row=int(arrays["source_row"][within]),
                image_file=str(arrays["files"][within]),
                image_index=int(arrays["idxs"][within]),
            )

    @contextmanager
    def _reading_metadata(self, i_stack: int) -> Iterator[None]:
        """Say of arrays that are missing, or do not fit together, which file holds them."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield
        except IncompleteOutputError:
            raise
        except Exception as error:
            path = self.layout.path(self.layout.metadata_name(self._stacks[i_stack].index))
            raise _unreadable(path, f"its arrays do not fit together: {error!r}") from error

    @property
    def stack_records(self) -> tuple[StackRecord, ...]:
        """What the manifest says of each stack that holds images."""
        return tuple(self._stacks)


def open_stacks(folder: str | Path) -> StackSet:
    """Open a converted set.

    Parameters
    ----------
    folder
        Output folder of a finished conversion.

    Returns
    -------
    StackSet
        Its stacks, one table of all images, and the way from each image to its source row.

    Raises
    ------
    IncompleteOutputError
        Where the folder holds no finished conversion, or a changed manifest.
    """
    return StackSet(folder)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the ``.npz`` of a stack.

    Raises
    ------
    IncompleteOutputError
        Where it is missing or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            # Ours are not compressed, so what is read is no larger than the file
            is_compressed = any(entry.compress_type for entry in data.zip.infolist())
            arrays = {} if is_compressed else {key: data[key] for key in data.files}
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged files
        raise _unreadable(path, str(error)) from error
    if is_compressed:
        raise _unreadable(path, "it is compressed")
    return arrays


def _unreadable(path: Path, reason: str) -> IncompleteOutputError:
    msg = f"{path} cannot be opened ({reason}). `cryolike verify` tells what is damaged."
    return IncompleteOutputError(msg)
