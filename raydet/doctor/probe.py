"""What a machine says about itself. Runs on every node, also where raydet is missing: imports stay inside."""

from __future__ import annotations

from typing import Any

PACKAGES = ("raydet", "torch", "torchvision", "ray", "pyarrow", "numpy", "pydantic", "safetensors", "pycocotools")


def look() -> dict[str, Any]:
    """Return plain facts: versions, operators, cores, load, memory (bytes), GPUs, shared memory (bytes), open files,
    home, the clock (s)."""
    import os
    import platform
    import resource
    import time

    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "operators": _operator_problem(),
        "cpus": _cpus(),
        "load": os.getloadavg()[0],
        "memory_bytes": _memory_bytes(),
        "gpus": [f"{name}, {memory / 2**30:.0f} GiB" for name, memory in _gpus()],
        "gpu_bytes": [memory for _, memory in _gpus()],
        "has_driver": os.path.exists("/dev/nvidiactl"),
        "shm_bytes": shm.f_blocks * shm.f_frsize if shm else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "home": os.path.expanduser("~"),
        "home_problem": _home_problem(),
        "time": time.time(),
    }


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _operator_problem() -> str:
    """Run one of torchvision's compiled operators: they are there only with the torch that they were built for."""
    try:
        import torch
        import torchvision

        kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0.5]), 0.5)
        return "" if kept.tolist() == [0] else f"nms of one box returned {kept.tolist()}"
    except Exception as error:  # a missing module, symbol, operator: whatever it is, it is the finding
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def _gpus() -> list[tuple[str, int]]:
    """Return name and memory (bytes) of each GPU."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
    return [(each.name, each.total_memory) for each in found]


def _cpus() -> int:
    """Return how many cores this process may use; a container may have less time than cores."""
    import math
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores


def _memory_bytes() -> int:
    """Return the machine's main memory, or what a container may have of it."""
    import os

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(whole, int(file.read()))
    except (OSError, ValueError):
        return whole


def _home_problem() -> str:
    """Ray keeps its token in the home folder and makes one at the first start."""
    import os
    import tempfile

    folder = os.path.expanduser("~/.ray")
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return ""
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or os.path.exists(os.path.join(folder, "auth_token")):
        return ""
    parent = folder if os.path.isdir(folder) else os.path.expanduser("~")
    try:
        with tempfile.TemporaryFile(dir=parent):
            return ""
    except OSError as error:
        return f"{parent}: {error.strerror}"
