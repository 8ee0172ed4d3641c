import errno
import os
import random
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from etfhead.errors import CheckpointError
from etfhead.experiment.training.checkpoint import StateFile, read_state, save_weights

FINGERPRINT = {"lr": 0.1, "arm": "etf", "seed": 0}


def content(value):
    return {"position": {"epoch": value}, "model": {"w": torch.full((300,), float(value))}}


@pytest.fixture
def states(tmp_path):
    return StateFile(tmp_path / "seed0", FINGERPRINT)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position // 8] ^= 1 << (position % 8)
    path.write_bytes(bytes(data))


def test_round_trip_and_rotation(states):
    states.save(content(1))
    assert not states.previous.exists()
    states.save(content(2))
    states.save(content(3))
    assert read_state(states.path, FINGERPRINT)["position"]["epoch"] == 3
    assert read_state(states.previous, FINGERPRINT)["position"]["epoch"] == 2
    assert {path.name for path in states.folder.iterdir()} == {"state.pt", "state.prev.pt"}
    state, notes = states.load()
    assert torch.equal(state["model"]["w"], content(3)["model"]["w"])
    assert notes == []


def test_every_record_has_a_checksum_that_is_verified(states):
    """Each byte of each record is guarded; torch.load alone lets a flipped weight bit through."""
    states.save(content(1))
    good = states.path.read_bytes()
    with zipfile.ZipFile(states.path) as archive:
        infos = archive.infolist()
    assert sum(info.file_size for info in infos) > 1200
    for info in infos:
        # The local header holds the lengths of name and padding at bytes 26 and 28.
        name, extra = (int.from_bytes(good[info.header_offset + i :][:2], "little") for i in (26, 28))
        start = info.header_offset + 30 + name + extra
        for byte in {start, start + info.file_size // 2, start + info.file_size - 1}:
            states.path.write_bytes(good)
            flip(states.path, 8 * byte + 3)
            with pytest.raises(CheckpointError, match="damaged"):
                read_state(states.path, FINGERPRINT)
    weights = next(info for info in infos if info.file_size == 1200)
    states.path.write_bytes(good)
    flip(states.path, 8 * good.index(torch.ones(300).numpy().tobytes()) + 20)
    assert weights.CRC
    unguarded = torch.load(states.path, weights_only=True)["model"]["w"]
    assert not torch.equal(unguarded, torch.ones(300)), "the reason for verifying ourselves"


def test_any_single_bit_flip_is_refused_or_harmless(states):
    states.save(content(1))
    good = states.path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        states.path.write_bytes(good)
        flip(states.path, rng.randrange(8 * len(good)))
        try:
            state = read_state(states.path, FINGERPRINT)
        except CheckpointError:
            refused += 1
        else:  # a date or padding of the archive
            assert torch.equal(state["model"]["w"], torch.ones(300))
            assert state["position"] == {"epoch": 1}
    assert refused > 100


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99, 1 - 1e-9])
def test_truncated(states, keep):
    states.save(content(1))
    data = states.path.read_bytes()
    states.path.write_bytes(data[: min(int(len(data) * keep), len(data) - 1)])
    with pytest.raises(CheckpointError, match=r"state\.pt: damaged or not a checkpoint"):
        read_state(states.path, FINGERPRINT)


def test_foreign_files(states, tmp_path):
    states.folder.mkdir()
    torch.save({"model": {}}, states.path)
    with pytest.raises(CheckpointError, match="not a training state of etfhead"):
        states.load()
    torch.save([1, 2], states.path)
    with pytest.raises(CheckpointError, match="not a training state of etfhead"):
        states.load()
    states.path.unlink()
    states.path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        states.load()


