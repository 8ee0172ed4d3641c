"""What runs and is probably not meant is told by validate and run."""

import pytest
import timm
from PIL import Image

from etfhead.experiment.advice import recipe_notes
from etfhead.experiment.data.statistics import choose_normalization
from etfhead.experiment.schema import load_recipe

RESNET = ["model=resnet18", "trainable=[layer4]", "data_root=x.npz"]
TOLD = "mean [0.5, 0.5, 0.5] is the recipe's; resnet18's "


def notes(name, *overrides):
    return recipe_notes(load_recipe(name, list(overrides)))


def test_another_models_normalization_is_told():
    (note,) = notes("fine_tune", *RESNET)
    assert note == (TOLD + "weights were trained with [0.485, 0.456, 0.406]; mean=null std=null takes those")


def test_what_the_note_advises_takes_the_models_own():
    recipe = load_recipe("fine_tune", [*RESNET, "mean=null", "std=null"])
    assert recipe_notes(recipe) == []
    config = timm.get_pretrained_cfg("resnet18")
    taken = choose_normalization(recipe, None)
    assert (taken.mean, taken.std) == (config.mean, config.std)


def test_weights_from_a_file_get_numbers():
    file = [*RESNET, "pretrained=false", "initial_checkpoint=a.safetensors"]
    (note,) = notes("fine_tune", *file)
    assert note.startswith(TOLD + "published weights were trained with [0.485, 0.456, 0.406]; if the file")
    words = note.rpartition("pass ")[2].split()
    assert words == ["mean=[0.485,0.456,0.406]", "std=[0.229,0.224,0.225]"]
    assert notes("fine_tune", *file, *words) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["data_root=x.npz"],
        [*RESNET, "pretrained=false"],
        [*RESNET, "in_chans=1", "mean=[0.5]", "std=[0.5]"],
    ],
)
def test_what_is_right_or_cannot_be_compared_has_no_note(overrides):
    assert notes("fine_tune", *overrides) == []


def tree(root, colour):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name / "deep").mkdir(parents=True)
            Image.new("RGB", (8, 8), (90, 90, 90)).save(root / part / name / "deep/0.png")
            (root / part / name / "a.txt").write_text("no image")
    Image.new("RGB", (8, 8), colour).save(root / "train/dog/0.jpg")
    return root


@pytest.mark.parametrize(("colour", "told"), [((200, 30, 30), True), ((80, 80, 88), False)])
def test_colour_that_is_read_as_grey_is_told(tmp_path, colour, told):
    folder = ["dataset=image_folder", f"data_root={tree(tmp_path, colour)}", "~arms.cosine"]
    expected = "in_chans 1 reads the images as grey, and train/dog/0.jpg is in colour; in_chans=3 keeps it"
    assert notes("quickstart", *folder, "in_chans=1") == ([expected] if told else [])
    assert notes("quickstart", *folder, "in_chans=3") == []


def test_a_file_that_cannot_be_read_is_left_to_who_reads_all(tmp_path):
    root = tree(tmp_path, (200, 30, 30))
    (root / "train/dog/0.jpg").write_bytes(b"no image")
    assert notes("quickstart", "dataset=image_folder", f"data_root={root}", "in_chans=1") == []


def test_an_image_that_pillow_refuses_has_no_note(tmp_path, monkeypatch):
    folder = tree(tmp_path, (200, 30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # those of 64 pixels are more than twice as many
    assert (
        notes("quickstart", "dataset=image_folder", f"data_root={folder}", "~arms.cosine", "in_chans=1") == []
    )
