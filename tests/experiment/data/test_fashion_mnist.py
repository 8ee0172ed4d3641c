from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data import load_data
from etfhead.experiment.data.fashion_mnist import read_fashion_mnist

LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_finds_the_files_in_common_layouts(tmp_path, write_idx, zipped, below):
    write_idx(tmp_path / below, zipped=zipped)
    source = read_fashion_mnist(str(tmp_path), download=False)
    assert source.train.pixels.shape == (120, 28, 28)
    assert source.test.pixels.shape == (40, 28, 28)
    assert source.train.labels.tolist() == list(range(10)) * 12
    assert Path(source.root) == tmp_path / below
    assert source.class_names[9] == "Ankle boot"


def test_looks_below_the_working_directory_when_no_root_is_given(tmp_path, write_idx, monkeypatch):
    write_idx(tmp_path / "data/fashion_mnist")
    monkeypatch.chdir(tmp_path)
    assert read_fashion_mnist(None, download=False).root == "data/fashion_mnist"


def test_accepts_names_with_a_dot_before_idx(tmp_path, write_idx):
    for path in write_idx(tmp_path).iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(read_fashion_mnist(str(tmp_path), download=False).train) == 120


def test_missing_files_say_what_was_tried_and_what_to_do(tmp_path, write_idx):
    write_idx(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(DataError) as caught:
        read_fashion_mnist(str(tmp_path), download=False)
    for part in (
        f"({tmp_path} lacks {LABELS})",
        "FashionMNIST/raw",
        "dataset-fashion-mnist",
        "download=true",
        LABELS,
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def _replace_labels(folder: Path, labels: list[int]) -> None:
    head = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    (folder / LABELS).write_bytes(head + bytes(labels))


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 1, 2] * 40, "class 'Dress' has no training image: the training part has none"),
    ([*range(10)] * 11 + [10] * 10, f"{LABELS}: label 10 of item 110 is out of range, expected 0..9"),
    ([*range(10)] * 11, "holds 120 images but .* holds 110 labels"),
])  # fmt: skip
def test_inconsistent_labels(tmp_path, write_idx, make_recipe, labels, message):
    _replace_labels(write_idx(tmp_path), labels)
    with pytest.raises(DataError, match=message):
        load_data(make_recipe(dataset="fashion_mnist", data_root=str(tmp_path)))


def test_parts_of_different_image_size(tmp_path, write_idx):
    write_idx(tmp_path)
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (40, 14, 56))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(head + bytes(40 * 28 * 28))
    with pytest.raises(DataError, match=r"images are \(14, 56\), but those of .* are \(28, 28\)"):
        read_fashion_mnist(str(tmp_path), download=False)


def test_download_is_used_only_when_files_are_missing(tmp_path, write_idx, monkeypatch):
    import torchvision.datasets

    calls = []

    def fake(root: str, download: bool) -> None:
        calls.append((root, download))
        write_idx(Path(root) / "FashionMNIST/raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fake)
    for _ in range(2):
        source = read_fashion_mnist(str(tmp_path), download=True)
        assert len(source.train) == 120
    assert calls == [(str(tmp_path), True)]


def test_failed_download_is_one_clear_line(tmp_path, monkeypatch):
    import torchvision.datasets

    def fail(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(
        DataError, match=r"download of Fashion-MNIST to .* failed: Error downloading train-images"
    ) as e:
        read_fashion_mnist(str(tmp_path), download=True)
    assert "\n" not in str(e.value)


@pytest.fixture
def real_root() -> Path:
    try:
        return Path(read_fashion_mnist(os.environ.get("ETFHEAD_FASHION_MNIST"), download=False).root)
    except DataError:
        pytest.skip("Fashion-MNIST is not installed; set ETFHEAD_FASHION_MNIST to its folder")


def test_the_real_files(make_recipe, real_root):
    recipe = make_recipe(dataset="fashion_mnist", data_root=str(real_root), img_size=28, in_chans=1)
    splits = load_data(recipe)
    assert splits.info["sizes"] == {"train": 54_000, "val": 6_000, "test": 10_000}
    assert splits.class_counts == (5400,) * 10
    # What the literature quotes for the 60,000 training images.
    assert splits.info["mean"] == pytest.approx([0.2860], abs=5e-5)
    assert splits.info["std"] == pytest.approx([0.3530], abs=5e-5)
    labels = torch.tensor(splits.test.labels)
    assert labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert labels.bincount().tolist() == [1000] * 10
    # Trousers have less ink on the whole than pullovers, and more of it on the vertical axis than shoes.
    means = [
        torch.stack([splits.test[int(i)][0] for i in (labels == k).nonzero()]).mean(0)[0] for k in range(10)
    ]
    assert means[1].mean() < means[2].mean()
    assert means[1][:, 10:18].mean() > means[7][:, 10:18].mean()