def test_code_in_a_checkpoint_is_never_executed(states, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    states.folder.mkdir()
    torch.save({"format": "etfhead training state", "version": 1, "fingerprint": Harm()}, states.path)
    with pytest.raises(
        CheckpointError, match=r"state\.pt: .*\(it holds a pickle of more than tensors, which"
    ):
        states.load()
    assert not (tmp_path / "harm").exists()


def test_another_format_version(states):
    states.save({**content(1), "version": 99})
    with pytest.raises(CheckpointError, match="format version 99"):
        states.load()


def test_another_run_is_named_by_what_differs(states):
    states.save(content(1))
    other = StateFile(states.folder, {**FINGERPRINT, "lr": 0.2, "opt": "sgd"})
    with pytest.raises(CheckpointError, match=r"lr is 0\.1 there, 0\.2 now; opt is None there, 'sgd' now"):
        other.load()


def test_previous_is_used_named_and_not_pushed_out(states):
    for epoch in (1, 2):
        states.save(content(epoch))
    flip(states.path, 8 * (states.path.stat().st_size // 2))
    fresh = StateFile(states.folder, FINGERPRINT)
    state, notes = fresh.load()
    assert state["position"]["epoch"] == 1
    assert fresh.last_good == states.previous
    assert "damaged" in notes[0]
    assert str(states.path) in notes[0]
    assert str(states.previous) in notes[1]
    fresh.save(content(2))
    assert read_state(states.previous, FINGERPRINT)["position"]["epoch"] == 1
    fresh.save(content(3))
    assert read_state(states.previous, FINGERPRINT)["position"]["epoch"] == 2


def test_the_last_good_one_serves_twice(states):
    """Damaged, fallen back, damaged again before anything was written; and after."""
    for epoch in (1, 2):
        states.save(content(epoch))
    for bit in range(2):
        flip(states.path, 8 * (states.path.stat().st_size // 2) + bit)
        fresh = StateFile(states.folder, FINGERPRINT)
        assert fresh.load()[0]["position"]["epoch"] == 1
    fresh.save(content(2))
    flip(states.path, 8 * (states.path.stat().st_size // 2))
    again = StateFile(states.folder, FINGERPRINT)
    assert again.load()[0]["position"]["epoch"] == 1
    again.save(content(2))
    again.save(content(3))
    state, notes = StateFile(states.folder, FINGERPRINT).load()
    assert (state["position"]["epoch"], notes) == (3, [])


def test_the_guard_is_asked_before_anything_is_written(states):
    states.save(content(1))
    before = {path: path.read_bytes() for path in states.folder.iterdir()}

    def refuse():
        raise OSError("gone")

    guarded = StateFile(states.folder, FINGERPRINT, guard=refuse)
    guarded.load()
    with pytest.raises(OSError, match="gone"):
        guarded.save(content(2))
    assert {path: path.read_bytes() for path in states.folder.iterdir()} == before


def test_crash_between_the_two_renames(states):
    for epoch in (1, 2):
        states.save(content(epoch))
    states.path.unlink()
    state, notes = StateFile(states.folder, FINGERPRINT).load()
    assert state["position"]["epoch"] == 1
    assert "missing" in notes[0]


def test_nothing_to_load(states):
    assert states.load() == (None, [])


@pytest.mark.parametrize("call", ["fsync", "write", "replace"])
def test_full_disk_leaves_both_checkpoints(states, monkeypatch, call):
    for epoch in (1, 2):
        states.save(content(epoch))
    before = {path: path.read_bytes() for path in states.folder.iterdir()}

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        # torch.save reports a failing write as a RuntimeError of its own.
        monkeypatch.setattr("etfhead.experiment.files.open", lambda *a: FullFile(*a), raising=False)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"cannot write .*state\.pt: .*No space left.*untouched") as error:
        states.save(content(3))
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in states.folder.iterdir()} == before
    assert StateFile(states.folder, FINGERPRINT).load()[0]["position"]["epoch"] == 2


class FullFile:
    """A file on a disk with 1,000 bytes left."""

    def __init__(self, path, mode):
        self.file = open(path, mode)  # noqa: SIM115
        self.room = 1000

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()


def test_equal_weights_give_equal_files(tmp_path):
    """safetensors itself writes the metadata in another order each time."""
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.int8), "c": torch.zeros(0)}
    labels = {"recipe": "ä", "arm": "etf", "seed": 3, "epoch": 7}
    written = {save_weights(tmp_path / "x", tensors, **labels).read_bytes() for _ in range(20)}
    assert len(written) == 1
    assert int.from_bytes(next(iter(written))[:8], "little") % 8 == 0
    back = load_file(tmp_path / "x")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_weights_file(tmp_path):
    tensors = {"fc.weight": torch.arange(6.0).view(2, 3).T, "fc.bias": torch.zeros(3)}
    path = save_weights(tmp_path / "last.safetensors", tensors, arm="etf", seed=3, epoch=7)
    assert torch.equal(load_file(path)["fc.weight"], tensors["fc.weight"])
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "arm": "etf", "seed": "3", "epoch": "7"}
