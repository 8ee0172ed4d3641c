import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.pack_clipart_folders import main
from etfhead.experiment.data.npz import read_npz


@pytest.fixture
def clipart(tmp_path):
    root = tmp_path / "usr/share/openclipart/png"
    rng = np.random.default_rng(0)
    for name, count in {"animals/birds": 9, "food": 5, "shapes/stars": 6, "unsorted": 6, "toys": 2}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    copy = (root / "food/0.png").read_bytes()
    (root / "food/copy.png").write_bytes(copy)
    return tmp_path


def pack(monkeypatch, folder, *options):
    out = folder / "set.npz"
    monkeypatch.setattr(sys, "argv", ["pack", str(folder), "--size", "8", "--out", str(out), *options])
    main()
    return out


def test_writes_what_the_npz_data_set_reads(clipart, monkeypatch, capsys):
    source = read_npz(str(pack(monkeypatch, clipart, "--least", "4", "--test", "2")))
    assert source.class_names == ("animals", "food")
    assert np.bincount(source.train.labels).tolist() == [7, 3]
    assert np.bincount(source.test.labels).tolist() == [2, 2]
    said = capsys.readouterr().out
    assert "'duplicates': 1" in said
    assert "animals 7, food 3" in said


def test_refuses_a_test_part_that_leaves_nothing(clipart, monkeypatch):
    with pytest.raises(SystemExit, match="--test 4"):
        pack(monkeypatch, clipart, "--least", "4", "--test", "4")
    with pytest.raises(SystemExit, match="lower --least"):
        pack(monkeypatch, clipart, "--least", "40", "--test", "4")
