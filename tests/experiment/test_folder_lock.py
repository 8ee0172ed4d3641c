import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from etfhead.experiment import folder_lock
from etfhead.experiment.folder_lock import LOCK, FolderLock, refuse_locked

# Holds the lock until its standard input closes.
HOLDER = """
import sys
from pathlib import Path
from etfhead.experiment.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_held_by_another_process(tmp_path, holder):
    for attempt in (lambda: FolderLock(tmp_path).__enter__(), lambda: refuse_locked(tmp_path)):
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .* since 20") as refused:
            attempt()
        assert socket.gethostname() in str(refused.value)
        assert "\n" not in str(refused.value)
        assert str(tmp_path) in str(refused.value)
    holder.stdin.close()
    holder.wait()
    assert os.listdir(tmp_path) == [], "released and removed"
    with FolderLock(tmp_path):
        pass


def test_killed_holder_is_taken_over_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists(), "it had no time to remove it"
    refuse_locked(tmp_path)
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path):
    """Loading processes outlive a killed parent for seconds; with flock they would block the next run."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        FolderLock(tmp_path).__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.write(writer, f"{child}\n".encode())
        signal.pause()
    child = int(os.read(reader, 100))
    try:
        with pytest.raises(ValueError, match="in use"):
            refuse_locked(tmp_path)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with FolderLock(tmp_path):
            pass
        os.kill(child, 0)  # still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_held_by_this_process(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with FolderLock(tmp_path):
        for folder in (tmp_path, tmp_path / "link"):
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
                FolderLock(folder).__enter__()
            with pytest.raises(ValueError, match="in use"):
                refuse_locked(folder)
        with FolderLock(tmp_path / "settings" / "a"):
            pass
    refuse_locked(tmp_path)


def test_a_free_folder_is_not_touched(tmp_path):
    refuse_locked(tmp_path / "new")
    refuse_locked(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_link_under_the_name_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"(?i)symbolic links|link"):
        FolderLock(out).__enter__()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks."""
    import fcntl

    def refuse(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_without_locks_the_named_process_decides(tmp_path, no_locks, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, path = socket.gethostname(), tmp_path / LOCK
    parent = {"pid": os.getppid(), "host": here, "since": "2026-01-01 00:00:00+00:00"}
    with FolderLock(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    for free in ({**parent, "pid": gone.pid}, {**parent, "pid": os.getpid()}, []):
        path.write_text(json.dumps(free))
        with FolderLock(tmp_path):
            pass
    for taken in (parent, {**parent, "host": "elsewhere", "pid": gone.pid}, {**parent, "pid": "x"}):
        path.write_text(json.dumps(taken))
        with pytest.raises(ValueError, match=rf"in use by process {taken['pid']} on .*delete {path}"):
            FolderLock(tmp_path).__enter__()
        assert json.loads(path.read_text()) == taken
    path.write_text('{"pid": 1')  # its writer was killed
    with FolderLock(tmp_path):
        pass


def test_other_errors_of_the_lock_are_told(tmp_path, monkeypatch):
    import fcntl

    def fail(handle, how):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="I/O error"):
        FolderLock(tmp_path).__enter__()
    assert folder_lock._held == set()
