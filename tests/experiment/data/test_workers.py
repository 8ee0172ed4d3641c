"""Loading processes: what they ignore, how they end, and how their death is told."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from etfhead.experiment.data import make_eval_loader
from etfhead.experiment.data.workers import WorkerLost, start_method, told_of_death, workers_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and forks as on Linux")


class _Pids(Dataset):
    """Items that say who made them; those from ``stuck`` on never come."""

    def __init__(self, count: int = 64, stuck: int = 1000) -> None:
        self.count, self.stuck = count, stuck

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        while index >= self.stuck:
            time.sleep(0.05)
        return torch.zeros(3), os.getpid()


def _at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _gone(pid: int, seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while _at_work(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_go_on_after_a_signal_that_stops_runs(signum):
    with workers_ended():
        loader = make_eval_loader(_Pids(), 2, workers=2)
        made = []
        for _, (pid, _) in loader:
            if not made:
                os.kill(int(pid), signum)
            made.append(int(pid))
        assert len(made) == 32
        assert len(set(made)) == 2
    assert all(_gone(pid) for pid in set(made))


def test_a_death_is_told_at_the_next_batch_and_nowhere_else():
    with workers_ended():
        batches = iter(make_eval_loader(_Pids(), 2, workers=1))
        _, (pid, _) = next(batches)
        os.kill(int(pid), signal.SIGKILL)
        assert _gone(int(pid))
        for _ in range(50):  # where torch's handler would raise
            time.sleep(0.002)
        with pytest.raises(
            WorkerLost, match=rf"\(pid {int(pid)}\) was killed by signal 9 \(Killed; often: out"
        ):
            next(batches)
    assert list(make_eval_loader(_Pids(4), 2, workers=1))  # nothing of it is left for the next one


def test_a_death_between_two_passes_is_told():
    with workers_ended():
        loader = make_eval_loader(_Pids(8), 2, workers=1)
        pid = {int(pid) for _, pids in loader for pid in pids}.pop()
        os.kill(pid, signal.SIGUSR1)
        assert _gone(pid)
        time.sleep(0.05)
        with pytest.raises(WorkerLost, match=r"killed by signal 10 \(User defined signal 1\)"):
            list(loader)


class _Leaves(_Pids):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        os._exit(3)


def test_a_worker_that_leaves_is_told_with_its_code():
    with workers_ended(), pytest.raises(WorkerLost, match="exited unexpectedly with exit code 3"):
        list(make_eval_loader(_Leaves(), 2, workers=1))


def test_the_dead_of_a_loader_that_was_ended_are_not_told_again():
    with workers_ended():
        earlier = make_eval_loader(_Pids(8), 2, workers=1)  # held until the end of this test
        pid = {int(pid) for _, pids in earlier for pid in pids}.pop()
        os.kill(pid, signal.SIGUSR1)
        assert _gone(pid)
        with pytest.raises(WorkerLost, match="killed by signal 10"):
            list(earlier)
    with workers_ended(), pytest.raises(WorkerLost, match="exited unexpectedly with exit code 3"):
        list(make_eval_loader(_Leaves(), 2, workers=1))


def test_a_stuck_worker_ends_with_its_loader():
    with workers_ended():
        batches = iter(make_eval_loader(_Pids(stuck=2), 2, workers=1))
        _, (pid, _) = next(batches)
    assert _gone(int(pid))


def test_python_ends_stuck_workers_at_its_exit():
    """Outside a run nobody shuts a loader down, and Python sends its children SIGTERM and waits for them."""
    code = (
        "from tests.experiment.data.test_workers import _Pids, make_eval_loader\n"
        "loader = make_eval_loader(_Pids(stuck=2), 2, workers=1)\n"
        "batches = iter(loader)\n"
        "print(int(next(batches)[1][0]))\n"
        "import builtins; builtins.kept = batches, loader\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0
    assert _gone(int(ended.stdout))
    assert "Traceback" not in ended.stderr


def test_workers_end_when_the_main_process_is_gone():
    code = (
        "import time\n"
        "from tests.experiment.data.test_workers import _Pids, make_eval_loader\n"
        "print(int(next(iter(make_eval_loader(_Pids(), 2, workers=1)))[1][0]), flush=True)\n"
        "time.sleep(600)\n"
    )
    kept = code.replace("next(iter(", "next(kept := iter(")
    process = subprocess.Popen([sys.executable, "-c", kept], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert _at_work(pid)
    process.kill()
    process.wait()
    assert _gone(pid)


def _kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    for _ in range(12_000):
        time.sleep(0.005)


def test_loaders_of_others_hear_of_their_workers_at_once():
    with workers_ended():
        list(make_eval_loader(_Pids(4), 2, workers=1))  # our handler stands before torch's
        other = iter(DataLoader(_Pids(), num_workers=1))
        pid = int(next(other)[1])
        with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
            _kill_and_wait(pid)
        del other


def test_loaders_from_before_are_kept():
    loader = make_eval_loader(_Pids(4), 2, workers=1)
    before = {int(pid) for _, pids in loader for pid in pids}
    with workers_ended():
        list(make_eval_loader(_Pids(4), 2, workers=1))
    assert {int(pid) for _, pids in loader for pid in pids} == before


@pytest.mark.parametrize(("name", "error", "told"), [
    ("Thread-4 (_pin_memory_loop)", EOFError(), 0),
    ("Thread-4 (_pin_memory_loop)", ConnectionResetError(), 0),
    ("Thread-4 (_pin_memory_loop)", ZeroDivisionError(), 1),
    ("Thread-4 (work)", EOFError(), 1),
])  # fmt: skip
def test_the_thread_that_copies_to_locked_memory_ends_silently(monkeypatch, name, error, told):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def work():
        raise error

    with workers_ended():
        thread = threading.Thread(target=work, name=name)
        thread.start()
        thread.join()
    assert len(seen) == told
    assert threading.excepthook == seen.append


@pytest.mark.parametrize(("words", "expected"), [
    ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", "signal 11 (Segmentation fault)"),
    ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
     "out of shared memory. Please try to raise your shared memory limit.", "too little shared memory, /dev"),
    ("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost due to multi...",
     "(pid 7) exited unexpectedly with exit code 1"),
    ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "(pid 7, 8) exited unexpectedly"),
    ("Pin memory thread exited unexpectedly", "a loading process was cut off"),
])  # fmt: skip
def test_what_torch_says_of_a_death(words, expected):
    assert expected in told_of_death(RuntimeError(words))


def test_other_errors_are_no_deaths():
    caught = (
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
    )
    assert told_of_death(RuntimeError(caught)) is None
    assert told_of_death(ValueError("DataLoader worker (pid 7) is killed by signal: Killed. ")) is None


def test_no_fork_server_stands_in_between(monkeypatch):
    for usual, expected in ((None, "fork"), ("forkserver", "fork"), ("fork", None), ("spawn", None)):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none, usual=usual: usual)
        assert start_method() == expected
