"""Who holds a folder: what stands in ``run.lock``, and whether that process is still there."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from etfhead.experiment.files import parse_json

__all__ = ["TEXT_BYTES", "is_gone", "read_holder", "refusal", "this_process", "write_holder"]

TEXT_BYTES = 1000  # of the file are the holder's name


def this_process() -> dict[str, Any]:
    """This process, its machine, and since when."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "since": since, "born": _born(pid)}


def _born(pid: int) -> int | None:
    """When a process started, in ticks since this machine did; None where Linux is not there to tell."""
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return int(fields.split()[19])
    except (OSError, ValueError, IndexError):
        return None


def write_holder(handle: int, holder: dict[str, Any]) -> None:
    """Replace the file's content."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, (json.dumps(holder) + "\n").encode())


def read_holder(handle: int) -> dict[str, Any] | None:
    """Who wrote the file; None if nobody did, or what stands there makes no sense."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = parse_json(os.read(handle, TEXT_BYTES).decode())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process surely runs no more; False for one of another machine, which cannot be asked."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    if pid == os.getpid():
        return True  # it would be in _held: the number was another process's before
    if sys.platform == "win32":
        return False  # os.kill would end it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no system counts so far
        return True
    except PermissionError:
        return False
    now, then = _born(pid), holder.get("born")
    return now is not None and isinstance(then, int) and now != then  # the number is another process's by now


def refusal(folder: Path, holder: dict[str, Any], delete: Path | None = None) -> str:
    """The message to whom the folder is refused; ``delete`` is what frees it where no system lock does."""
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"
    since = f" since {holder['since']}" if "since" in holder else ""
    advice = "wait for it or stop it, or choose another --out"
    if delete is not None:
        advice += f"; if that process no longer exists, delete {delete}"
    return f"out: {folder} is in use by {who}{since}; {advice}"
