"""Results of a comparison: names of the files, and the table of scores in them.

Every file is complete or absent: it is written beside its place and then renamed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt64

from cryolike.errors import UsageError
from cryolike.store.writer import Reject, writing
from cryolike.units import deg_from_rad, rad_from_deg

__all__ = [
    "RelionPoses",
    "ScoreLayout",
    "ScoreTable",
    "read_rejects",
    "read_results",
    "whole_file",
    "write_results",
]

_ADVICE = "Make room there or choose another output folder, and run the same command again."

_Matrix = Float[np.ndarray, "n_images n_structures"]


@dataclass(frozen=True)
class ScoreLayout:
    """Where the results of a comparison are.

    Parameters
    ----------
    folder
        The output folder.
    """

    folder: Path

    @property
    def table(self) -> Path:
        """One row for each image and structure."""
        return self.folder / "results.parquet"

    @property
    def table_as_text(self) -> Path:
        """The same as text."""
        return self.folder / "results.csv"

    @property
    def matrix(self) -> Path:
        """Integrated log-likelihood of each image under each structure."""
        return self.folder / "log_likelihood_integrated.npy"

    @property
    def scored_star(self) -> Path:
        """The particle set with the poses found, as RELION reads it."""
        return self.folder / "particles_scored.star"

    @property
    def scored_cs(self) -> Path:
        """The particle set with the poses found, as cryoSPARC reads it."""
        return self.folder / "particles_scored.cs"

    @property
    def rejects(self) -> Path:
        """Images that are in none of the others, and why."""
        return self.folder / "rejects.csv"

    @property
    def plots(self) -> Path:
        """Folder of the pictures."""
        return self.folder / "plots"

    def results_present(self) -> list[Path]:
        """Files of results in the folder."""
        files = (self.table, self.table_as_text, self.matrix, self.scored_star, self.scored_cs)
        return [path for path in files if path.exists()]


@contextmanager
def whole_file(target: Path, advice: str = _ADVICE) -> Iterator[Path]:
    """Give a draft to write, which takes the place of a file when all of it is written.

    Parameters
    ----------
    target
        The file; its folder is made where it does not exist.
    advice
        What the user can do where the disk refuses.

    Yields
    ------
    Path
        The draft; gone after an error.

    Raises
    ------
    OutputError
        Where the disk is full or refuses.
    """
    draft = target.with_name(f".{target.name}.part")
    try:
        with writing(target, advice):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            draft.replace(target)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


_RELION_LABELS = {
    "rlnAngleRot": "rot_deg",
    "rlnAngleTilt": "tilt_deg",
    "rlnAnglePsi": "psi_deg",
    "rlnOriginXAngst": "origin_x_A",
    "rlnOriginYAngst": "origin_y_A",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RelionPoses:
    """Poses as RELION writes them; all of one shape.

    Parameters
    ----------
    rot_deg, tilt_deg, psi_deg
        Euler angles, rot and psi in (−180, 180].
    origin_x_A, origin_y_A
        The shift that moves the image back onto the reference.
    """

    rot_deg: np.ndarray
    tilt_deg: np.ndarray
    psi_deg: np.ndarray
    origin_x_A: np.ndarray
    origin_y_A: np.ndarray

    def __post_init__(self) -> None:
        values = [getattr(self, field.name) for field in fields(self)]
        if any(a.shape != values[0].shape for a in values):
            raise ValueError(f"poses of different shapes: {[a.shape for a in values]}")
        if not all(np.isfinite(a).all() for a in values):
            raise UsageError("poses are not finite: leave out the images that have none.")

    def __len__(self) -> int:
        return len(self.rot_deg)

    @classmethod
    def from_model(
        cls,
        *,
        rot_rad: np.ndarray,
        tilt_rad: np.ndarray,
        psi_rad: np.ndarray,
        shift_x_A: np.ndarray,
        shift_y_A: np.ndarray,
    ) -> RelionPoses:
        """Convert poses of the model of an image.

        Parameters
        ----------
        rot_rad, tilt_rad, psi_rad
            RELION's Euler angles.
        shift_x_A, shift_y_A
            Displacement δ of the particle from the origin pixel.
        """
        return cls(
            rot_deg=_wrapped_deg(rot_rad),
            tilt_deg=deg_from_rad(np.asarray(tilt_rad, dtype=np.float64)),
            psi_deg=_wrapped_deg(psi_rad),
            # 0 − 0 has no minus sign
            origin_x_A=0 - np.asarray(shift_x_A, dtype=np.float64),
            origin_y_A=0 - np.asarray(shift_y_A, dtype=np.float64),
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Values by RELION's labels."""
        return {label: getattr(self, name) for label, name in _RELION_LABELS.items()}

    @classmethod
    def of_columns(cls, columns: Mapping[str, np.ndarray]) -> Self:
        """Take values by RELION's labels."""
        return cls(**{name: columns[label] for label, name in _RELION_LABELS.items()})


