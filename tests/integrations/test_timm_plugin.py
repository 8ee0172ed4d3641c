"""timm's trainer finds etf_<model> by name and needs to know nothing else."""

import importlib
import json
import logging
from argparse import Namespace

import pytest
import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.models import load_checkpoint
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3

from etfhead import ETFHead, MultiLabelETFHead, fold_head
from etfhead.surgery import find_heads
from tests.older_timm import HAS_LOCAL_DIR, from_folder


@pytest.fixture(scope="module")
def plugin():
    """As train.py does it: ``for module in args.device_modules: importlib.import_module(module)``."""
    importlib.import_module("etfhead.experiment.models")  # registers once a process, and stays
    registry = importlib.import_module("timm.models._registry")
    tables = [registry._model_entrypoints, registry._model_to_module, registry._module_to_models]
    saved = [dict(table) for table in tables]
    importlib.import_module("etfhead.integrations.timm_plugin")
    models = importlib.import_module("etfhead.integrations.timm_models")
    models.register()  # the plugin may have been imported and cleaned up after before
    yield models
    for table, before in zip(tables, saved, strict=True):
        table.clear()
        table.update(before)


def test_every_model_has_a_twin(plugin):
    stock = [name for name in timm.list_models() if not name.startswith("etf_")]
    assert timm.list_models("etf_*") == [f"etf_{name}" for name in stock]
    assert plugin.register() == []
    assert all(callable(getattr(plugin, name)) for name in plugin.__all__)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_create_model_swaps_and_fold_head_gives_the_stock_model(plugin, name):
    model = timm.create_model(f"etf_{name}", num_classes=7, in_chans=1, drop_rate=0.1)
    assert [type(head) for head in find_heads(model).values()] == [ETFHead]
    stock = timm.create_model(name, num_classes=7, in_chans=1)
    fold_head(model)
    stock.load_state_dict(model.state_dict(), strict=True)
    assert type(model) is type(stock)
    assert model.pretrained_cfg["architecture"] == name


def test_options_of_the_head_come_with_the_model_options(plugin):
    options = {"etf_basis": "haar", "etf_seed": 3, "etf_label_smoothing": 0.1, "etf_neck": "none"}
    head = timm.create_model("etf_test_resnet", num_classes=5, **options).get_classifier()
    expected = ETFHead(head.in_features, 5, basis="haar", seed=3, label_smoothing=0.1, neck=None)
    assert torch.equal(head.weight, expected.weight)
    assert torch.equal(head.scale, expected.scale)
    multi = timm.create_model("etf_test_resnet", num_classes=5, etf_head="multilabel_etf")
    assert isinstance(multi.get_classifier(), MultiLabelETFHead)


def test_what_cannot_be_is_said(plugin):
    with pytest.raises(ValueError, match="etf_head='delta' needs update_heads"):
        timm.create_model("etf_test_resnet", etf_head="delta")
    with pytest.raises(ValueError, match=r"basis_: not an option.*did you mean 'basis'"):
        timm.create_model("etf_test_resnet", etf_basis_="haar")
    with pytest.raises(ValueError, match=r"name='resnet_18': timm \S+ has no such model"):
        plugin.etf_model("resnet_18")
    with pytest.raises(ValueError, match="name='etf_test_resnet'"):
        plugin.etf_model("etf_test_resnet")


def test_a_head_without_parameters_warns_of_layer_decay(plugin, caplog):
    with caplog.at_level(logging.WARNING):
        timm.create_model("etf_test_resnet")
        assert not caplog.records
        timm.create_model("etf_test_resnet", etf_learn_scale=False)
    assert "Multiply --lr by it" in caplog.text


def test_an_epoch_as_train_py_runs_it(plugin, tmp_path):
    """Optimizer with layer decay, mixup's soft targets, an average of the weights, timm's checkpoint file."""
    torch.manual_seed(0)
    model = timm.create_model("etf_test_resnet", num_classes=4, in_chans=1)
    frame = model.get_classifier().weight.clone()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    ema = ModelEmaV3(model, decay=0.5)
    mixup = timm.data.Mixup(mixup_alpha=0.4, cutmix_alpha=1.0, num_classes=4, label_smoothing=0.1)
    criterion = SoftTargetCrossEntropy()
    for step in range(2):
        images, target = mixup(torch.randn(8, 1, 32, 32), torch.arange(8) % 4)
        criterion(model(images), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step=step)
    saver = CheckpointSaver(
        model, optimizer, args=Namespace(model="etf_test_resnet"), model_ema=ema, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0, metric=1.0)
    again = timm.create_model("etf_test_resnet", num_classes=4, in_chans=1, etf_seed=0)
    for use_ema, trained in ((False, model), (True, ema.module)):
        load_checkpoint(again, str(tmp_path / "last.pth.tar"), use_ema=use_ema)
        assert torch.equal(again.get_classifier().weight, frame)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))
    other = timm.create_model("etf_test_resnet", num_classes=4, in_chans=1, etf_seed=1)
    with pytest.raises(RuntimeError, match="fixed frame"):
        load_checkpoint(other, str(tmp_path / "last.pth.tar"))


def test_a_folded_model_reloads_from_a_hub_folder_by_stock_timm(plugin, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("etf_test_vit.r160_in1k", num_classes=4, drop_rate=0.1)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    for _ in range(2):
        images, target = torch.randn(8, 3, 160, 160), torch.arange(8) % 4
        torch.nn.functional.cross_entropy(model(images), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = model.eval()(images)
    fold_head(model)
    save_for_hf(model, str(tmp_path), model_config={"label_names": list("abcd")}, safe_serialization=True)
    assert "etf" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "test_vit"
    again = from_folder(tmp_path)
    assert type(again.get_classifier()) is torch.nn.Linear
    torch.testing.assert_close(again(images), expected)
    if HAS_LOCAL_DIR:
        assert again.pretrained_cfg["label_names"] == list("abcd")
    assert again.state_dict().keys() == timm.create_model("test_vit", num_classes=4).state_dict().keys()
