from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etfhead.errors import DataError
from etfhead.experiment.data.fetch import KeyedCropFlip, PreparedFetch, prepare
from etfhead.experiment.data.multilabel_datasets import MultiLabelEvalDataset, MultiLabelTrainDataset
from etfhead.experiment.data.multilabel_npz import count_npz_labels, read_multilabel_npz
from etfhead.experiment.data.statistics import Normalization

N, K = 80, 5


def arrays(**changes):
    rng = np.random.default_rng(0)
    made = {
        "images": rng.integers(0, 256, (N, 6, 6, 3), dtype=np.uint8),
        "labels": (rng.random((N, K)) < 0.4).astype(np.uint8),
        "class_names": np.array(list("abcde")),
        "split": np.array(["train"] * 50 + ["val"] * 10 + ["test"] * 20),
    }
    merged = {**made, **changes}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.fixture
def save(tmp_path):
    def _save(content):
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **content)
        return str(path)

    return _save


def test_every_image_arrives_in_its_split_with_its_labels(save):
    content = arrays()
    parts = read_multilabel_npz(save(content))
    assert parts.class_names == tuple("abcde")
    for images, rows in ((parts.train, slice(0, 50)), (parts.val, slice(50, 60)), (parts.test, slice(60, N))):
        assert np.array_equal(images.pixels, content["images"][rows])
        assert np.array_equal(images.labels, content["labels"][rows])
    assert parts.label_counts == tuple(content["labels"][:50].sum(0).tolist())
    assert set(parts.duplicates.values()) == {0}
    assert count_npz_labels(save(content)) == K


def test_missing_splits_are_drawn_so_that_each_shows_every_label(save):
    path = save(arrays(split=None, class_names=None))
    first, other = read_multilabel_npz(path), read_multilabel_npz(path, split_seed=1)
    for images in (first.train, first.val, first.test):
        assert images.labels.any(0).all()
    assert abs(len(first.test) - 0.2 * N) <= 2
    assert abs(len(first.val) - 0.1 * 0.8 * N) <= 2
    assert np.array_equal(first.test.pixels, other.test.pixels)
    assert not np.array_equal(first.val.pixels, other.val.pixels)
    assert first.class_names == ("0", "1", "2", "3", "4")
    rows = {image.tobytes() for part in (first.train, first.val, first.test) for image in part.pixels}
    assert len(rows) == N
    no_val = arrays()["split"]
    no_val[no_val == "val"] = "train"
    drawn = read_multilabel_npz(save(arrays(split=no_val)), val_fraction=0.25)
    assert len(drawn.test) == 20
    assert abs(len(drawn.val) - 15) <= 2


def test_duplicates_leave_training_first_then_validation(save):
    content = arrays()
    images = content["images"]
    images[0], images[1], images[50] = images[60], images[51], images[61]
    images[4] = images[61]  # in all three
    images[2] = images[3]  # twins inside a split stay
    content["labels"][0] = 1 - content["labels"][60]
    content["labels"][1] = content["labels"][51]
    for copy, of in ((50, 61), (4, 61), (2, 3)):
        content["labels"][copy] = content["labels"][of]
    parts = read_multilabel_npz(save(content))
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [47, 9, 20]
    assert parts.duplicates == {
        "train_images_removed_as_in_test": 2,
        "train_images_removed_as_in_val": 1,
        "val_images_removed_as_in_test": 1,
        "images_with_conflicting_labels": 1,
    }
    clean = read_multilabel_npz(save(arrays()))
    assert parts.digest() != clean.digest()


def test_gray_images_with_or_without_a_channel_axis_are_the_same(save):
    gray = arrays()["images"][..., 0]
    flat = read_multilabel_npz(save(arrays(images=gray)))
    deep = read_multilabel_npz(save(arrays(images=gray[..., None])))
    assert flat.train.pixels.ndim == 3
    assert flat.digest() == deep.digest()
    colour = read_multilabel_npz(save(arrays()))
    assert colour.gray().val.pixels.shape == (10, 6, 6)
    assert np.array_equal(colour.gray().val.labels, colour.val.labels)


