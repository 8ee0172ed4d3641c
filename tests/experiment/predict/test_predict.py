"""Predictions of a model that a stock timm folder holds."""

import json
import shutil

import pytest
import timm
import torch

from etfhead.experiment.data.decode import decode_image
from etfhead.experiment.predict import load_predictor, predict
from etfhead.experiment.predict.predictor import Predictor, choose_device


@pytest.fixture
def copy(stock, tmp_path):
    return shutil.copytree(stock[0], tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def test_probabilities_are_the_softmax_of_the_models_logits(stock, pictures):
    folder, model = stock
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batch = torch.stack([transform(decode_image(path, "RGB")) for path in pictures])
    with torch.no_grad():
        expected = model(batch).double().softmax(1)
    found = list(predict(load_predictor(folder), pictures, top_k=9))
    for prediction, row in zip(found, expected, strict=True):
        order = row.argsort(descending=True).tolist()
        assert [index for _, index, _ in prediction.top] == order
        assert [label for label, _, _ in prediction.top] == [["cat", "dog", "owl"][i] for i in order]
        assert [p for _, _, p in prediction.top] == pytest.approx(row[order].tolist(), abs=1e-6)
        assert prediction.labels is None
    assert [prediction.file for prediction in found] == pictures


def test_batches_and_broken_files_change_nothing_and_keep_the_order(stock, pictures, tmp_path):
    predictor = load_predictor(stock[0])
    expected = {p.file: p.top for p in predict(predictor, pictures)}
    (tmp_path / "bad.png").write_bytes(b"bad")
    paths = [pictures[0], tmp_path / "bad.png", *pictures[1:], tmp_path / "gone.png"]
    for size in (1, 2, 5):
        found = list(predict(predictor, paths, batch_size=size, top_k=2))
        assert [p.file for p in found] == paths
        for p in found:
            if p.error is not None:
                assert p.top == ()
                assert p.as_dict() == {"file": str(p.file), "error": p.error}
                continue
            for (label, index, value), (name, place, other) in zip(p.top, expected[p.file], strict=False):
                assert (label, index) == (name, place)
                assert value == pytest.approx(other, abs=1e-6)
        assert [p.error is not None for p in found] == [False, True, False, False, False, True]


def test_names_may_be_missing_a_mapping_or_wrong(copy, pictures):
    assert load_predictor(copy).class_names == ("cat", "dog", "owl")
    assert load_predictor(edit(copy, label_names=...)).class_names == ("0", "1", "2")
    assert load_predictor(edit(copy, label_names={"0": "a", "2": "c"})).class_names == ("a", "1", "c")
    with pytest.raises(ValueError, match="2 label_names for 3 classes"):
        load_predictor(edit(copy, label_names=["a", "b"]))


def test_only_safetensors_are_read(copy):
    (copy / "pytorch_model.bin").write_bytes(b"never opened")
    load_predictor(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is neither a folder of `etfhead run` nor one of `etfhead export`"):
        load_predictor(copy)


def test_damaged_folders(copy, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_predictor(tmp_path / "gone")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="weights are damaged"):
        load_predictor(copy)
    (copy / "model.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match="timm has no model 'no_such_net'"):
        load_predictor(edit(copy, architecture="no_such_net"))
    with pytest.raises(ValueError, match="not of test_vit"):
        load_predictor(edit(copy, architecture="test_vit"))
    with pytest.raises(ValueError, match="is a file, neither a folder of `etfhead run`"):
        load_predictor(copy / "model.safetensors")
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        load_predictor(copy)
    (copy / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="no configuration of a timm model"):
        load_predictor(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match="no configuration of a timm model"):
        load_predictor(copy)
    (copy / "model.safetensors").unlink()
    (copy / "model.pt2").write_bytes(b"no program")
    (copy / "config.json").write_text('{"architecture": "x", "num_classes": 3, "pretrained_cfg": {"a": 1}}')
    with pytest.raises(ValueError, match=r"model\.pt2: damaged"):
        load_predictor(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": ["test_resnet"]}, "no configuration of a timm model"),
        ({"num_classes": "3"}, "no configuration of a timm model"),
        ({"num_classes": True}, "no configuration of a timm model"),
        ({"model_args": ["in_chans"]}, "model_args of the configuration are no mapping"),
        ({"model_args": {"no_such": 1}}, "timm cannot build 'test_resnet' with"),
        ({"model_args": {"in_chans": -1}}, "timm cannot build 'test_resnet' with"),
        ({"model_args": {"act_layer": "none"}}, "timm cannot build 'test_resnet' with.*KeyError"),
        ({"model_args": {"layers": [1]}}, "timm cannot build 'test_resnet' with"),
        ({"etfhead": "etf"}, "etfhead is 'etf', which no export writes"),
        ({"pretrained_cfg": [1]}, "pretrained_cfg is .*, which no export writes"),
        ({"label_names": 3}, "label_names is '3', which no export writes"),
    ],
)
def test_a_configuration_of_no_model(copy, changes, words):
    with pytest.raises(ValueError, match=words):
        load_predictor(edit(copy, **changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", [3, 0, 8]),
        ("input_size", 224),
        ("input_size", [3, 8]),
        ("input_size", [3, 10**6, 10**6]),
        ("mean", [0.5, 0.5]),
        ("mean", "grey"),
        ("mean", 0.5),
        ("std", [0.5, 0.0, 0.5]),
        ("std", [None, 1, 1]),
        ("crop_pct", -1),
        ("crop_pct", "all"),
        ("interpolation", 3),
        ("interpolation", "wide"),
    ],
)
def test_a_configuration_that_prepares_no_image(copy, key, value):
    cfg = json.loads((copy / "config.json").read_text())["pretrained_cfg"]
    with pytest.raises(ValueError, match=r"config\.json: it does not say how images are prepared"):
        load_predictor(edit(copy, pretrained_cfg={**cfg, key: value}))


@pytest.fixture(scope="module")
def program(stock, tmp_path_factory):
    """Folder of the same model as a program."""
    folder = tmp_path_factory.mktemp("program")
    shutil.copy(stock[0] / "config.json", folder)
    batch = torch.export.Dim("batch", min=1)
    traced = torch.export.export(stock[1], (torch.zeros(2, 3, 160, 160),), dynamic_shapes=({0: batch},))
    torch.export.save(traced, folder / "model.pt2")
    return folder


# More than can be named, more than an index can hold, and other numbers than the model's three.
@pytest.mark.parametrize("count", [10**12, 10**30, 5, 2, 0, -3])
@pytest.mark.parametrize("names", [..., {"0": "a"}])
def test_a_number_of_classes_that_is_not_the_models(copy, program, tmp_path, count, names):
    with pytest.raises(ValueError, match=f"num_classes is {count}, and no weights are of as many"):
        load_predictor(edit(copy, num_classes=count, label_names=names))
    folder = edit(shutil.copytree(program, tmp_path / "program"), num_classes=count, label_names=names)
    with pytest.raises(
        ValueError, match=rf"num_classes is {count}, and .* logits \(1, 3\), expected \(1, {count}\)"
    ):
        load_predictor(folder)


def test_a_size_of_images_that_is_not_the_models(program, tmp_path):
    folder = shutil.copytree(program, tmp_path / "program")
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert load_predictor(folder).class_names == ("cat", "dog", "owl")
    with pytest.raises(ValueError, match="the model cannot take an image of input_size"):
        load_predictor(edit(folder, pretrained_cfg={**cfg, "input_size": [3, 32, 32]}))


def test_arm_seed_and_weights_belong_to_runs(stock):
    with pytest.raises(ValueError, match=r"^--arm, --seed: .* is not a run folder"):
        load_predictor(stock[0], arm="etf", seed=0)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}'"):
            choose_device(name)


def make(logits):
    data = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    data |= {"crop_pct": 1.0, "crop_mode": "center"}
    return Predictor(logits=logits, class_names=("a", "b"), data_config=data, source="test")


def test_what_the_model_cannot_do_is_said(pictures):
    with pytest.raises(ValueError, match="logits are not finite"):
        list(predict(make(lambda x: torch.full((len(x), 2), float("nan"))), pictures))

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="batch of 4 images; take a smaller --batch-size"):
        list(predict(make(full), pictures))
    with pytest.raises(ValueError, match="top_k=0"):
        list(predict(make(full), pictures, top_k=0))


def test_certain_classes_stay_in_the_order_of_their_logits(pictures):
    (found,) = predict(make(lambda x: torch.tensor([[1e4, 2e4]])), pictures[:1])
    assert found.top == (("b", 1, 1.0), ("a", 0, 0.0))
