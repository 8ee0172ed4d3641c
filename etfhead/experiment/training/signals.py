"""Ctrl-C, SIGTERM and a lost terminal as a request that the training loop answers at its next step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["StopRequest"]

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_BURST = 0.2  # seconds; timeout(1) sends its signal to the process and then to the group


class StopRequest:
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into ``signum``.

    The first signal also puts the earlier handlers back, so that a second one ends the process as usual
    when a step hangs. What comes at once belongs to the first. SIGHUP goes on asking: a window that closes
    sends it more than once. So do all of them under ``torchrun``, which passes on what its whole process
    group has got already, and ends its processes by force after half a minute. A signal that the process
    ignores, as SIGHUP under ``nohup`` and SIGINT in a script's background job, stays ignored. Outside the
    main thread Python allows no handlers: the request then stays empty.

    >>> import os
    >>> with StopRequest() as stop:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    >>> stop.signum == signal.SIGTERM
    True
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in self.SIGNALS:
                if signal.getsignal(signum) == signal.SIG_IGN:
                    continue
                self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def alone(self, accelerator: Accelerator) -> int | None:
        """The signal that has come, if this is the run's only process.

        Several stop together, at a training step: one alone would leave the others waiting.
        """
        return self.signum if accelerator.num_processes == 1 else None

    def agreed(self, accelerator: Accelerator) -> int | None:
        """The signal that has come to any process of the run; all ask at the same step, and take it over."""
        if accelerator.num_processes > 1:
            mine = torch.tensor([self.signum or 0], device=accelerator.device)
            self.signum = int(accelerator.gather(mine).max()) or None
        return self.signum

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if signum == _HANGUP or "TORCHELASTIC_RUN_ID" in os.environ:
            return
        signal.signal(signum, signal.SIG_IGN)
        time.sleep(_BURST)
        self._restore(keep=_HANGUP)

    def _restore(self, keep: int | None = None) -> None:
        for signum in [other for other in self._previous if other != keep]:
            handler = self._previous.pop(signum)
            # None: the earlier handler was not installed from Python and cannot be named here.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
