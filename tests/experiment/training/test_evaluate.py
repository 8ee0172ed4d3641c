import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from etfhead.errors import TrainingError
from etfhead.experiment.training.accelerator import make_accelerator
from etfhead.experiment.training.evaluate import evaluate


@pytest.fixture
def accelerator(recipe):
    with make_accelerator(recipe) as made:
        yield made


def reference(logits, target, bins=15):
    """Loss, accuracy and ECE sample by sample, in plain Python."""
    loss = correct = 0.0
    members = [[] for _ in range(bins)]
    for row, label in zip(logits.double().tolist(), target.tolist(), strict=True):
        total = math.fsum(math.exp(z) for z in row)
        loss -= row[label] - math.log(total)
        top = max(range(len(row)), key=row.__getitem__)
        confidence = math.exp(row[top]) / total
        members[min(int(confidence * bins), bins - 1)].append((confidence, top == label))
        correct += top == label
    n = len(target)
    ece = sum(abs(sum(c for c, _ in m) - sum(h for _, h in m)) / n for m in members)
    return {"loss": loss / n, "top1": 100 * correct / n, "ece": 100 * ece}


def test_against_plain_python_over_uneven_batches(accelerator):
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(103, 5), torch.randint(5, (103,))
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity())
    batches = list(zip(logits.split(20), target.split(20), strict=True))
    counts = []
    got = evaluate(model, batches, accelerator=accelerator, num_classes=5, tick=counts.append)
    assert got == pytest.approx(reference(logits, target), rel=1e-4)
    assert counts == [20, 20, 20, 20, 20, 3]
    assert model.training, "the mode is put back"


def test_perfectly_calibrated_is_zero(accelerator):
    logits = torch.tensor([[math.log(4.0), 0.0]]).repeat(5, 1)  # confidence 0.8
    got = evaluate(
        nn.Identity(), [(logits, torch.tensor([0, 0, 0, 0, 1]))], accelerator=accelerator, num_classes=2
    )
    assert got["top1"] == pytest.approx(80)
    assert got["ece"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(accelerator, value):
    batches = [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)),
        (torch.full((1, 3), value), torch.tensor([0])),
    ]
    with pytest.raises(TrainingError, match="logits are not finite"):
        evaluate(nn.Identity(), batches, accelerator=accelerator, num_classes=3)


@pytest.fixture
def fresh_accelerate():
    """No accelerator yet, whatever ran before; and none of this test's afterwards."""
    kinds = (AcceleratorState, GradientState, PartialState)
    saved = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    yield
    for kind, before in zip(kinds, saved, strict=True):
        kind._shared_state.clear()
        kind._shared_state.update(before)


@pytest.mark.usefixtures("fresh_accelerate")
def test_accelerator_settings_do_not_leak(recipe):
    import dataclasses

    outer = Accelerator(cpu=True, mixed_precision="bf16")
    with make_accelerator(recipe) as plain:
        assert plain.mixed_precision == "no"
    with make_accelerator(dataclasses.replace(recipe, amp_dtype="bfloat16")) as half:
        assert half.mixed_precision == "bf16"
    assert Accelerator().mixed_precision == "bf16" == outer.mixed_precision


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 works on GPUs")
def test_float16_without_a_gpu(recipe):
    import dataclasses

    fp16 = dataclasses.replace(recipe, cpu=False, amp_dtype="float16")
    with pytest.raises(ValueError, match="amp_dtype: float16 needs a GPU"), make_accelerator(fp16):
        pass
