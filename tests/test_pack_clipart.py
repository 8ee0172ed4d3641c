"""The clip-art packer on a tree of its own drawings."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import pack_clipart
from etfhead.experiment.data.multilabel_npz import read_multilabel_npz

HEAD = "<svg><metadata><dc:subject><rdf:Bag>{}</rdf:Bag></dc:subject></metadata></svg>"


def svg(*words):
    return HEAD.format("".join(f"<rdf:li>{word}</rdf:li>" for word in words))


@pytest.fixture
def tree(tmp_path):
    """Twelve labelled drawings, a copy, and some of everything that is left out."""
    root = tmp_path / "usr" / "share" / "openclipart"
    rng = np.random.default_rng(0)

    def draw(name, pixels, text):
        for kind in ("png", "svg"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "png" / f"{name}.png")
        if text is not None:
            (root / "svg" / f"{name}.svg").write_text(text)

    drawings = rng.integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    for i, pixels in enumerate(drawings):
        words = (["bird", "animal"] if i % 2 else ["car"]) + (["red"] if i % 3 == 0 else [])
        draw(f"things/a{i:02}", pixels, svg(*words))
    draw("things/b_copy", drawings[0], svg("bird"))
    draw("things/c_rare", 255 - drawings[1], svg("rare"))
    draw("things/d_alone", 255 - drawings[2], None)
    draw("shapes/stars/e", 255 - drawings[3], svg("bird"))
    draw("unsorted/f", 255 - drawings[4], svg("bird"))
    return tmp_path, drawings


def test_packed_images_load_with_their_labels_and_every_label_in_each_split(
    tree, tmp_path, monkeypatch, capsys
):
    folder, drawings = tree
    out = tmp_path / "set.npz"
    arguments = ["pack_clipart", str(folder), "--size", "9", "--out", str(out), "--least", "4"]
    monkeypatch.setattr(sys, "argv", arguments)
    pack_clipart.main()
    printed = capsys.readouterr().out
    assert "12 images, 4 labels" in printed
    for reason in ("'duplicates': 1", "'in shapes/stars or unsorted': 2", "'without an SVG': 1"):
        assert reason in printed
    assert "'without a frequent label': 1" in printed
    parts = read_multilabel_npz(str(out))
    assert parts.class_names == ("animal", "bird", "car", "red")
    rows = {}
    for images in (parts.train, parts.val, parts.test):
        assert images.labels.any(0).all()
        for pixels, labels in zip(images.pixels, images.labels, strict=True):
            rows[pixels.tobytes()] = [
                name for name, hot in zip(parts.class_names, labels, strict=True) if hot
            ]
    assert rows[drawings[0].tobytes()] == ["bird", "car", "red"]  # its copy's label too
    assert rows[drawings[1].tobytes()] == ["animal", "bird"]
    assert rows[drawings[2].tobytes()] == ["car"]


def test_keywords_are_lower_case_texts_and_no_entity_is_expanded():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    found = pack_clipart.keywords(bomb + svg(" Road  Sign ", "&b;", "&amp;amp", "hash", "", "<b>no</b>"))
    assert found == {"road sign", "&b;", "&amp"}
    assert pack_clipart.keywords("<svg/>") == set()


def test_thumbnails_are_centred_on_white_and_weighted_by_alpha(tmp_path, monkeypatch):
    pixels = np.zeros((4, 8, 4), dtype=np.uint8)
    pixels[:, ::2] = (255, 0, 0, 255)  # red beside transparent black
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    small = pack_clipart.thumbnail(tmp_path / "wide.png", 4)
    assert (small[[0, 3]] == 255).all()
    np.testing.assert_allclose(small[1:3], np.broadcast_to((255, 127, 127), (2, 4, 3)), atol=1)
    monkeypatch.setattr(pack_clipart, "MOST_PIXELS", 31)
    assert pack_clipart.thumbnail(tmp_path / "wide.png", 4) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert pack_clipart.thumbnail(tmp_path / "wide.png", 4) is None


def test_a_folder_without_the_packages(tmp_path):
    with pytest.raises(SystemExit, match="no folder with png/ and svg/"):
        pack_clipart.collect(tmp_path, 4)
