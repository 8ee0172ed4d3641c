from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etfhead.errors import DataError
from etfhead.experiment.data import load_data
from etfhead.experiment.data.cifar import read_cifar

NAMES = tuple(f"{k:03d}_kind" for k in range(10))


def test_class_folders_are_decoded_into_memory(tmp_path, image_tree, make_recipe):
    root = image_tree(tmp_path, classes=NAMES, side=32, each=4)
    splits = load_data(make_recipe(dataset="cifar10", data_root=str(root), img_size=32, val_fraction=0.25))
    assert splits.info["sizes"] == {"train": 30, "val": 10, "test": 40}
    assert splits.class_names == NAMES
    assert any("re-encoded" in note for note in splits.info["notes"])
    image, label = splits.test[5]
    stored = np.asarray(Image.open(root / "test" / NAMES[1] / "1.png"))
    mean, std = (np.array(splits.info[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    np.testing.assert_allclose(image.numpy() * std + mean, stored.transpose(2, 0, 1) / 255, atol=1e-6)
    assert label == 1


def test_class_folders_with_a_validation_part(tmp_path, image_tree, make_recipe):
    root = image_tree(tmp_path, classes=NAMES, parts=("train", "val", "test"), side=32, each=4)
    shutil.rmtree(root / "val" / NAMES[0])
    bright = root / "val" / NAMES[0]
    bright.mkdir()
    Image.new("RGB", (32, 32), "white").save(bright / "0.png")
    recipe = make_recipe(dataset="cifar10", data_root=str(root), img_size=32)
    splits = load_data(recipe)
    assert splits.info["sizes"] == {"train": 40, "val": 37, "test": 40}
    assert splits.info["notes"][0].startswith("val/ is the validation part")
    train = np.stack([np.asarray(Image.open(path)) for path in (root / "train").rglob("*.png")]) / 255
    np.testing.assert_allclose(splits.info["mean"], train.mean((0, 1, 2)))  # of train/ alone
    grey = load_data(replace(recipe, in_chans=1))
    assert [len(part) for part in (grey.train, grey.val, grey.test)] == [40, 37, 40]


def _official(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny CIFAR-10 in torchvision's files, whose checksums torchvision is told to expect."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lists = {"train_list": [], "test_list": []}
    for name, kind, each in (("data_batch_1", "train_list", 4), ("test_batch", "test_list", 2)):
        labels = list(range(10)) * each
        batch = {"data": rng.integers(0, 256, (10 * each, 3072), dtype=np.uint8), "labels": labels}
        data = pickle.dumps(batch)
        (folder / name).write_bytes(data)
        lists[kind].append([name, hashlib.md5(data).hexdigest()])
    meta = pickle.dumps({"label_names": list(NAMES)})
    (folder / "batches.meta").write_bytes(meta)
    for kind, value in lists.items():
        monkeypatch.setattr(CIFAR10, kind, value)
    digest = hashlib.md5(meta).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": digest})
    return folder


@pytest.mark.parametrize("below", ["", "data/cifar10", "data"])
def test_torchvision_files(tmp_path, monkeypatch, below):
    folder = _official(tmp_path / below, monkeypatch)
    monkeypatch.chdir(tmp_path)
    source = read_cifar(10, None if below else str(tmp_path), download=False)
    assert source.class_names == NAMES
    assert source.train.labels.tolist() == list(range(10)) * 4
    first = pickle.loads((folder / "test_batch").read_bytes())["data"][0].reshape(3, 32, 32)
    assert source.test.pixels[0].transpose(2, 0, 1).tolist() == first.tolist()


def test_altered_pickle_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    folder = _official(tmp_path, monkeypatch)
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (opened,))

    (folder / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"CIFAR-10 in .* cannot be read: .*corrupted"):
        read_cifar(10, str(tmp_path), download=False)
    assert not opened.exists()


def test_nothing_found_lists_what_was_tried(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR-100 not found .*cifar-100-python.*train; set download=true"):
        read_cifar(100, str(tmp_path), download=False)


def test_download_failure_is_one_line(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    def fail(self):
        raise OSError("no route\nto host")

    monkeypatch.setattr(CIFAR100, "download", fail)
    with pytest.raises(DataError, match=r"CIFAR-100 in .* cannot be read: no route to host") as caught:
        read_cifar(100, str(tmp_path), download=True)
    assert "\n" not in str(caught.value)


def test_wrong_number_of_class_folders(tmp_path, image_tree):
    root = image_tree(tmp_path, side=32)
    with pytest.raises(DataError, match="holds 3 class folders, expected 10 for cifar10"):
        read_cifar(10, str(root), download=False)


def test_image_of_another_size(tmp_path, image_tree):
    root = image_tree(tmp_path, classes=NAMES, side=32, each=1)
    Image.new("RGB", (30, 32)).save(root / "test" / NAMES[4] / "0.png")
    with pytest.raises(DataError, match=r"004_kind/0\.png is 30x32, expected 32x32"):
        read_cifar(10, str(root), download=False)
