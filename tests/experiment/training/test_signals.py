import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from etfhead.experiment.training import signals
from etfhead.experiment.training.signals import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("signum", SIGNALS)
def test_first_signal_is_a_request_and_handlers_come_back(signum):
    seen = []
    earlier = signal.signal(signum, lambda *_: seen.append("earlier"))
    try:
        with StopRequest() as stop:
            assert stop.signum is None
            os.kill(os.getpid(), signum)
            assert stop.signum == signum
            assert seen == []
            os.kill(os.getpid(), signum)  # the second one acts as it did before
            assert seen == ([] if signum == signal.SIGHUP else ["earlier"])
            assert stop.signum == signum
        seen.clear()
        os.kill(os.getpid(), signum)
        assert seen == ["earlier"]
    finally:
        signal.signal(signum, earlier)


def test_a_window_that_closes_says_so_twice():
    """The shell tells its jobs, and when it ends the kernel tells them again: the run is stopping already."""
    ended = []
    earlier = [
        signal.signal(number, lambda *_: ended.append(1)) for number in (signal.SIGTERM, signal.SIGHUP)
    ]
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum == signal.SIGTERM
            assert ended == []
    finally:
        signal.signal(signal.SIGTERM, earlier[0])
        signal.signal(signal.SIGHUP, earlier[1])


def test_what_comes_at_once_is_one_request(monkeypatch):
    """As timeout(1) sends it: to the process, and then to the group it is in."""
    seen, waited = [], []

    def more_come(seconds):
        waited.append(seconds)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signals, "time", SimpleNamespace(sleep=more_come))
    earlier = signal.signal(signal.SIGTERM, lambda *_: seen.append("again"))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signum == signal.SIGTERM
            assert waited == [signals._BURST]
            assert seen == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == ["again"]
    finally:
        signal.signal(signal.SIGTERM, earlier)


@pytest.mark.parametrize("signum", SIGNALS)
def test_torchrun_passes_on_what_the_group_has_got(signum, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    earlier = signal.signal(signum, lambda *_: pytest.fail("ended"))
    try:
        with StopRequest() as stop:
            for _ in range(3):
                os.kill(os.getpid(), signum)
            assert stop.signum == signum
    finally:
        signal.signal(signum, earlier)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("signum", SIGNALS)
def test_what_was_ignored_stays_ignored(signum):
    """As SIGHUP under nohup, and SIGINT in a background job of a script."""
    earlier = signal.signal(signum, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signum)
            assert stop.signum is None
        assert signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, earlier)


def test_quiet_outside_the_main_thread():
    asked = []

    def work():
        with StopRequest() as stop:
            asked.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [None]


def processes(signums):
    """What one of several processes sees of accelerate, when the others' signals are these."""
    return SimpleNamespace(
        num_processes=len(signums),
        device=torch.device("cpu"),
        gather=lambda mine: torch.cat([mine, torch.tensor([n or 0 for n in signums[1:]])]),
    )


def test_a_process_stops_by_itself_only_where_it_is_the_only_one():
    stop = StopRequest()
    assert stop.alone(processes([None])) is None
    stop.signum = signal.SIGTERM
    assert stop.alone(processes([signal.SIGTERM])) == signal.SIGTERM
    assert stop.alone(processes([signal.SIGTERM, None])) is None


def test_processes_agree_on_a_signal_that_any_of_them_got():
    for signums in (
        [None, None],
        [signal.SIGINT, None],
        [None, signal.SIGTERM],
        [signal.SIGINT, signal.SIGTERM],
    ):
        stop = StopRequest()
        stop.signum = signums[0]
        expected = max((n for n in signums if n is not None), default=None)
        assert stop.agreed(processes(signums)) == expected
        assert stop.signum == expected
    alone = StopRequest()
    assert alone.agreed(SimpleNamespace(num_processes=1)) is None  # asks nobody
    alone.signum = signal.SIGINT
    assert alone.agreed(SimpleNamespace(num_processes=1)) == signal.SIGINT
