"""A recipe run on a folder of one's own images: what is trained on, and what is then said of it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

NOTE = "val/ is the validation part: nothing is carved from train/, val_fraction does not apply"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, each in (("train", 8), ("val", 4), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def train(call, photos):
    """Run a recipe on the photos."""

    def _train(recipe, *more):
        own = ("dataset=image_folder", f"data_root={photos}", "in_chans=3", "epochs=1", "seeds=[0]")
        return call("run", recipe, *own, "arms={etf: {head: etf}}", "baseline=etf", "warmup_epochs=0", *more)

    return _train


def test_report_and_card_tell_of_the_images_and_not_of_the_recipes_data(call, train, photos, tmp_path):
    assert call("cp", "quickstart", "mine.yaml")[0] == 0
    code, _, err = train("mine.yaml", "model=test_efficientnet")
    assert code == 0
    assert err.count(NOTE) == 1
    report = (tmp_path / "runs/mine/report.md").read_text().replace("\\", "")
    assert report.startswith("# mine\n")
    description = "copied from quickstart, with dataset=image_folder, model=test_efficientnet"
    assert description in report
    assert report.count(NOTE) == 1
    assert "| val_fraction" not in report
    assert call("export", "runs/mine", "--out", "card")[0] == 0
    card = (tmp_path / "card/README.md").read_text().replace("\\", "")
    assert f"Recipe: {description}." in card
    for text in (report, card, (tmp_path / "runs/mine/report.html").read_text()):
        assert "digits" not in text
        assert "learnable, cosine" not in text
    assert str(photos) not in card
    sizes = json.loads((tmp_path / "runs/mine/data.json").read_text())["sizes"]
    assert sizes == {"train": 16, "val": 8, "test": 8}


@pytest.mark.parametrize("had", [False, True])
def test_a_run_does_not_go_on_with_another_validation_part(train, photos, tmp_path, had):
    if not had:
        (photos / "val").rename(tmp_path / "put away")
    assert train("quickstart", "--out", "out")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    if had:
        shutil.rmtree(photos / "val")
    else:
        (tmp_path / "put away").rename(photos / "val")
    code, out, err = train("quickstart", "--out", "out", "--resume", "seeds=[0,1]")
    assert (code, out) == (2, "")
    assert "--resume: out was run on other data" in err
    assert {path: path.read_bytes() for path in before} == before
