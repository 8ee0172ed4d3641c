from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from etfhead.errors import DataError
from etfhead.experiment.data import load_data, read_data, readable
from etfhead.experiment.data.folder import folder_classes, folder_split, read_image_folder
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
    assert source.held_out is None
    image_tree(tmp_path, parts=("test",))
    source = read_image_folder(str(root))
    assert source.test.root == root / "test"
    assert source.held_out.sum() == 15


@pytest.fixture
def whole_tree(tmp_path, image_tree):
    """Three parts of 6, 3 and 2 images a class, all different."""
    image_tree(tmp_path, parts=("train", "val", "test"), each=6, side=8)
    for part, kept in (("val", 3), ("test", 2)):
        for path in (tmp_path / part).glob("*/*"):
            if int(path.stem) >= kept:
                path.unlink()
    return tmp_path


def _pictures(dataset):
    """Items as comparable bytes, whatever their order."""
    return sorted((dataset[i][0].numpy().tobytes(), int(dataset[i][1])) for i in range(len(dataset)))


def _expected(root, part, splits):
    """The images of a part as the splits should give them, by a loop over the files."""
    mean, std = (torch.tensor(splits.info[key]).view(3, 1, 1) for key in ("mean", "std"))
    found = []
    for label, name in enumerate(("cat", "dog", "eel")):
        for path in (root / part / name).iterdir():
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
            found.append(((pixels - mean) / std, label))
    return found


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_part_beside_a_test_part_is_the_validation_split(whole_tree, make_recipe, name):
    (whole_tree / "val").rename(whole_tree / name)
    recipe = make_recipe(dataset="image_folder", data_root=str(whole_tree))
    splits = load_data(recipe)
    note = f"{name}/ is the validation part: nothing is carved from train/, val_fraction does not apply"
    assert splits.info["notes"] == [note]
    assert folder_split(str(whole_tree)) == read_data(recipe).how_split == note
    assert splits.info["sizes"] == {"train": 18, "val": 9, "test": 6}
    assert splits.info["val_fraction"] is None
    for part, dataset in ((name, splits.val), ("test", splits.test), ("train", splits.plain)):
        found = [dataset[i] for i in range(len(dataset))]
        expected = _expected(whole_tree, part, splits)
        assert len(found) == len(expected)
        for image, label in expected:
            assert any(label == other and torch.allclose(image, got, atol=1e-5) for got, other in found)


def test_what_draws_the_validation_split_changes_nothing_of_a_given_one(whole_tree, make_recipe):
    fields = {"dataset": "image_folder", "data_root": str(whole_tree)}
    first = load_data(make_recipe(**fields))
    for changes in ({"val_fraction": 0.5}, {"split_seed": 3}):
        assert load_data(make_recipe(**fields, **changes)).info["digest"] == first.info["digest"]
    few = load_data(make_recipe(**fields, train_limit=6))
    assert few.info["sizes"] == {"train": 6, "val": 9, "test": 6}
    assert _pictures(few.val) == _pictures(first.val)
    shutil.rmtree(whole_tree / "val")
    carved = load_data(make_recipe(**fields))
    assert carved.info["sizes"] == {"train": 15, "val": 3, "test": 6}
    assert (carved.info["notes"], carved.info["val_fraction"]) == ([], 0.1)
    assert carved.info["digest"] != first.info["digest"]


def test_chosen_classes_rare_classes_and_wrong_labels_with_a_given_validation_part(whole_tree, make_recipe):
    fields = {"dataset": "image_folder", "data_root": str(whole_tree), "no_aug": True}
    whole = load_data(make_recipe(**fields))
    chosen = load_data(make_recipe(**fields, classes=(2, 0)))
    assert chosen.class_names == ("eel", "cat")
    assert chosen.info["sizes"] == {"train": 12, "val": 6, "test": 4}
    renumbered = sorted((image, {0: 1, 2: 0}[label]) for image, label in _pictures(whole.val) if label != 1)
    assert _pictures(chosen.val) == renumbered
    rare = load_data(make_recipe(**fields, imbalance_factor=3))
    assert sorted(rare.class_counts, reverse=True) == [6, 3, 2]
    assert _pictures(rare.val) == _pictures(whole.val)
    noisy = load_data(make_recipe(**fields, noise_kind="symmetric", noise_rate=0.5))
    assert [image for image, _ in _pictures(noisy.val)] == [image for image, _ in _pictures(whole.val)]
    wrong = [seen != true for seen, true in zip(noisy.val.labels, whole.val.labels, strict=True)]
    assert noisy.info["label_noise"]["val_rate"] == sum(wrong) / 9 > 0
    assert noisy.true_val.tolist() == list(whole.val.labels)
    assert _pictures(noisy.test) == _pictures(whole.test)


