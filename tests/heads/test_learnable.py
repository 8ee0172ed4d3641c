import math

import pytest
import torch
from torch import nn

from etfhead.heads import CosineConvHead, CosineHead, LinearConvHead, LinearHead, auto_scale


def test_linear_head_without_neck_is_a_linear_layer():
    head = LinearHead(8, 3)
    h = torch.randn(4, 8)
    torch.testing.assert_close(head(h), nn.functional.linear(h, head.weight, head.bias))


@pytest.mark.parametrize("conv", [False, True])
def test_linear_head_with_neck_fuses_exactly(conv):
    head = (LinearConvHead if conv else LinearHead)(8, 3, neck="batchnorm")
    x = 2 + torch.randn(32, 8, *([2, 2] if conv else []))
    head(x)
    head.eval()
    torch.testing.assert_close(head.fuse()(x), head(x), rtol=1e-5, atol=1e-5)


def test_linear_head_behind_the_neck_starts_with_logits_of_the_usual_size():
    h = torch.randn(512, 256) * 3
    stock = nn.Linear(256, 100)(nn.functional.batch_norm(h, None, None, training=True)).std()
    ours = LinearHead(256, 100, neck="batchnorm")(h).std()
    assert ours.item() == pytest.approx(stock.item(), rel=0.15)


def test_cosine_head_equals_scaled_cosine_similarity():
    head = CosineHead(8, 3, scale=5.0)
    h = torch.randn(4, 8)
    expected = 5 * nn.functional.cosine_similarity(h[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(h), expected)
    x = torch.randn(2, 8, 3, 3)
    conv = CosineConvHead(8, 3, scale=5.0)
    conv.load_state_dict(head.state_dict())
    torch.testing.assert_close(conv(x), head(x.movedim(1, -1)).movedim(-1, 1))


def test_cosine_head_parameters_and_scale():
    head = CosineHead(8, 3, label_smoothing=0.1)
    assert sum(p.numel() for p in head.parameters()) == 8 * 3 + 1
    assert head.scale.item() == pytest.approx(auto_scale(3, 0.1)) == pytest.approx(math.log(28) * 2 / 3)
    assert sum(p.numel() for p in CosineHead(8, 3, learn_scale=False).parameters()) == 24


def test_cosine_head_refuses_to_fuse():
    with pytest.raises(ValueError, match="cosine head normalises"):
        CosineHead(8, 3).fuse()


@pytest.mark.parametrize("value", [0.1, 0.5])
def test_auto_scale_formula_and_floor(value):
    assert auto_scale(10, value) == pytest.approx(math.log(1 + 10 * (1 - value) / value) * 0.9)
    assert auto_scale(10, 0.0) == auto_scale(10, 0.005) == auto_scale(10, 0.01)


def test_cosine_head_takes_zero_and_huge_features_in_half_precision():
    head = CosineHead(64, 3).half()
    for h in (torch.zeros(2, 64), torch.full((2, 64), 6e4)):
        assert torch.isfinite(head(h.half())).all()
