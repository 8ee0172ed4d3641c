from __future__ import annotations

import os
import shutil

import pytest
from PIL import Image

from etfhead.errors import DataError
from etfhead.experiment.data import load_data, readable
from etfhead.experiment.data.folder import folder_classes, read_image_folder
from etfhead.experiment.field_error import FieldError
from etfhead.experiment.recipe import Arm, Recipe


def test_order_and_labels_are_sorted_by_name(tmp_path, image_tree):
    root = image_tree(tmp_path, classes=("zebra", "ant", "bee"), each=3)
    (root / "train/ant/deeper").mkdir()
    shutil.copy(root / "train/ant/1.png", root / "train/ant/deeper/x.PNG")
    source = read_image_folder(str(root))
    assert source.class_names == ("ant", "bee", "zebra")
    assert source.train.paths.tolist() == [
        "ant/0.png", "ant/1.png", "ant/2.png", "ant/deeper/x.PNG",
        "bee/0.png", "bee/1.png", "bee/2.png", "zebra/0.png", "zebra/1.png", "zebra/2.png",
    ]  # fmt: skip
    assert source.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    assert source.train.sizes[0] == os.path.getsize(root / "train/ant/0.png")


def test_other_files_are_passed_over_and_counted(tmp_path, image_tree):
    root = image_tree(tmp_path)
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "test/dog/.hidden.png").write_bytes(b"")
    (root / "train/.cache").mkdir()
    source = read_image_folder(str(root))
    assert len(source.train) == 15
    assert "2 hidden or non-image file(s) passed over" in source.notes


def test_val_serves_as_test_only_when_there_is_no_test(tmp_path, image_tree):
    root = image_tree(tmp_path, parts=("train", "val"))
    source = read_image_folder(str(root))
    assert source.test.root == root / "val"
    assert source.notes == ("val/ serves as test set because there is no test/",)
    image_tree(tmp_path, parts=("test",))
    source = read_image_folder(str(root))
    assert source.test.root == root / "test"
    assert source.notes == ("val/ is not used: validation images are carved from train/",)


def _remove_part(root):
    shutil.rmtree(root / "test")


def _remove_train(root):
    shutil.rmtree(root / "train")


