"""The cards on trainers and on many processes say what the package does."""

import importlib
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

import etfhead
from etfhead import losses
from etfhead.surgery import find_heads

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the blocks start from; names the plugin registers are taken back."""
    monkeypatch.chdir(tmp_path)
    registry = importlib.import_module("timm.models._registry")
    tables = [registry._model_entrypoints, registry._model_to_module, registry._module_to_models]
    saved = [dict(table) for table in tables]
    torch.manual_seed(0)
    yield {"timm": timm, "torch": torch, "etfhead": etfhead}
    for table, before in zip(tables, saved, strict=True):
        table.clear()
        table.update(before)


def execute(card, names):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / card).read_text(), re.DOTALL)
    for block in blocks:
        if "integrations.timm_plugin" in block:
            importlib.import_module("etfhead.integrations.timm_models").register()
        if "transformers" in block:
            pytest.importorskip("transformers")
        exec(compile(block, card, "exec"), names)
    return len(blocks)


def test_the_card_on_trainers_runs(names):
    assert execute("trainers.md", names) == 5
    assert isinstance(find_heads(names["task"].trainable_module)["fc"], etfhead.ETFHead)
    assert {group["lr_scale"] for group in names["groups"]} < {0.75**level for level in range(1, 20)}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_the_card_on_processes_runs(names, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        assert execute("distributed.md", names) == 3
    finally:
        torch.distributed.destroy_process_group()
    assert isinstance(names["whole"].get_classifier(), torch.nn.Linear)


CRITERIA = {
    "etf_dot": losses.ETFDotLoss,
    "dot_regression": losses.DotRegressionLoss,
    "label_smoothing": losses.LabelSmoothingCrossEntropyLoss,
    "bi_tempered": losses.BiTemperedLoss,
    "generalized_cross_entropy": losses.GeneralizedCrossEntropyLoss,
    "symmetric_cross_entropy": losses.SymmetricCrossEntropyLoss,
    "active_passive": losses.ActivePassiveLoss,
    "jensen_shannon": losses.JensenShannonLoss,
    "squared_error": losses.SquaredErrorLoss,
    "logit_adjusted": lambda: losses.LogitAdjustedLoss([3, 3, 2, 2]),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_takes_classes_and_mixed_targets(name):
    """As timm's trainer hands them over: integers, or what mixup and cutmix make of them."""
    criterion = CRITERIA[name]()
    torch.manual_seed(0)
    logits = torch.randn(8, 4, requires_grad=True)
    target = torch.arange(8) % 4
    hot = torch.nn.functional.one_hot(target, 4).float()
    torch.testing.assert_close(criterion(logits, target), criterion(logits, hot))
    _, mixed = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=4)(torch.rand(8, 3, 8, 8), target)
    assert ((mixed > 0).sum(1) > 1).any()
    (gradient,) = torch.autograd.grad(criterion(logits, mixed), logits)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_timms_soft_loss_is_cross_entropy_on_a_fixed_head():
    model = etfhead.swap_head(timm.create_model("test_resnet", num_classes=4))
    logits, soft = model(torch.randn(8, 3, 32, 32)), torch.rand(8, 4).softmax(1)
    expected = torch.nn.functional.cross_entropy(logits, soft)
    torch.testing.assert_close(SoftTargetCrossEntropy()(logits, soft), expected)


@pytest.mark.parametrize("loss", [losses.LDAMLoss([3, 3, 2]), losses.NTCELoss(), losses.NONLLoss()])
def test_margins_of_one_class_refuse_mixed_targets(loss):
    with pytest.raises(ValueError, match="target: expected integer classes"):
        loss(torch.randn(2, 3), torch.full((2, 3), 1 / 3))
