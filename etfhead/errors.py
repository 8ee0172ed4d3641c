"""The few exceptions a caller may want to tell apart; each is also what Python calls it."""

from __future__ import annotations

__all__ = ["CheckpointError", "DataError", "Interrupted", "TrainingError"]


class DataError(ValueError):
    """A data set is missing, unreadable or inconsistent."""


class CheckpointError(ValueError):
    """A checkpoint is truncated, damaged or belongs to another run."""


class TrainingError(ValueError):
    """Training cannot go on, for example because the loss is not finite."""


class Interrupted(Exception):  # noqa: N818 - it reports a request, not an error
    """Training stopped on a signal after writing a checkpoint.

    Args:
        signum: The signal's number; a command line exits with ``128 + signum``.
        checkpoint: Path of the checkpoint that was written, for the message.
    """

    def __init__(self, signum: int, checkpoint: str = "") -> None:
        super().__init__(f"stopped by signal {signum}" + (f"; checkpoint {checkpoint}" if checkpoint else ""))
        self.signum = signum
        self.checkpoint = checkpoint
