import hashlib
import json
import subprocess

import pytest

from etfhead.experiment.checksums import file_sha256, files_sha256, is_intact, seal, wrong_files

VALUE = {"top1": 97.5, "sizes": (3, 4), "none": None, "deep": {"ä": [1e-300, True], 7: "seven"}}


def test_a_seal_survives_json_and_shows_any_change():
    sealed = json.loads(json.dumps(seal(VALUE)))
    assert is_intact(sealed)
    assert seal(sealed) == sealed
    for path, value in (("top1", 97.4), ("none", 0), ("sizes", [4, 3]), ("new", 1)):
        assert not is_intact({**sealed, path: value})
    assert not is_intact({**sealed, "sha256": "0" * 64})
    assert not is_intact({key: value for key, value in sealed.items() if key != "deep"})
    assert is_intact({"a": 1}), "files of earlier versions have no seal"


def test_every_flipped_bit_of_a_sealed_file_is_seen_or_harmless():
    text = json.dumps(seal({"top1": 97.5, "name": "x"}), indent=2).encode()
    good = json.loads(text)
    for bit in range(8 * len(text)):
        data = bytearray(text)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = json.loads(bytes(data).decode())
        except ValueError:
            continue
        if is_intact(found):  # white space, or the name of the seal itself
            assert {key: found[key] for key in good if key != "sha256"} == {"top1": 97.5, "name": "x"}


def test_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 70_000)
    assert file_sha256(tmp_path / "a") == subprocess.check_output(["sha256sum", tmp_path / "a"])[:64].decode()
    result = files_sha256(tmp_path, ("a", "b"))
    assert wrong_files(tmp_path, result) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_bytes(b"b" * 69_999)
    missing, damaged = wrong_files(tmp_path, result)
    assert missing.endswith("a: missing")
    assert "b: damaged or of another run" in damaged
    assert wrong_files(tmp_path, result, ("a",)) == [missing]
    assert wrong_files(tmp_path, {}) == []


@pytest.mark.parametrize("bound", [None, [], "x", {"a": 7}])
def test_nonsense_in_a_result_is_no_crash(tmp_path, bound):
    assert isinstance(wrong_files(tmp_path, {"files_sha256": bound}), list)


def test_a_file_is_never_in_memory_as_a_whole(tmp_path):
    """A checkpoint of many gigabytes is hashed in pieces; here is a smaller one, of zeros."""
    import tracemalloc

    size = 64 * 2**20
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        found = file_sha256(tmp_path / "large")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20
    assert found == hashlib.sha256(bytes(size)).hexdigest()
