from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data import load_data
from etfhead.experiment.data.fetch import KeyedCropFlip, PreparedFetch
from etfhead.experiment.data.npz import count_npz_classes, read_npz
from etfhead.experiment.preflight import check_buildable


def arrays(*, colour=False, each=6, classes=3, side=8):
    rng = np.random.default_rng(0)
    shape = (side, side, 3) if colour else (side, side)
    made = {}
    for part, n in (("train", each), ("test", 2)):
        made[f"y_{part}"] = np.tile(np.arange(classes), n)
        made[f"x_{part}"] = rng.integers(0, 256, (n * classes, *shape), dtype=np.uint8)
    return made


@pytest.fixture
def save(tmp_path):
    def _save(**content):
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **content)
        return str(path)

    return _save


@pytest.mark.parametrize("colour", [False, True])
def test_every_image_and_label_arrives(save, make_recipe, colour):
    content = arrays(colour=colour)
    recipe = make_recipe(
        dataset="npz",
        data_root=save(**content),
        in_chans=3 if colour else 1,
        val_fraction=0.2,
        mean=(0.0,) * (3 if colour else 1),
        std=(1.0,) * (3 if colour else 1),
    )
    splits = load_data(recipe)
    assert (splits.num_classes, splits.class_names) == (3, ("0", "1", "2"))
    assert splits.info["sizes"] == {"train": 15, "val": 3, "test": 6}

    def rows(images, labels):
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    def bytes_of(dataset, key):
        items = [dataset[i, 0] if key else dataset[i] for i in range(len(dataset))]
        pixels = [(x * 255).round().byte().permute(1, 2, 0).numpy() for x, _ in items]
        return [x if colour else x[..., 0] for x in pixels], [y for _, y in items]

    train, val = bytes_of(splits.train, True), bytes_of(splits.val, False)
    assert rows(train[0] + val[0], train[1] + val[1]) == rows(content["x_train"], content["y_train"])
    assert rows(*bytes_of(splits.test, False)) == rows(content["x_test"], content["y_test"])


def test_small_crops_take_the_fast_path(save, make_recipe):
    root = save(**arrays())
    recipe = make_recipe(
        dataset="npz", data_root=root, val_fraction=0.2, in_chans=1, no_aug=False, crop_padding=1
    )
    fetch = load_data(recipe).train.fetch
    assert isinstance(fetch, PreparedFetch)
    assert isinstance(fetch.augment, KeyedCropFlip)


def test_grey_images_of_one_channel_and_colour_as_grey(save, make_recipe):
    content = arrays()
    with_axis = {k: v[..., None] if k.startswith("x") else v for k, v in content.items()}
    plain, axis = read_npz(save(**content)), read_npz(save(**with_axis))
    assert np.array_equal(plain.train.pixels, axis.train.pixels)
    root = save(**arrays(colour=True))
    splits = load_data(make_recipe(dataset="npz", data_root=root, val_fraction=0.2, in_chans=1))
    assert splits.test[0][0].shape == (1, 8, 8)


def test_class_names_count_the_classes(save):
    content = arrays()
    assert count_npz_classes(save(**content)) == 3
    named = {**content, "class_names": np.array(["one", "two", "three"])}
    assert read_npz(save(**named)).class_names == ("one", "two", "three")
    assert count_npz_classes(save(**named)) == 3


