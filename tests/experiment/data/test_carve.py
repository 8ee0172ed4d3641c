from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.carve import carve
from etfhead.experiment.data.duplicates import fingerprints
from etfhead.experiment.data.folder import read_image_folder
from etfhead.experiment.data.images import ArrayImages, Source


def _source(each: int = 20, seed: int = 0) -> Source:
    rng = np.random.default_rng(seed)
    parts = []
    for size in (each, 6):
        labels = np.tile(np.arange(3), size)
        parts.append(ArrayImages(rng.integers(0, 256, (3 * size, 4, 4), dtype=np.uint8), labels))
    return Source(parts[0], parts[1], ("a", "b", "c"), root="generated")


def _with_pixels(source: Source, part: str, changes: dict[int, np.ndarray]) -> Source:
    images = getattr(source, part)
    pixels = images.pixels.copy()
    for index, value in changes.items():
        pixels[index] = value
    return replace(source, **{part: ArrayImages(pixels, images.labels)})


def test_without_duplicates_nothing_is_removed():
    carved = carve(_source(), val_fraction=0.2, seed=0)
    assert sorted([*carved.train, *carved.val]) == list(range(60))
    assert len(carved.val) == 12
    assert set(carved.duplicates.values()) == {0}


def test_training_images_that_are_in_test_leave_train_and_val():
    source = _source()
    test = source.test.pixels
    source = _with_pixels(source, "train", {0: test[0], 7: test[1], 31: test[2]})
    carved = carve(source, val_fraction=0.2, seed=0)
    assert not {0, 7, 31} & {*carved.train.tolist(), *carved.val.tolist()}
    assert carved.duplicates["train_part_images_removed_as_in_test"] == 3
    assert len(carved.train) + len(carved.val) == 57


def test_validation_images_that_are_in_train_leave_val():
    source = _source()
    before = carve(source, val_fraction=0.2, seed=0)
    # One image of val becomes a copy of a training image of the same class.
    victim = before.val[0]
    twin = next(i for i in before.train if source.train.labels[i] == source.train.labels[victim])
    source = _with_pixels(source, "train", {int(victim): source.train.pixels[twin]})
    carved = carve(source, val_fraction=0.2, seed=0)
    assert carved.train.tolist() == before.train.tolist()
    assert carved.val.tolist() == [i for i in before.val if i != victim]
    assert carved.duplicates["val_images_removed_as_in_train"] == 1


def test_conflicting_labels_are_counted():
    source = _source()
    # Positions 0 and 1 have labels 0 and 1.
    source = _with_pixels(source, "train", {1: source.train.pixels[0]})
    assert carve(source, val_fraction=0.2, seed=0).duplicates["images_with_conflicting_labels"] == 1


def test_limit_leaves_the_validation_split_alone():
    full = carve(_source(), val_fraction=0.2, seed=0)
    small = carve(_source(), val_fraction=0.2, seed=0, train_limit=9)
    assert small.val.tolist() == full.val.tolist()
    assert set(small.train) <= set(full.train)
    assert np.bincount(_source().train.labels[small.train]).tolist() == [3, 3, 3]


def test_digest_follows_contents_labels_and_splits():
    source = _source()
    base = carve(source, val_fraction=0.2, seed=0).digest
    assert base == carve(_source(), val_fraction=0.2, seed=0).digest
    flipped = _with_pixels(source, "test", {0: 255 - source.test.pixels[0]})
    labels = source.test.labels.copy()
    labels[0] = 2
    relabelled = replace(source, test=ArrayImages(source.test.pixels, labels))
    others = [
        carve(source, val_fraction=0.2, seed=1).digest,
        carve(source, val_fraction=0.3, seed=0).digest,
        carve(source, val_fraction=0.2, seed=0, train_limit=10).digest,
        carve(flipped, val_fraction=0.2, seed=0).digest,
        carve(relabelled, val_fraction=0.2, seed=0).digest,
        carve(replace(source, class_names=("a", "b", "d")), val_fraction=0.2, seed=0).digest,
    ]
    assert len({base, *others}) == 7


def test_class_whose_every_image_is_in_test():
    source = _source(each=2)
    ones = np.flatnonzero(source.train.labels == 1)
    source = _with_pixels(source, "train", {int(i): source.test.pixels[k] for k, i in enumerate(ones)})
    with pytest.raises(
        DataError, match="class 'b' has no training image: all its images are also in the test"
    ):
        carve(source, val_fraction=0.5, seed=0)


def test_class_that_the_training_part_lacks():
    source = _source()
    labels = np.where(source.train.labels == 2, 0, source.train.labels)
    source = replace(source, train=ArrayImages(source.train.pixels, labels))
    with pytest.raises(DataError, match="class 'c' has no training image: the training part has none"):
        carve(source, val_fraction=0.2, seed=0)


def test_class_whose_every_validation_image_is_in_train():
    source = _source()
    same = {int(i): source.train.pixels[0] for i in np.flatnonzero(source.train.labels == 0)}
    with pytest.raises(DataError, match="every validation image of class 'a' is also a training image"):
        carve(_with_pixels(source, "train", same), val_fraction=0.2, seed=0)


def test_files_are_compared_by_content(tmp_path: Path, image_tree):
    root = image_tree(tmp_path, each=6)
    copy = (root / "test/dog/2.png").read_bytes()
    (root / "train/dog/0.png").write_bytes(copy)
    source = read_image_folder(str(root))
    prints, test_prints = fingerprints(source.train, source.test)
    shared = set(prints) & set(test_prints)
    assert [source.train.paths[i] for i, item in enumerate(prints) if item in shared] == ["dog/0.png"]
    carved = carve(source, val_fraction=0.2, seed=0)
    assert carved.duplicates["train_part_images_removed_as_in_test"] == 1


def test_file_digest_does_not_depend_on_where_the_folder_lies(tmp_path: Path, image_tree):
    digests = [
        carve(read_image_folder(str(image_tree(tmp_path / name))), val_fraction=0.2, seed=0).digest
        for name in ("here", "there")
    ]
    assert digests[0] == digests[1]