def test_images_without_a_label_are_noted(save):
    content = arrays()
    content["labels"][[4, 5, 70]] = 0
    noted = read_multilabel_npz(save(content)).notes
    bare = [
        int((content["labels"][rows].sum(1) == 0).sum())
        for rows in (slice(0, 50), slice(50, 60), slice(60, N))
    ]
    expected = [
        f"{n} {part} image(s) carry no label"
        for n, part in zip(bare, ("train", "val", "test"), strict=True)
        if n
    ]
    assert list(noted) == expected
    assert bare[0] >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "lacks labels; it has"),
        (
            {"labels": np.zeros(N, dtype=np.uint8)},
            r"labels is uint8 of shape \(80,\), expected uint8 of shape",
        ),
        ({"labels": np.zeros((N, K))}, "labels is float64"),
        ({"labels": np.full((N, K), 2, dtype=np.uint8)}, "labels holds 2 for image 0, label 0"),
        (
            {"labels": np.ones((N - 1, K), dtype=np.uint8), "split": None},
            "expected one for each of 80 images",
        ),
        ({"labels": np.eye(K, dtype=np.uint8)[np.zeros(N, dtype=int)]}, r"4 label\(s\) have no image: 'b'"),
        ({"images": np.zeros((N, 6, 6))}, "images is float64, expected uint8"),
        ({"images": np.zeros((N, 6, 6, 2), dtype=np.uint8)}, "C of 1"),
        ({"images": np.zeros((N, 0, 6), dtype=np.uint8)}, "at least one pixel"),
        ({"class_names": np.array(["a"] * K)}, "repeats a name"),
        ({"class_names": np.array(["a", "b"])}, "expected 5 texts"),
        ({"split": np.zeros(N, dtype=np.uint8)}, "split is uint8"),
        ({"split": np.array(["train"] * 79 + ["dev"])}, "split holds 'dev' for image 79"),
        ({"split": np.array(["train"] * N)}, "split gives no image to test"),
        ({"images": np.array([object()] * N)}, "without object arrays"),
    ],
)
def test_what_is_wrong_is_named(save, changes, message):
    with pytest.raises(DataError, match=message):
        read_multilabel_npz(save(arrays(**changes)))


def test_no_file(tmp_path):
    for root, message in (
        (None, "needs data_root"),
        (str(tmp_path), "is a folder"),
        (str(tmp_path / "no.npz"), "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            count_npz_labels(root)
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"not a \.npz file"):
        read_multilabel_npz(str(tmp_path / "bad.npz"))


def test_a_label_whose_training_images_are_all_duplicates_is_named(save):
    content = arrays()
    content["labels"][:, 4] = 0
    content["labels"][[0, 60], 4] = 1
    content["images"][0] = content["images"][60]
    with pytest.raises(DataError, match=r"1 label\(s\) have no training image: 'e'"):
        read_multilabel_npz(save(content))


def test_items_are_a_normalised_image_and_a_float_row_and_the_key_decides_the_augmentation(save, make_recipe):
    parts = read_multilabel_npz(save(arrays()))
    prepared = prepare(parts.train, make_recipe(img_size=6), train=True)
    norm = Normalization((0.5,) * 3, (0.25,) * 3, "test")
    plain = MultiLabelEvalDataset(PreparedFetch(prepared, norm), parts.train.labels)
    images, targets = next(iter(DataLoader(plain, batch_size=4)))
    assert (images.dtype, targets.dtype, tuple(targets.shape)) == (torch.float32, torch.float32, (4, K))
    assert torch.equal(targets, torch.from_numpy(parts.train.labels[:4]).float())
    expected = (torch.from_numpy(parts.train.pixels[:4]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(images, expected)
    train = MultiLabelTrainDataset(
        PreparedFetch(prepared, norm, KeyedCropFlip(2, 0.5, 0.0)), parts.train.labels
    )
    assert len(train) == 50
    first, again, other = train[3, 11], train.__getitems__([(2, 5), (3, 11)])[1], train[3, 12]
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])
    assert torch.equal(plain[3][1], first[1])
