"""An export folder is the old one or the new one, never half of each, and nobody else's."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from etfhead.experiment.lock_holder import is_gone

__all__ = ["CARD", "CONFIG", "WEIGHTS_FILE", "check_target", "replace_folder"]

CONFIG = "config.json"
CARD = "README.md"
WEIGHTS_FILE = {
    "timm": "model.safetensors",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
}
_PID = re.compile(r"[0-9]{1,20}")
_OWN = {CONFIG, CARD, *WEIGHTS_FILE.values(), "model.onnx.data"}


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that an export must not touch. Nothing is written; what a killed one left is tidied.

    Raises:
        ValueError: ``out`` is a file, holds other files than an export's, or an export without ``overwrite``.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"out: {out} is not a folder; name one that is empty or does not exist with --out")
    _bring_back(Path(os.path.abspath(out)))
    present = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if not present:
        return
    if foreign := sorted(present - _OWN):
        raise ValueError(
            f"out: {out} holds files that are not an export of etfhead ({', '.join(foreign[:3])}); "
            "choose another folder with --out"
        )
    if not overwrite:
        raise ValueError(f"out: {out} holds an export; --overwrite replaces it, --out writes elsewhere")


def replace_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write into a new folder beside ``out``, which takes its name only when all went well.

    Args:
        out: The folder; :func:`check_target` allowed it.
        fill: Writes, and checks what it wrote.

    Raises:
        OSError: The disk is full or unwritable; ``out`` is then as before.
    """
    out = Path(os.path.abspath(out))  # "." has no name that another could stand beside
    _bring_back(out)
    mine = f"{socket.gethostname()}-{os.getpid()}"
    fresh, old = (out.with_name(f".{out.name}.{word}-{mine}") for word in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        for path in fresh.iterdir():
            _sync(path)
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(fresh, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _bring_back(out: Path) -> None:
    """After an export that was killed: the earlier one gets its name again, and what it had begun goes."""
    for word in ("old", "new"):
        for path in out.parent.glob(f".{glob.escape(out.name)}.{word}-*"):
            host, _, pid = path.name.rpartition(f".{word}-")[2].rpartition("-")
            if path.is_symlink() or not _PID.fullmatch(pid) or not is_gone({"host": host, "pid": int(pid)}):
                continue
            if word == "old" and not out.exists():
                os.replace(path, out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