def test_the_digest_follows_the_pixels(save, make_recipe):
    content = arrays()
    digests = []
    for change in (0, 0, 1):
        content["x_test"][0, 0, 0] ^= change
        recipe = make_recipe(dataset="npz", data_root=save(**content), val_fraction=0.2)
        digests.append(load_data(recipe).info["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_preflight_builds_the_heads_for_the_classes_of_the_file(save, make_recipe):
    from etfhead.experiment.recipe import Arm

    recipe = make_recipe(
        dataset="npz", data_root=save(**arrays(classes=200, side=2, each=2)), img_size=32,
        arms={"etf": Arm(head="etf", frame="simplex")}, baseline="etf",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"arm 'etf': .*in_features=96"):  # a simplex of 200 does not fit
        check_buildable(recipe)


CHANGES = [
    ({"y_test": None}, "lacks y_test; it has x_test, x_train, y_train"),
    ({"x_train": np.zeros((18, 8, 8))}, "x_train is float64, expected uint8"),
    ({"x_train": np.zeros((18, 64), np.uint8)}, r"x_train has shape \(18, 64\), expected \(N, H, W\)"),
    ({"x_test": np.zeros((6, 8, 8, 4), np.uint8)}, r"x_test has shape \(6, 8, 8, 4\).* C of 1 \(grey\)"),
    ({"x_test": np.zeros((0, 8, 8), np.uint8)}, "x_test has shape .*at least one image"),
    ({"y_train": np.zeros(18)}, "y_train is float64 .*expected .*integers"),
    ({"y_train": np.zeros((18, 3), int)}, r"y_train is int64 of shape \(18, 3\)"),
    ({"y_train": np.zeros(17, int)}, "y_train holds 17 labels, expected one for each of 18 images"),
    ({"y_test": np.array([0, 1, -1, 0, 1, 2])}, "y_test holds -1 at position 2, expected 0..2"),
    (
        {"y_test": np.array([0, 1, 2, 2, 9, 2]), "class_names": np.array(["a", "b", "c"])},
        r"y_test holds 9 at position 4, expected 0\.\.2",
    ),
    ({"y_train": np.full(18, 2**60)}, "the largest label is 1152921504606846976, expected less than the 24"),
    ({"class_names": np.array(["a", "b", "a"])}, "class_names repeats"),
    ({"class_names": np.arange(3)}, r"class_names is int64 of shape \(3,\), expected K texts"),
    ({"class_names": np.array(["a", None, "b"], dtype=object)}, "without object arrays"),
    ({"y_train": np.zeros(18, int), "y_test": np.zeros(6, int)}, "at least two"),
    ({"x_test": np.zeros((6, 9, 8), np.uint8)}, r"x_test are \(9, 8\), expected \(8, 8\) as in x_train"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[m[:30] for _, m in CHANGES])
def test_a_bad_array_is_named_with_what_was_expected(save, change, message):
    content = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    content = dict(sorted(content.items()))
    with pytest.raises(DataError, match=message) as caught:
        read_npz(save(**content))
    assert "\n" not in str(caught.value)


def test_a_class_without_training_images_is_told_by_its_name(save, make_recipe):
    content = {**arrays(), "class_names": np.array(["a", "b", "c", "rare"])}
    with pytest.raises(DataError, match="class 'rare' has no training image"):
        load_data(make_recipe(dataset="npz", data_root=save(**content), val_fraction=0.2))


def test_bad_files(save, tmp_path):
    with pytest.raises(DataError, match="needs data_root"):
        read_npz(None)
    with pytest.raises(DataError, match="does not exist"):
        read_npz(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match="is a folder"):
        read_npz(str(tmp_path))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz is not a \.npz file"):
        read_npz(str(tmp_path / "text.npz"))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy is not a \.npz file"):
        read_npz(str(tmp_path / "one.npy"))
    torch.save({}, tmp_path / "torch.npz")
    with pytest.raises(DataError, match="lacks x_train"):
        read_npz(str(tmp_path / "torch.npz"))
    path = save(**arrays())
    with open(path, "rb") as file:
        data = file.read()
    for cut in (data[: len(data) // 2], data[:200] + bytes(300) + data[500:]):
        with open(path, "wb") as file:
            file.write(cut)
        with pytest.raises(DataError, match=r"set\.npz") as caught:
            read_npz(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value"), [(6, 1), (8, 99)], ids=["said to be encrypted", "an unknown compression"]
)
def test_a_damaged_entry_of_the_archive(save, at, value):
    path = Path(save(**arrays()))
    data = bytearray(path.read_bytes())
    for magic, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):  # the central directory has one field more
        place = data.find(magic)
        while place >= 0:
            data[place + at + shift] = value
            place = data.find(magic, place + 4)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read .*set\.npz"):
        read_npz(str(path))


def test_objects_in_a_file_are_never_unpickled(save, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    with pytest.raises(DataError, match="cannot read"):
        read_npz(save(**{**arrays(), "x_train": np.array([Harm()], dtype=object)}))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("dataset", ["npz", "image_folder"])
def test_a_recipe_without_its_file_loads_but_does_not_run(make_recipe, dataset):
    recipe = make_recipe(dataset=dataset)
    with pytest.raises(ValueError, match=rf"^data_root: dataset: {dataset} needs the \w+'s path here"):
        check_buildable(recipe)
