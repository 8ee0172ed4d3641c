import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from etfhead.experiment import folder_lock, lock_holder
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
            time.sleep(600)
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


def _start(folder, ready, go, leave):
    """A process that takes the folder when told to, and holds it until told; what came of it is in a pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready, b"r")
        os.read(go, 1)
        try:
            with FolderLock(folder):
                os.write(writer, b"held")
                os.read(leave, 1)
        except ValueError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("stale", [True, False])
def test_of_many_that_start_at_one_instant_one_goes_on(tmp_path, request, monkeypatch, locks, stale):
    if not locks:
        request.getfixturevalue("no_locks")
        monkeypatch.setattr(folder_lock, "_SETTLE", 1.5)  # a busy machine is late
    if stale:  # of a process that was killed
        gone = {"pid": 2**22, "host": socket.gethostname(), "since": "2026-01-01"}
        (tmp_path / LOCK).write_text(json.dumps(gone))
    (ready_out, ready), (go, go_in), (leave, leave_in) = os.pipe(), os.pipe(), os.pipe()
    started = [_start(tmp_path, ready, go, leave) for _ in range(5)]
    assert sum(len(os.read(ready_out, 1)) for _ in started) == 5
    os.write(go_in, b"g" * 5)
    told = [os.read(reader, 2000).decode() for _, reader in started]
    os.write(leave_in, b"l" * 5)
    for pid, reader in started:
        os.waitpid(pid, 0)
        os.close(reader)
    for handle in (ready_out, ready, go, go_in, leave, leave_in):
        os.close(handle)
    assert told.count("held") == 1, told
    winner = started[told.index("held")][0]
    assert all("is in use by process" in words for words in told if words != "held")
    if locks:
        assert sum(f"process {winner} on" in words for words in told) == 4, told
    with FolderLock(tmp_path):
        pass


def test_who_only_asks_does_not_get_a_run_refused(tmp_path, monkeypatch):
    taken, attempts = folder_lock._open_and_lock, []

    def busy_once(path):
        attempts.append(path)
        if len(attempts) == 1:
            raise folder_lock._TakenError(None)
        return taken(path)

    monkeypatch.setattr(folder_lock, "_open_and_lock", busy_once)
    with FolderLock(tmp_path):
        assert len(attempts) == 2


def test_whose_name_comes_late_is_waited_for(tmp_path, monkeypatch):
    """Until then nobody is named, or a process that was killed."""
    for waits in ("_WAITS", "_WAITS_FOR_A_NAME"):
        monkeypatch.setattr(folder_lock, waits, (0.0, 0.0))
    here = socket.gethostname()
    gone, alive = ({"pid": pid, "host": here, "since": "2026"} for pid in (2**22, os.getppid()))
    for holders in ([alive] * 3, [None, None, gone, alive], [gone, gone, None, gone, None]):
        left = iter(holders)

        def taken(path, left=left):
            raise folder_lock._TakenError(next(left))

        monkeypatch.setattr(folder_lock, "_open_and_lock", taken)
        named = f"process {(holders[-1] or {'pid': 'unknown'})['pid']} on"
        with pytest.raises(ValueError, match=named):
            FolderLock(tmp_path).__enter__()
        assert list(left) == []


def test_a_file_that_is_always_replaced_ends_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_open_and_lock", lambda path: None)
    with pytest.raises(OSError, match="replaced again and again"):
        FolderLock(tmp_path).__enter__()


def test_check_of_a_folder_that_was_removed_or_replaced(tmp_path):
    out = tmp_path / "out"
    for again in (False, True):
        with FolderLock(out) as lock:
            lock.check()
            os.rename(out, tmp_path / "elsewhere")
            if again:
                out.mkdir()
            with pytest.raises(OSError, match=f"{out} was removed or replaced"):
                lock.check()
        shutil.rmtree(tmp_path / "elsewhere")
        shutil.rmtree(out, ignore_errors=True)


def test_a_folder_that_became_a_file(tmp_path):
    """And giving the lock up raises nothing that would hide the error of before."""
    out = tmp_path / "out"
    with FolderLock(out) as lock:
        shutil.rmtree(out)
        out.touch()
        with pytest.raises(OSError, match=f"{out} was removed or replaced"):
            lock.check()
    assert out.is_file()


def test_check_takes_a_deleted_lock_again(tmp_path):
    with FolderLock(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        lock.check()
        # Reading it here would give the lock up: POSIX drops it with any handle that this process closes.
        other = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], input="", text=True, capture_output=True
        )
        assert f"in use by process {os.getpid()}" in other.stderr
    assert os.listdir(tmp_path) == []


def test_another_run_that_came_after_the_lock_was_deleted_is_not_harmed(tmp_path):
    with FolderLock(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        other = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match=f"in use by process {other.pid}"):
                lock.check()
            lock.__exit__(None, None, None)
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid
        finally:
            other.communicate("")


@pytest.fixture
def windows(monkeypatch):
    """What Windows does, by the means of this system: byte locks that stop this process too."""
    import fcntl

    locked = {}

    def locking(handle, mode, count):
        # Like the C library: at the file's position.
        assert (os.lseek(handle, 0, os.SEEK_CUR), count) == (lock_holder.TEXT_BYTES, 1)
        stat = os.fstat(handle)
        key = (stat.st_dev, stat.st_ino)
        if mode == 0:
            if locked.pop(key, None) != handle:
                raise OSError(errno.EACCES, "not locked")
            fcntl.lockf(handle, fcntl.LOCK_UN, 1, lock_holder.TEXT_BYTES)
        elif key in locked:
            raise OSError(errno.EACCES, "Permission denied")
        else:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lock_holder.TEXT_BYTES)
            locked[key] = handle

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking))
    for module in (folder_lock, lock_holder):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(os.path, "samestat", lambda one, two: False)  # not to be relied on there
    return locked


def test_locks_of_windows(tmp_path, windows):
    path = tmp_path / LOCK
    path.write_text("of a run that was killed")
    refuse_locked(tmp_path)
    assert windows == {}, "given up before the file is closed"
    with FolderLock(tmp_path) as lock:
        assert len(windows) == 1
        assert json.loads(path.read_bytes()[: lock_holder.TEXT_BYTES])["pid"] == os.getpid()
        with pytest.raises(ValueError, match="in use by process"):
            refuse_locked(tmp_path)
        folder_lock._held.clear()  # as another process sees it
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
            refuse_locked(tmp_path)
        lock.check()
    assert windows == {}
    assert os.listdir(tmp_path) == []
