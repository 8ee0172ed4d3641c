"""An export folder is replaced whole or not at all, and other people's folders never."""

import os
import socket
from pathlib import Path

import pytest

from etfhead.experiment.export.folder import check_target, replace_folder


def fill(text):
    return lambda fresh: (fresh / "config.json").write_text(text)


def test_new_empty_and_own_folders(tmp_path):
    out = tmp_path / "deep" / "out"
    check_target(out, overwrite=False)
    replace_folder(out, fill("1"))
    assert (out / "config.json").read_text() == "1"
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        check_target(out, overwrite=False)
    check_target(out, overwrite=True)
    replace_folder(out, fill("2"))
    assert (out / "config.json").read_text() == "2"
    assert os.listdir(tmp_path / "deep") == ["out"]
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=False)


@pytest.mark.parametrize("name", [".", "../here", "new/../../here"])
def test_names_that_end_in_no_name(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    replace_folder(Path(name), fill("1"))
    assert (tmp_path / "here" / "config.json").read_text() == "1"
    assert os.listdir(tmp_path) == ["here"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_files_and_links_are_refused(tmp_path, overwrite):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "mine" / "config.json").touch()
    with pytest.raises(ValueError, match=r"not an export of etfhead \(thesis\.tex\)"):
        check_target(tmp_path / "mine", overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not a folder"):
        check_target(tmp_path / "file", overwrite=overwrite)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="is not a folder"):
        check_target(tmp_path / "link", overwrite=overwrite)


@pytest.mark.parametrize("pid", ["\N{SUPERSCRIPT TWO}", "9" * 30, "", "x"])
def test_names_like_those_of_a_killed_export(tmp_path, pid):
    """Somebody else's folder beside it is no reason to fail, and stays."""
    other = tmp_path / f".out.new-{socket.gethostname()}-{pid}"
    other.mkdir()
    check_target(tmp_path / "out", overwrite=False)
    assert other.exists()


def test_a_failure_leaves_the_earlier_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    replace_folder(out, fill("1"))

    def fails(fresh):
        (fresh / "config.json").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(out, fails)
    assert (out / "config.json").read_text() == "1"

    replace, calls = os.replace, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(PermissionError):
        replace_folder(out, fill("2"))
    assert (out / "config.json").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]