def _empty_part(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def _empty_class(root):
    for image in (root / "train/dog").iterdir():
        image.unlink()


def _class_only_in_test(root):
    shutil.copytree(root / "test/cat", root / "test/cow")


def _class_only_in_train(root):
    shutil.rmtree(root / "test/eel")


def _one_class(root):
    for part in ("train", "test"):
        for name in ("dog", "eel"):
            shutil.rmtree(root / part / name)


@pytest.mark.parametrize(("damage", "message"), [
    (_remove_part, "holds neither test/ nor val/"),
    (_remove_train, "has no train/ folder; expected .*train/<class>/<image>"),
    (_empty_part, "train holds no class folders"),
    (_empty_class, "class folder .*train/dog holds no images"),
    (_class_only_in_test, r"1 class folder\(s\) of .*test are not in .*train: cow"),
    (_class_only_in_train, r"1 class folder\(s\) of .*train are not in .*test: eel"),
    (_one_class, r"holds one class \(cat\); at least two"),
])  # fmt: skip
def test_damaged_trees(tmp_path, image_tree, make_recipe, damage, message):
    root = image_tree(tmp_path)
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        load_data(make_recipe(dataset="image_folder", data_root=str(root)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("root", "message"), [
    (None, "image_folder needs data_root"),
    ("no/such/folder", "data_root no/such/folder does not exist"),
])  # fmt: skip
def test_missing_root(root, message):
    with pytest.raises(DataError, match=message):
        read_image_folder(root)


def test_unreadable_folder(tmp_path, image_tree, make_recipe, monkeypatch):
    root = image_tree(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(root), "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot read image_folder .*Permission denied.*train"):
        load_data(make_recipe(dataset="image_folder", data_root=str(root)))


def test_folder_items_are_decoded_and_normalised_with_imagenet_constants(tmp_path, image_tree, make_recipe):
    root = image_tree(tmp_path, side=8)
    splits = load_data(make_recipe(dataset="image_folder", data_root=str(root), val_fraction=0.2))
    assert splits.info["sizes"] == {"train": 12, "val": 3, "test": 15}
    assert splits.class_counts == (4, 4, 4)
    assert splits.info["normalization_from"] == "ImageNet"
    assert splits.info["mean"] == [0.485, 0.456, 0.406]
    image, label = splits.test[14]
    assert (image.shape, label) == ((3, 8, 8), 2)
    assert splits.train[0, 1][0].equal(splits.train[0, 2][0])  # no_aug: the key does nothing


def test_unreadable_images_are_left_out_counted_and_named(tmp_path, image_tree, make_recipe, monkeypatch):
    root = image_tree(tmp_path, each=6)
    good = load_data(make_recipe(dataset="image_folder", data_root=str(root)))
    assert not any("cannot be decoded" in note for note in good.info["notes"])
    (root / "train/cat/0.png").write_bytes(b"")
    (root / "train/cat/2.png").write_bytes((root / "train/cat/2.png").read_bytes()[:-30])
    Image.effect_noise((64, 64), 50).save(root / "train/eel/9.jpg")
    (root / "train/eel/9.jpg").write_bytes((root / "train/eel/9.jpg").read_bytes()[:-200])
    (root / "train/dog/3.png").write_bytes(b"MZ certainly not an image")
    Image.new("L", (500, 500)).save(root / "test/dog/bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    recipe = make_recipe(dataset="image_folder", data_root=str(root))
    splits = load_data(recipe)
    train, test = (note for note in splits.info["notes"] if "cannot be decoded" in note)
    assert train.startswith(
        "train/: 4 of 19 image files cannot be decoded: cat/0.png (empty, 0 bytes), cat/2.png ("
    )
    for name in ("dog/3.png (UnidentifiedImageError", "eel/9.jpg (OSError"):
        assert name in train
    assert test.startswith("test/: 1 of 19 image files cannot be decoded: dog/bomb.png (DecompressionBomb")
    assert splits.info["sizes"]["test"] == 18
    assert splits.info["digest"] != good.info["digest"]
    assert [label for _, label in (splits.test[i] for i in range(18))] == [0] * 6 + [1] * 6 + [2] * 6
    with pytest.raises(DataError, match=r"train/: 4 of 19 .*replace or remove them"):
        load_data(make_recipe(dataset="image_folder", data_root=str(root), unreadable_images="stop"))
    with pytest.raises(DataError, match=r"train/cat/0\.png is empty"):
        load_data(make_recipe(dataset="image_folder", data_root=str(root), unreadable_images="unchecked"))


def test_a_class_without_a_readable_image_stops(tmp_path, image_tree):
    root = image_tree(tmp_path)
    for path in (root / "train/dog").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"class folder .*train/dog: none of its images can be decoded; 5 of 15"
    ):
        read_image_folder(str(root))


def test_every_file_is_decoded_once_a_process(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path)
    seen = []
    decode = readable.decode_unguarded
    monkeypatch.setattr(
        readable, "decode_unguarded", lambda path, mode: seen.append(path) or decode(path, mode)
    )
    read_image_folder(str(root))
    assert len(seen) == 30
    read_image_folder(str(root))
    assert len(seen) == 30
    Image.new("RGB", (5, 5)).save(root / "train/cat/0.png")
    read_image_folder(str(root))
    assert len(seen) == 31


def test_the_knob_is_of_image_folders():
    with pytest.raises(FieldError, match="no image files"):
        Recipe(
            name="t", model="m", dataset="digits", arms={"a": Arm()}, baseline="a", unreadable_images="stop",
            img_size=8, epochs=1,
        )  # fmt: skip


def test_classes_are_known_without_a_look_at_an_image(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path, classes=("zebra", "ant"), each=2)
    monkeypatch.setattr(readable, "unreadable", lambda *given, **more: pytest.fail("decoded"))
    monkeypatch.setattr("etfhead.experiment.data.folder.unreadable", lambda *given: pytest.fail("decoded"))
    assert folder_classes(str(root)) == ("ant", "zebra")
    shutil.rmtree(root / "test/ant")
    with pytest.raises(DataError, match="ant"):
        folder_classes(str(root))
