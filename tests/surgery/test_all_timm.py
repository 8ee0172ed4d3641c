"""Every model of timm on the meta device, from its default class count to another, and back to stock."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from etfhead.surgery import find_classifiers, find_heads, fold_head, swap_head

pytestmark = pytest.mark.slow

K = 7
WITHOUT_CLASSIFIER = {
    "deepseek_vit_412m_enc",
    "gemma4_vit_167m_enc",
    "gemma4_vit_570m_enc",
    "mobilenetv5_300m_enc",
    "qwen3_vit_306m_enc",
    "qwen3_vit_416m_enc",
    "qwen3_vit_88m_enc",
}
# Its own: other tests register ours with it.
NAMES = [n for n in timm.list_models() if timm.model_entrypoint(n).__module__.startswith("timm.")]
FAMILIES = sorted({timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in NAMES})


def build(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def shapes(output) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in (output if isinstance(output, (tuple, list)) else (output,))]


def layout(model: nn.Module) -> dict[str, tuple]:
    return {k: (tuple(v.shape), v.dtype) for k, v in model.state_dict().items()}


def plain_attributes(model: nn.Module) -> dict[tuple[str, str], object]:
    """Numbers, flags and strings of every module: num_classes and its like, in every wrapper."""
    return {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (bool, int, float, str)) and not key.startswith("_")
    }


def check(name: str) -> None:
    stock = build(name, num_classes=K)
    model = build(name)  # 1000 classes, 21,843, or none at all
    swap_head(model, num_classes=K)

    heads = find_heads(model)
    assert list(heads) == list(find_classifiers(stock))
    assert all(type(h).__name__ in ("ETFHead", "ETFConvHead") and h.num_classes == K for h in heads.values())
    x = torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")
    with torch.no_grad():
        for training in (True, False):
            expected = shapes(stock.train(training)(x))
            assert shapes(model.train(training)(x)) == expected

    for head in heads.values():  # a fold needs numbers
        head.to_empty(device="cpu").reset_parameters()
    fold_head(model)
    assert layout(model) == layout(stock)
    assert plain_attributes(model) == plain_attributes(stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_swap_forward_fold(family: str) -> None:
    failed = {}
    for name in NAMES:
        if timm.model_entrypoint(name).__module__.rpartition(".")[2] != family or name in WITHOUT_CLASSIFIER:
            continue
        try:
            check(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    assert failed == {}


def test_encoder_only_models_are_refused() -> None:
    for name in sorted(WITHOUT_CLASSIFIER & set(NAMES)):
        model = build(name, num_classes=K)
        assert find_classifiers(model) == {}
        with pytest.raises(ValueError, match="encoder-only"):
            swap_head(model)
