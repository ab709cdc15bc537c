"""Describes the machine that the figures were taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "faust-streaming", "aiokafka")


def describe_machine() -> dict[str, Any]:
    """Return cpu, cores (usable by this process), ram_gb, system, python, packages, gpu and load (1 min)."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(psutil.virtual_memory().total / 1024**3),
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "gpu": _gpu(),
        "load": round(os.getloadavg()[0], 1),
    }


def one_line(machine: dict[str, Any]) -> str:
    """Return the description as one line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    gpu = f", {machine['gpu']}" if machine["gpu"] else ", no GPU"
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['ram_gb']} GB{gpu}; {machine['system']}, "
        f"Python {machine['python']}, {packages}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
