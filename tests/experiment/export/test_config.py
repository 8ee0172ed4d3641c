"""config.json as timm writes and reads it."""

import json
import math

import pytest
import timm
import torch
from timm.models._hub import save_for_hf

from etfhead.experiment.export import export_run, load_trained, rank_models
from etfhead.experiment.export.config import describe_heads, pack_readout, unpack_readout
from etfhead.frames import make_frame
from tests.older_timm import needs_local_dir


@pytest.fixture
def config(digits, tmp_path):
    export_run(digits, tmp_path / "out", arm="etf", seed=0)
    return json.loads((tmp_path / "out" / "config.json").read_text())


def test_fields_are_those_of_timms_own_export(config, tmp_path):
    pytest.importorskip("huggingface_hub")
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    save_for_hf(model, tmp_path / "stock", safe_serialization=True)
    stock = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert config.keys() - stock.keys() <= {"etfhead", "global_pool", "label_names", "model_args"}
    assert stock.keys() <= config.keys()
    assert stock["num_features"] == config["num_features"]
    assert config["pretrained_cfg"].keys() <= {f.name for f in fields()}
    same = ("architecture", "num_classes")
    assert [config[key] for key in same] == [stock[key] for key in same]


def fields():
    import dataclasses

    from timm.models import PretrainedCfg

    return dataclasses.fields(PretrainedCfg)


@needs_local_dir
def test_timm_resolves_the_preprocessing_of_the_run(digits, tmp_path, records):
    trained = load_trained(records, rank_models(records, arm="etf", seed=0)[0])
    export_run(digits, tmp_path / "out", arm="etf", seed=0)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    resolved = timm.data.resolve_model_data_config(model)
    for key, value in trained.data_config.items():
        assert (tuple(resolved[key]) if isinstance(value, tuple) else resolved[key]) == value
    assert tuple(model.pretrained_cfg["label_names"]) == tuple("0123456789")
    assert model.pretrained_cfg.get("license") is None
    assert model.pretrained_cfg.get("tag") is None


def test_the_frame_can_be_rebuilt(config, records):
    entry = config["etfhead"]["heads"]["fc"]
    trained = load_trained(records, rank_models(records, arm="etf", seed=0)[0])
    head = trained.model.get_classifier()
    assert torch.equal(make_frame(**entry["frame"]).matrix(), head.frame.matrix())
    assert entry["scale"] == head.scale.item()
    assert describe_heads(trained.model)["fc"] == entry


def test_no_path_of_this_machine_is_written(config, digits):
    assert str(digits.parent) not in json.dumps(config)
    assert "root" not in config["etfhead"]["data"]


def test_a_readout_survives_json():
    readout = {
        "threshold": 0.1234567890123456789,
        "class_thresholds": torch.tensor([0.5, math.inf, -math.inf], dtype=torch.float64),
        "gaps": torch.rand(4),
        "weights": torch.rand(3, 2, dtype=torch.float64),
        "offsets": None,
        "most_labels": 3,
    }
    found = unpack_readout(json.loads(json.dumps(pack_readout(readout), allow_nan=False)))
    assert found.keys() == readout.keys()
    for key, value in readout.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)
        else:
            assert found[key] == value
    with pytest.raises(ValueError, match="gaps is of type 'float99'"):
        unpack_readout({"gaps": {"dtype": "float99", "values": []}})
