"""Sets of one stack, and ways to change its bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Make,
    Source,
    star_source,
)

NX, NY, NZ, MODE, MX, CELL_X, CELL_Y, MAPC = 0, 4, 8, 12, 28, 40, 44, 64
DMIN, ISPG, NSYMBT, IMOD_STAMP, IMOD_FLAGS, MAP, STAMP, RMS = 76, 88, 92, 152, 156, 208, 212, 216
"""Offsets of words in an MRC header."""


N_IMAGES = 5


def whole_numbers(n_pixels: int = 12) -> np.ndarray:
    """Images of whole numbers from 0 to 100, which every mode holds exactly; float32."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 101, (N_IMAGES, n_pixels, n_pixels)).astype(np.float32)


def stack(
    change: Callable[[bytes], bytes] = bytes,
    images: np.ndarray | None = None,
    name: str = "a.mrcs",
    pixel_size_A: float = 2.0,
) -> Make:
    """Make a set of one stack a.mrcs of 5 images, with its bytes changed."""

    def make(build: SetBuilder) -> Source:
        given = whole_numbers() if images is None else images
        path = build.stack("a.mrcs", given, pixel_size_A)
        content = change(path.read_bytes())
        path.unlink()
        (build.folder / name).write_bytes(content)
        return star_source(build.star([f"{i + 1}@{name}" for i in range(len(given))]))

    return make


def header(*changes: tuple[int, int | float | bytes]) -> Callable[[bytes], bytes]:
    """Change words of a header: at an offset an int32, a float32 or bytes."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for offset, value in changes:
            kind = "<i4" if isinstance(value, int) else "<f4"
            word = value if isinstance(value, bytes) else np.array(value, kind).tobytes()
            changed[offset : offset + len(word)] = word
        return bytes(changed)

    return change
