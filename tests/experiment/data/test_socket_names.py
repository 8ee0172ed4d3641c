import multiprocessing.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from etfhead.experiment.data import socket_names
from etfhead.experiment.data.socket_names import keep_socket_names_short

ROOT = Path(__file__).parents[3]
CODE = """
import os, sys, tempfile
from multiprocessing import util
from tests.experiment.data.test_workers import _Pids, make_eval_loader
loader = make_eval_loader(_Pids(6), 2, workers=2)
assert [len(images) for images, _ in loader] == [2, 2, 2]
assert tempfile.gettempdir() == sys.argv[1]
print(util.get_temp_dir())
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes there have names of their own")


@pytest.fixture
def temporary(monkeypatch):
    """Set the temporary folder, as ``TMPDIR`` does at the start of Python; the folders that are asked for."""

    def set_to(folder):
        asked = []
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setattr(
            multiprocessing.util, "get_temp_dir", lambda: asked.append(tempfile.gettempdir()) or asked[-1]
        )
        return asked

    return set_to


def longest_that_fits():
    return socket_names._LONGEST - len("/pymp-abcdefgh/listener-abcdefgh")


@pytest.mark.skipif(sys.platform != "linux", reason="processes start as on Linux")
def test_batches_come_where_the_temporary_folder_has_a_long_name(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], env={**os.environ, "TMPDIR": str(folder)}, cwd=ROOT,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert not os.path.exists(ended.stdout.strip()), "it is removed at the end"
    assert not ended.stdout.startswith(str(folder))
    assert os.listdir(folder) == []


def test_another_folder_is_made_only_where_the_name_is_too_long(temporary):
    room = longest_that_fits()
    for name, asked_for in (
        ("t" * (room - 1), []),
        ("t" * room, ["/tmp"]),
        ("\u00e4" * (room // 2 + 1), ["/tmp"]),  # bytes count
    ):
        asked = temporary(f"/{name}")
        keep_socket_names_short()
        assert asked == asked_for
        assert tempfile.gettempdir() == f"/{name}"


def test_a_socket_of_the_longest_name_can_be_made(tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)
    for length, fits in ((socket_names._LONGEST, True), (socket_names._LONGEST + 1, False)):
        with socket.socket(socket.AF_UNIX) as made:
            if fits:
                made.bind("s" * length)
            else:
                with pytest.raises(OSError, match="too long"):
                    made.bind("s" * length)


def test_no_short_folder_is_told_in_a_line(temporary, monkeypatch, tmp_path):
    asked = temporary("/" + "t" * 200)
    monkeypatch.setattr(socket_names, "_SHORT", (str(tmp_path / "missing"),))
    with pytest.raises(ValueError, match=r"TMPDIR: expected a path of at most \d+ bytes.*ttt; set a shorter"):
        keep_socket_names_short()
    assert asked == []