def test_labels_in_a_file_are_those_of_train_and_then_of_val(whole_tree, make_recipe):
    labels = np.repeat([0, 1, 2, 0, 1, 2], [6, 6, 6, 3, 3, 3])
    labels[[0, -1]] = [1, 0]
    np.save(whole_tree / "labels.npy", labels)
    fields = {"dataset": "image_folder", "data_root": str(whole_tree)}
    splits = load_data(make_recipe(**fields, labels_file=str(whole_tree / "labels.npy")))
    assert [list(splits.train.labels), list(splits.val.labels)] == [
        labels[:18].tolist(),
        labels[18:].tolist(),
    ]
    np.save(whole_tree / "labels.npy", labels[:18])
    with pytest.raises(DataError, match=r"holds 18 labels, expected 27: .* follows train/"):
        load_data(make_recipe(**fields, labels_file=str(whole_tree / "labels.npy")))


def test_copies_across_three_parts_leave_training_first_then_validation(whole_tree, make_recipe):
    for old, new in (
        ("test/cat/0.png", "train/cat/in_test.png"),
        ("test/cat/0.png", "val/cat/in_test.png"),
        ("val/dog/1.png", "train/dog/in_val.png"),
        ("val/dog/2.png", "train/eel/other_label.png"),
    ):
        shutil.copy(whole_tree / old, whole_tree / new)
    splits = load_data(make_recipe(dataset="image_folder", data_root=str(whole_tree)))
    assert splits.info["sizes"] == {"train": 18, "val": 9, "test": 6}
    assert splits.info["duplicates"] == {
        "train_images_removed_as_in_test": 1,
        "train_images_removed_as_in_val": 2,
        "val_images_removed_as_in_test": 1,
        "images_with_conflicting_labels": 1,
    }


@pytest.mark.parametrize(("source", "copy", "message"), [
    ("test", "val", "class 'cat' has no validation image: all it had are also in the test part"),
    ("test", "train", "class 'cat' has no training image: all it had are also in val/ or the test part"),
    ("val", "train", "class 'cat' has no training image: all it had are also in val/ or the test part"),
])  # fmt: skip
def test_a_class_all_of_whose_images_are_copies_is_refused(whole_tree, make_recipe, source, copy, message):
    shutil.rmtree(whole_tree / copy / "cat")
    shutil.copytree(whole_tree / source / "cat", whole_tree / copy / "cat")
    with pytest.raises(DataError, match=message):
        load_data(make_recipe(dataset="image_folder", data_root=str(whole_tree)))


def test_a_validation_part_must_be_whole(whole_tree, make_recipe):
    recipe = make_recipe(dataset="image_folder", data_root=str(whole_tree))
    (whole_tree / "val/cat/0.png").write_bytes(b"")
    splits = load_data(recipe)
    assert splits.info["notes"][1].startswith("val/: 1 of 9 image files cannot be decoded: cat/0.png (empty")
    assert splits.info["sizes"] == {"train": 18, "val": 8, "test": 6}
    with pytest.raises(DataError, match=r"val/cat/0\.png is empty"):
        load_data(replace(recipe, unreadable_images="unchecked"))
    (whole_tree / "val/cat").rename(whole_tree / "val/cow")
    with pytest.raises(DataError, match=r"1 class folder\(s\) of .*val are not in .*train: cow"):
        folder_classes(str(whole_tree))
    (whole_tree / "val/cow").rename(whole_tree / "validation")
    with pytest.raises(DataError, match=r"holds val/ and validation/; keep the one"):
        folder_classes(str(whole_tree))
    shutil.rmtree(whole_tree / "validation")
    with pytest.raises(DataError, match=r"of .*train are not in .*val: cat; .*; or move val/ away"):
        folder_classes(str(whole_tree))
    shutil.rmtree(whole_tree / "val")
    (whole_tree / "val").mkdir()
    with pytest.raises(DataError, match=r"val holds no class folders.*; or move val/ away to have the valid"):
        folder_classes(str(whole_tree))


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


def test_a_file_is_not_called_missing(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("")
    with pytest.raises(DataError, match=r"mine\.yaml is a file, not a folder; name the folder above train/"):
        folder_classes(str(file))


def test_classes_at_the_top_are_told_where_to_go(tmp_path, image_tree):
    top = image_tree(tmp_path) / "test"
    message = "has no train/ folder; it holds the class folders themselves: move them into train/ and test/"
    with pytest.raises(DataError, match=message):
        folder_classes(str(top))
    with pytest.raises(DataError, match=r"expected .*train/<class>/<image>"):
        folder_classes(str(top / "cat"))


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