def _wrapped_deg(angle_rad: np.ndarray) -> np.ndarray:
    """Degrees in (−180, 180]."""
    angle_deg = deg_from_rad(np.asarray(angle_rad, dtype=np.float64))
    wrapped: np.ndarray = 180 - (180 - angle_deg) % 360
    return wrapped


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores of images under structures.

    Images that could not be scored are in none of the arrays.

    Parameters
    ----------
    source_row
        0-based row of the metadata file, (n_images,).
    image_name
        As the metadata names the image, (n_images,).
    uid
        cryoSPARC's identity of the particles, (n_images,); None where the set has none.
    structures
        Names of the structures.
    cross_correlation
        At the best pose, (n_images, n_structures).
    log_likelihood_optimal, log_likelihood_integrated
        At the best pose, and integrated over all poses, nats, (n_images, n_structures).
    left_out
        Bound or estimate of what a fast search left out of the integral, nats; 0 for the exact
        search, (n_images, n_structures).
    rot_rad, tilt_rad, psi_rad
        RELION's Euler angles of the best pose, (n_images, n_structures).
    shift_x_A, shift_y_A
        Displacement δ of the particle from the origin pixel, (n_images, n_structures).

    Raises
    ------
    UsageError
        Where shapes do not fit together, or a number is not finite.
    """

    source_row: Int[np.ndarray, " n_images"]
    image_name: np.ndarray
    uid: UInt64[np.ndarray, " n_images"] | None
    structures: tuple[str, ...]
    cross_correlation: _Matrix
    log_likelihood_optimal: _Matrix
    log_likelihood_integrated: _Matrix
    left_out: _Matrix
    rot_rad: _Matrix
    tilt_rad: _Matrix
    psi_rad: _Matrix
    shift_x_A: _Matrix
    shift_y_A: _Matrix

    def __post_init__(self) -> None:
        n_images = len(self.source_row)
        faults = []
        for name in ("image_name", "uid"):
            values = getattr(self, name)
            if values is not None and values.shape != (n_images,):
                faults.append(f"{name} has shape {values.shape}, expected ({n_images},).")
        for name in _MATRICES:
            values = getattr(self, name)
            if values.shape != (n_images, len(self.structures)):
                faults.append(
                    f"{name} has shape {values.shape}, expected ({n_images}, "
                    f"{len(self.structures)}) for images and structures."
                )
            elif n := int((~np.isfinite(values)).any(axis=1).sum()):
                faults.append(
                    f"{name} is not finite for {n:,} of {n_images:,} images: score these again, or "
                    "leave them out."
                )
        if faults:
            raise UsageError("\n".join(faults))

    def __len__(self) -> int:
        return len(self.source_row)

    @property
    def best_structure(self) -> np.ndarray:
        """Number of the structure with the highest integrated log-likelihood, (n_images,)."""
        best: np.ndarray = self.log_likelihood_integrated.argmax(axis=1)
        return best

    def best_poses(self) -> RelionPoses:
        """Poses under each image's best structure, (n_images,)."""
        images = np.arange(len(self))
        chosen = {name: getattr(self, name)[images, self.best_structure] for name in _POSES}
        return RelionPoses.from_model(**chosen)

    def to_frame(self) -> pd.DataFrame:
        """Make the table of results: image by image, and of each image structure by structure."""
        n_images, n_structures = self.log_likelihood_integrated.shape
        uid = [pd.NA] * n_images if self.uid is None else self.uid
        columns = {
            "source_row": np.repeat(self.source_row, n_structures),
            # As objects: pandas' own strings cannot hold names that are not UTF-8
            "image_name": pd.Series(np.repeat(self.image_name, n_structures), dtype=object),
            "uid": pd.array(uid, dtype="UInt64").repeat(n_structures),
            "structure": np.tile(np.array(self.structures, dtype=object), n_images),
            **{name: getattr(self, name).ravel().astype(np.float64) for name in _SCORES},
        }
        poses = RelionPoses.from_model(**{name: getattr(self, name).ravel() for name in _POSES})
        return pd.DataFrame(columns | poses.columns())


