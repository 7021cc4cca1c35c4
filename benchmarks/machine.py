"""What the benchmarks ran on, in a few lines."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["describe_machine"]

_PACKAGES = ("cryolike", "torch", "numpy", "scipy", "numba", "finufft", "starfile")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _disk(folder: Path) -> str:
    """File system, device and driver as far as the system tells."""
    number = folder.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kind = next((m[m.index("-") + 1] for m in mounts if m[2] == name), "unknown file system")
    device = Path("/sys/dev/block") / name
    if not device.exists():
        return kind
    device = device.resolve()
    drivers = [path / "device" / "driver" for path in (device, device.parent)]
    driver = next((path.resolve().name for path in drivers if path.exists()), "unknown driver")
    return f"{kind} on {device.name} ({driver})"


def describe_machine(folder: Path) -> str:
    """List processor, memory, disk, versions and date in Markdown."""
    memory_GB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "\n".join(
        [
            f"- Processor: {_processor()}, {len(os.sched_getaffinity(0))} cores used",
            f"- GPU: {', '.join(cards) or 'none'}",
            f"- Memory: {memory_GB:.0f} GB",
            f"- Disk: {_disk(folder)}",
            f"- Versions: Python {platform.python_version()}, {versions}",
            f"- System: {platform.system()} {platform.release()}",
            f"- Date: {datetime.now(UTC):%Y-%m-%d}",
        ]
    )
