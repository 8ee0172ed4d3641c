"""Training states that survive a crash, and are refused when they are damaged or another run's."""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from etfhead.errors import CheckpointError
from etfhead.experiment.files import atomic_write
from etfhead.experiment.training.fingerprint import differences
from etfhead.experiment.unread import why_unread

__all__ = ["PREVIOUS", "STATE", "StateFile", "read_state", "save_weights"]

STATE = "state.pt"
PREVIOUS = "state.prev.pt"
_FORMAT = "etfhead training state"
_VERSION = 1


def read_state(path: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Load one training state, on the CPU, after checking it.

    Every record of the file carries a CRC-32 that torch.load does not look at; here all are verified, so
    that a truncated file or a flipped bit is found before a weight is used.

    Args:
        path: The file.
        fingerprint: What determines the run that wants to continue.

    Raises:
        CheckpointError: The file is damaged, no training state, or the state of another run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged (checksum of {damaged} is wrong)")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile, zlib, pickle and torch each have their own way to fail on bad bytes
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({why_unread(error)})") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a training state of etfhead")
    if state.get("version") != _VERSION:
        raise CheckpointError(
            f"{path}: format version {state.get('version')!r}, this etfhead reads {_VERSION}; "
            "continue with the version that wrote it"
        )
    if differs := differences(state.get("fingerprint") or {}, fingerprint):
        raise CheckpointError(f"{path}: of another run ({differs})")
    return state


class StateFile:
    """The training state of one arm and seed: the newest one and the one before.

    Args:
        folder: ``arms/<arm>/seed<k>`` of the run folder.
        fingerprint: What determines this run (``fingerprint.make_fingerprint``).
        guard: Called before anything is written; may raise to stop.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], *, guard: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.path = folder / STATE
        self.previous = folder / PREVIOUS
        self.last_good: Path | None = None
        self.guard = guard
        self._fingerprint = dict(fingerprint)

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write the state; the good one of before becomes ``state.prev.pt``.

        Raises:
            OSError: The disk is full or unwritable; both earlier files are as they were.
        """
        self.guard()
        content = {"format": _FORMAT, "version": _VERSION, "fingerprint": self._fingerprint, **state}
        # A state.pt that was refused must not push the good previous one out.
        keep = self.previous if self.last_good == self.path else None
        try:
            atomic_write(self.path, lambda file: torch.save(content, file), keep=keep)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk behind its own
            cause = error.__context__
            code, reason = (cause.errno, cause.strerror) if isinstance(cause, OSError) else (errno.EIO, error)
            message = f"cannot write {self.path}: {reason}; the earlier {STATE} is untouched"
            raise OSError(code, message) from error
        self.last_good = self.path
        return self.path

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Load the newest good state.

        Returns:
            The state (None when this arm and seed never wrote one), and a warning for each refused file.

        Raises:
            CheckpointError: States exist and none is good; the message says how to start this arm again.
        """
        refused: list[str] = []
        present = [path for path in (self.path, self.previous) if path.exists()]
        for path in present:
            try:
                state = read_state(path, self._fingerprint)
            except CheckpointError as error:
                refused.append(str(error))
                continue
            self.last_good = path
            notes = [f"refused {reason}" for reason in refused]
            if path != self.path:
                missing = [] if refused else [f"{self.path}: missing"]
                notes = [*notes, *missing, f"continuing from {path}"]
            return state, notes
        if refused:
            raise CheckpointError(
                f"no usable checkpoint: {'; '.join(refused)}. To train this arm and seed from the start, "
                f"delete {self.folder}"
            )
        return None, []


def save_weights(path: Path, tensors: Mapping[str, Tensor], **metadata: str | int) -> Path:
    """Write a model's state dict as safetensors, atomically.

    Args:
        path: Destination.
        tensors: State dict of the whole model, head included.
        **metadata: Stored as text in the file's header.
    """
    from safetensors.torch import save

    data = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"format": "pt", **{key: str(value) for key, value in metadata.items()}},
    )
    return atomic_write(path, lambda file: _write(file, data))


def _write(file: BinaryIO, data: bytes) -> None:
    # The library shuffles the metadata; here it is sorted, so that equal runs give equal files.
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)
    file.write(memoryview(data)[start:])