_SCORES = (
    "cross_correlation",
    "log_likelihood_optimal",
    "log_likelihood_integrated",
    "left_out",
)
_POSES = ("rot_rad", "tilt_rad", "psi_rad", "shift_x_A", "shift_y_A")
_MATRICES = (*_SCORES, *_POSES)


def write_results(folder: Path, scores: ScoreTable) -> list[Path]:
    """Write the table of results, as Parquet and as text, and the matrix of log-likelihoods.

    Parameters
    ----------
    folder
        Output folder; made where it does not exist.
    scores
        What was found. Row i · n_structures + s of the table is image i under structure s, and
        element (i, s) of the matrix.

    Returns
    -------
    list of Path
        The files, each complete.

    Raises
    ------
    OutputError
        Where the disk is full or refuses.
    """
    layout, frame = ScoreLayout(Path(folder)), scores.to_frame()
    matrix = np.ascontiguousarray(scores.log_likelihood_integrated, dtype=np.float64)

    def write_matrix(draft: Path) -> None:
        with draft.open("wb") as file:
            np.save(file, matrix, allow_pickle=False)

    def write_parquet(draft: Path) -> None:
        # Parquet holds UTF-8 only, file names any bytes
        names = frame["image_name"].map(_as_utf8)
        frame.assign(image_name=names).to_parquet(draft, engine="pyarrow", index=False)

    def write_text(draft: Path) -> None:
        frame.to_csv(draft, index=False, lineterminator="\n", errors="surrogateescape")

    writers: dict[Path, Callable[[Path], None]] = {
        layout.matrix: write_matrix,
        layout.table: write_parquet,
        layout.table_as_text: write_text,
    }
    for target, write in writers.items():
        with whole_file(target) as draft:
            write(draft)
    return list(writers)


def _as_utf8(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_results(folder: Path) -> ScoreTable:
    """Read the table of results; inverse of `write_results`.

    Parameters
    ----------
    folder
        Output folder.

    Returns
    -------
    ScoreTable
        Names of images that are not UTF-8 are escaped.
    """
    frame = pd.read_parquet(ScoreLayout(Path(folder)).table)
    n_structures = max(1, frame["structure"].nunique())
    first = frame.iloc[::n_structures]

    def matrix(name: str) -> np.ndarray:
        return frame[name].to_numpy(dtype=np.float64).reshape(-1, n_structures)

    return ScoreTable(
        source_row=first["source_row"].to_numpy(dtype=np.int64),
        image_name=first["image_name"].to_numpy(dtype=object),
        uid=None if first["uid"].isna().any() else first["uid"].to_numpy(dtype=np.uint64),
        structures=tuple(frame["structure"].iloc[:n_structures]),
        **{name: matrix(name) for name in _SCORES},
        rot_rad=rad_from_deg(matrix("rlnAngleRot")),
        tilt_rad=rad_from_deg(matrix("rlnAngleTilt")),
        psi_rad=rad_from_deg(matrix("rlnAnglePsi")),
        shift_x_A=0 - matrix("rlnOriginXAngst"),
        shift_y_A=0 - matrix("rlnOriginYAngst"),
    )


def read_rejects(path: Path, metadata_files: Sequence[str]) -> tuple[Reject, ...]:
    """Read the list of images that were left out; none where there is no such file.

    Parameters
    ----------
    path
        Of ``rejects.csv``.
    metadata_files
        That rejects count from.

    Returns
    -------
    tuple of Reject
        In the order of the file.
    """
    if not path.exists():
        return ()
    # The same file may have been given by another path
    number = {Path(file).name: i for i, file in reversed([*enumerate(metadata_files)])}
    number |= {file: i for i, file in enumerate(metadata_files)}
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = list(csv.reader(text))[1:]
    return tuple(
        (number.get(file, number.get(Path(file).name, 0)), int(row), name, reason)
        for file, row, name, reason in rows
    )
