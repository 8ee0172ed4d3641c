"""Where a run happened: versions, hardware and command, without names of people or machines."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from etfhead._version import __version__

__all__ = ["describe_environment"]

_PACKAGES = ("timm", "torchmetrics", "accelerate", "torchvision", "safetensors", "numpy")


def describe_environment() -> dict[str, Any]:
    """JSON-able facts to reproduce or doubt a result by.

    Paths below the home folder are shortened to ``~``; user and host names are left out.
    """
    return {
        "etfhead": __version__,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its build, such as +cu128
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _command() -> str:
    home = os.path.expanduser("~")  # stays that for a user without a name, as in a container
    program = Path(sys.argv[0]).name
    words = ["etfhead" if program == "__main__.py" else program, *sys.argv[1:]]  # python -m etfhead.cli
    return " ".join(_quoted(word, home) for word in words)


def _quoted(word: str, home: str) -> str:
    """A word as a shell takes it, with a ``~`` that it expands, or etfhead does, for the user's home."""
    if len(home) > 1:  # /mnt/root/x and /root2/x are not in /root
        word = re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", word)
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)


def _git_commit() -> str | None:
    """Commit of the working folder, with ``-dirty`` after it when tracked files are changed."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
