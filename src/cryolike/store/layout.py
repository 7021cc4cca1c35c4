"""Names of our files: the only place that knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["OutputLayout"]

_STACK = "fft/particles_fourier_stack_"
_PLOTS = (
    "plots/particles_phys_stack_",
    "plots/particles_fourier_stack_",
    "plots/power_spectrum_stack_",
)
_FOLDERS = ("fft", "plots")


@dataclass(frozen=True)
class OutputLayout:
    """Where things are in an output folder.

    Parameters
    ----------
    folder
        The output folder.
    """

    folder: Path

    @staticmethod
    def tensor_name(stack: int) -> str:
        """Polar images of a stack."""
        return f"{_STACK}{stack:06d}.pt"

    @staticmethod
    def metadata_name(stack: int) -> str:
        """Metadata of each image of a stack."""
        return f"{_STACK}{stack:06d}.npz"

    @staticmethod
    def plot_names(stack: int) -> tuple[str, str, str]:
        """Pictures of a stack: pixels, polar images, power spectrum."""
        pixels, polar, spectrum = (f"{prefix}{stack:06d}.png" for prefix in _PLOTS)
        return pixels, polar, spectrum

    @property
    def manifest(self) -> Path:
        """The list of all files of a finished run."""
        return self.folder / "manifest.json"

    @property
    def rejects(self) -> Path:
        """Rows that the caller chose to skip."""
        return self.folder / "rejects.csv"

    @property
    def wip(self) -> Path:
        """Folder of a run that has not finished; gone afterwards."""
        return self.folder / ".cryolike-wip"

    @property
    def wip_header(self) -> Path:
        """What the unfinished run was asked to do."""
        return self.wip / "run.json"

    @property
    def wip_journal(self) -> Path:
        """Stacks that the unfinished run has completed, a line each."""
        return self.wip / "stacks.jsonl"

    @property
    def wip_lock(self) -> Path:
        """Held by the process that writes."""
        return self.wip / "lock"

    def path(self, name: str) -> Path:
        """Path of a file by the name that the manifest gives it."""
        return self.folder / name

    def results_present(self) -> list[Path]:
        """Files of ours in the folder, finished or not, except those of `wip`."""
        patterns = [f"{prefix}{'[0-9]' * 6}.*" for prefix in (_STACK, *_PLOTS)]
        matches = (path for pattern in patterns for path in self.folder.glob(pattern))
        found = [path for path in matches if path.is_file() or path.is_symlink()]
        found += [path for path in (self.manifest, self.rejects) if path.exists()]
        return sorted(found)

    def remove_empty_folders(self) -> None:
        """Remove the folders for stacks and plots where nothing is in them."""
        for name in _FOLDERS:
            folder = self.folder / name
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
