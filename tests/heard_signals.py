"""Signals that a test sends arrive, also where whoever started the tests had them ignored."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_DEFAULTS = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}


@contextmanager
def heard_signals() -> Iterator[None]:
    """Hear what nohup, or a script that starts us in the background, has us and our children ignore."""
    numbers = [getattr(signal, name) for name in _DEFAULTS if hasattr(signal, name)]
    ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _DEFAULTS[signal.Signals(number).name])
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
