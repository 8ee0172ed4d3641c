import json
import os

import pytest

from etfhead.experiment.files import atomic_write, parse_json, write_json, write_text


def test_writes_and_leaves_nothing_beside(tmp_path):
    path = write_json(tmp_path / "deep" / "a.json", {"x": 1.5, "ä": [None]})
    assert json.loads(path.read_text()) == {"x": 1.5, "ä": [None]}
    assert os.listdir(path.parent) == ["a.json"]


def test_old_content_survives_a_writer_that_fails(tmp_path):
    path = write_text(tmp_path / "a", "old")

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_unwritable_destination_is_named(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(OSError, match=r"cannot write .*file/below"):
        write_text(tmp_path / "file" / "below", "x")


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    assert write_text(tmp_path / "a", "new").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "precious"]


def test_json_of_others():
    assert parse_json('{"a": [1, -2.5, null, "x", 12345678901234567890]}') == {
        "a": [1, -2.5, None, "x", 12345678901234567890]
    }
    for text in (
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" + "0" * 400,
        '{"a": -1' + "0" * 400 + "}",
        "9" * 5000,
        "",
        "{",
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - json has its own messages
            parse_json(text)
