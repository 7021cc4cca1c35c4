"""Small particle sets in STAR, .cs and MRC files."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

Column = Sequence[object]


@dataclass(frozen=True)
class Built:
    """A set on disk: its metadata file, and the image of each row as float64."""

    path: Path
    images: np.ndarray
    stacks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SetBuilder:
    """Writes metadata and stacks below a folder."""

    folder: Path
    pixel_size_A: float = 2.0
    written: list[Path] = field(default_factory=list)

    @staticmethod
    def noise(n_images: int, n_pixels: int = 12, seed: int = 0) -> np.ndarray:
        """Images of noise, float32."""
        rng = np.random.default_rng(seed)
        return rng.normal(0.3, 1.0, (n_images, n_pixels, n_pixels)).astype(np.float32)

    def stack(self, name: str, images: np.ndarray, pixel_size_A: float = 0.0) -> Path:
        """Write an MRC stack; gzip-compressed where the name ends in .gz."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        with warnings.catch_warnings(), mrcfile.new(plain, overwrite=True) as stream:
            warnings.simplefilter("ignore", RuntimeWarning)  # of NaN and infinite pixels
            stream.set_data(images)
            stream.set_image_stack()
            stream.voxel_size = pixel_size_A
        if plain != path:
            path.write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()
        self.written.append(path)
        return path

    def star(
        self,
        names: Sequence[str] | int,
        name: str = "particles.star",
        *,
        columns: Mapping[str, Column | object] | None = None,
        without: Sequence[str] = (),
        pixel_size_A: float | None = None,
        optics: Mapping[str, Column] | None = None,
    ) -> Path:
        """Write a RELION 3.1 file; with a number for `names`, that many rows without names."""
        n_rows = names if isinstance(names, int) else len(names)
        rows: dict[str, Any] = {} if isinstance(names, int) else {"rlnImageName": names}
        number = np.arange(n_rows)
        rows |= {
            "rlnOpticsGroup": [1] * n_rows,
            "rlnDefocusU": 10_000.0 + 10 * number,
            "rlnDefocusV": 9_500.0 + 10 * number,
            "rlnDefocusAngle": 3.0 * number,
            "rlnPhaseShift": 0.5 * number,
        }
        for label, value in (columns or {}).items():
            is_column = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)
            rows[label] = value if is_column else [value] * n_rows
        groups: dict[str, Any] = {
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
            "rlnImagePixelSize": [pixel_size_A or self.pixel_size_A],
            **(optics or {}),
        }
        tables = [("optics", groups), ("particles", rows)]
        text = "".join(
            _star_table(block, {k: v for k, v in table.items() if k not in without})
            for block, table in tables
        )
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.written.append(path)
        return path

    def relion(
        self,
        counts: Sequence[int] = (7, 2, 6),
        *,
        n_pixels: int = 12,
        order: Sequence[int] | None = None,
        images: np.ndarray | None = None,
        **keywords: Any,
    ) -> Built:
        """Write stacks of so many images each, and rows for all of them in the given order."""
        n_images = sum(counts)
        images = self.noise(n_images, n_pixels) if images is None else images
        edges = np.cumsum([0, *counts])
        # Names fall while numbers rise: sorting by file name would change the order
        names = [f"Particles/stack_{len(counts) - i:02d}.mrcs" for i in range(len(counts))]
        stacks = tuple(
            self.stack(name, images[a:b])
            for name, a, b in zip(names, edges, edges[1:], strict=False)
        )
        labels = [
            f"{number + 1:06d}@{name}"
            for name, count in zip(names, counts, strict=True)
            for number in range(count)
        ]
        rows = list(range(n_images)) if order is None else list(order)
        star = self.star([labels[row] for row in rows], **keywords)
        return Built(star, images[rows].astype(np.float64), stacks)

    def pairs(
        self, counts: Sequence[int] = (7, 2, 6), *, n_pixels: int = 12
    ) -> tuple[list[Path], list[Path]]:
        """Write pairs of STAR files without names and stacks: STAR files, stacks."""
        images = self.noise(sum(counts), n_pixels)
        edges = np.cumsum([0, *counts])
        stars = [self.star(count, f"pair_{i}.star") for i, count in enumerate(counts)]
        stacks = [
            self.stack(f"pair_{i}.mrcs", images[a:b]) for i, (a, b) in enumerate(pairwise(edges))
        ]
        return stars, stacks

    def cryosparc(
        self,
        paths: Sequence[str],
        idx: Sequence[int],
        name: str = "particles.cs",
        **fields: Column | np.ndarray,
    ) -> Path:
        """Write a .cs file; `fields` are named with '__' for '/'."""
        n_rows = len(paths)
        number = np.arange(n_rows)
        columns: dict[str, np.ndarray] = {
            "uid": np.uint64(2**63) + number.astype(np.uint64),
            "blob/path": np.array(paths, dtype="S"),
            "blob/idx": np.array(idx, dtype=np.uint32),
            "blob/psize_A": np.full(n_rows, self.pixel_size_A, dtype=np.float32),
            "ctf/df1_A": (10_000.0 + 10 * number).astype(np.float32),
            "ctf/df2_A": (9_500.0 + 10 * number).astype(np.float32),
            "ctf/df_angle_rad": (0.05 * number).astype(np.float32),
            "ctf/phase_shift_rad": np.zeros(n_rows, dtype=np.float32),
            "ctf/cs_mm": np.full(n_rows, 2.7, dtype=np.float32),
            "ctf/accel_kv": np.full(n_rows, 300, dtype=np.float32),
            "ctf/amp_contrast": np.full(n_rows, 0.1, dtype=np.float32),
        }
        columns |= {key.replace("__", "/"): np.asarray(value) for key, value in fields.items()}
        dtype: list[Any] = [(key, value.dtype, value.shape[1:]) for key, value in columns.items()]
        records = np.zeros(n_rows, dtype=dtype)
        for key, value in columns.items():
            records[key] = value
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            np.save(stream, records)
        self.written.append(path)
        return path


def _star_table(block: str, columns: Mapping[str, Column]) -> str:
    text = io.StringIO()
    text.write(f"\ndata_{block}\n\nloop_\n")
    for i, label in enumerate(columns, 1):
        text.write(f"_{label} #{i}\n")
    for values in zip(*columns.values(), strict=True):
        text.write(" ".join(map(str, values)) + "\n")
    return text.getvalue()
