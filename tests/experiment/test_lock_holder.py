import json
import os
import socket
import subprocess
import sys
import time

import pytest

from etfhead.experiment import lock_holder
from etfhead.experiment.lock_holder import (
    TEXT_BYTES,
    is_gone,
    read_holder,
    refusal,
    this_process,
    write_holder,
)

HERE = socket.gethostname()


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_written_and_read(tmp_path):
    handle = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.write(handle, b"x" * 5000)
        assert read_holder(handle) is None
        write_holder(handle, this_process())
        assert read_holder(handle) == json.loads((tmp_path / "a").read_text())
        assert os.fstat(handle).st_size < TEXT_BYTES
    finally:
        os.close(handle)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\0\0", "{}" + "x" * 5000, "[" * 1000])
def test_nonsense_names_nobody(tmp_path, text):
    (tmp_path / "a").write_text(text)
    handle = os.open(tmp_path / "a", os.O_RDWR)
    try:
        assert read_holder(handle) is None
    finally:
        os.close(handle)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows is not asked")
def test_a_number_that_no_system_has_is_nobody():
    assert is_gone({"pid": 10**30, "host": HERE})


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux tells when a process started")
def test_a_reused_number_is_another_process(sleeper):
    holder = {"pid": sleeper.pid, "host": HERE, "born": lock_holder._born(sleeper.pid)}
    assert not is_gone(holder)
    assert is_gone({**holder, "born": holder["born"] - 1})
    for unknown in (None, "1", {}):
        assert not is_gone({**holder, "born": unknown}), "in doubt it lives"
    assert lock_holder._born(os.getpid()) == this_process()["born"] < holder["born"] + 1


def test_a_process_that_has_gone(sleeper):
    holder = {"pid": sleeper.pid, "host": HERE}
    assert not is_gone(holder)
    sleeper.kill()
    sleeper.wait()
    assert is_gone(holder)
    assert lock_holder._born(sleeper.pid) is None


def test_a_process_of_another_machine_cannot_be_asked():
    assert not is_gone({"pid": 2**22 - 3, "host": HERE + "-2"})
    for pid in ("1", None, 0, -1, 1.5):
        assert not is_gone({"pid": pid, "host": HERE})


def test_the_clock_has_no_say(monkeypatch, sleeper):
    """A holder of tomorrow, as after a clock was set back, is one like any other."""
    holder = {"pid": sleeper.pid, "host": HERE, "since": "2999-01-01 00:00:00+00:00"}
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert not is_gone(holder)
    assert "since 2999" in refusal("out", holder)


def test_refusal_of_somebody_unknown():
    assert refusal("out", {}) == (
        "out: out is in use by process unknown on an unknown machine; "
        "wait for it or stop it, or choose another --out"
    )
