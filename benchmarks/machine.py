"""Facts about the machine and the software that a figure is worth nothing without."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("ray", "torch", "transformers", "transformer-lens", "sae-lens", "fastapi", "uvicorn", "aiohttp")
_IDLE_SAMPLE_S = 2.0


def machine_facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """The machine, the versions, the time, and how busy the machine already is: in a quiet one `busy_percent` is ~0."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "busy_percent": psutil.cpu_percent(interval=_IDLE_SAMPLE_S),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
