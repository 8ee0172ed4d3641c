import pytest
import timm
import torch
from torch import nn

import etfhead.experiment.models
from etfhead.surgery import find_classifiers, fold_head, swap_head

MLP = {"img_size": 6, "in_chans": 2, "widths": [9, 7]}


def build(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "size", "features"),
    [
        ("etfhead_mlp", MLP, (2, 6, 6), 7),
        ("etfhead_mlp", {**MLP, "linear_widths": [5, 4]}, (2, 6, 6), 4),
        ("etfhead_mlp", {"img_size": 1, "in_chans": 8, "widths": []}, (8, 1, 1), 8),
        ("etfhead_cnn", {"in_chans": 3, "channels": [4, 6], "features": 5}, (3, 20, 20), 5),
        ("etfhead_cnn", {"channels": [4], "features": 0}, (1, 28, 28), 16),
    ],
)
def test_they_behave_as_models_of_timm_do(name, options, size, features):
    model = build(name, num_classes=3, **options).eval()
    images = torch.randn(4, *size)
    inside = model.forward_features(images)
    assert inside.shape == (4, features) == (4, model.num_features)
    torch.testing.assert_close(model.forward_head(inside), model(images))
    assert model.forward_head(inside, pre_logits=True) is inside or model.drop_rate == 0
    assert list(find_classifiers(model)) == ["fc"]
    assert model.get_classifier() is model.fc
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), inside)


@pytest.mark.parametrize("name", ["etfhead_mlp", "etfhead_cnn"])
def test_heads_swap_and_fold(name):
    model = swap_head(build(name, num_classes=3), head="etf").eval()
    images = torch.randn(2, 1, 28, 28)
    logits = model(images)
    torch.testing.assert_close(fold_head(model)(images), logits)


def test_linear_tail_is_one_linear_map_without_bias():
    model = build("etfhead_mlp", num_classes=3, bias=False, linear_widths=[8, 8], **MLP).eval()
    tail = [layer for layer in model.trunk if isinstance(layer, nn.Linear)][-2:]
    assert all(layer.bias is None for layer in (*tail, model.fc))
    x = torch.randn(2, 7)
    product = model.fc.weight @ tail[1].weight @ tail[0].weight
    torch.testing.assert_close(model.fc(tail[1](tail[0](x))), x @ product.T)


def test_dropout_comes_before_the_classifier():
    model = build("etfhead_mlp", num_classes=3, drop_rate=0.5, **MLP)
    features = torch.ones(100, 7)
    dropped = model.forward_head(features, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert model.eval().forward_head(features, pre_logits=True).equal(features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "no weights"),
        ({"width": 3}, "width: this model has no such option"),
        ({"norm": "layer"}, "norm: expected"),
        ({"act_layer": "relux"}, "relux"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, KeyError), match=message):
        etfhead.experiment.models.etfhead_mlp(**{**MLP, **options})
