"""Heads do not move the learning rates of the trunk."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from etfhead import fold_head, swap_head
from etfhead.surgery import find_heads, layer_decay_groups

MODELS = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_mambaout"]


def rates(model, groups):
    """lr_scale and weight decay of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def trunk(found, model):
    return {name: value for name, value in found.items() if not name.startswith(tuple(find_heads(model)))}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("head", "options"),
    [("etf", {}), ("etf", {"learn_scale": False}), ("delta", {"learn_scale": False}), ("cosine", {})],
)
def test_the_trunk_has_the_rates_of_the_stock_model(name, head, options):
    stock = timm.create_model(name, num_classes=10)
    expected = rates(stock, param_groups_layer_decay(stock, layer_decay=0.75, weight_decay=0.1))
    model = swap_head(timm.create_model(name, num_classes=10), head, **options)
    before = [key for key, _ in model.named_parameters()]
    found = rates(model, layer_decay_groups(model, layer_decay=0.75, weight_decay=0.1))
    own = trunk(found, model)
    assert own == {key: expected[key] for key in own}
    assert len(own) == len([key for key in expected if not key.startswith(tuple(find_heads(model)))])
    assert [key for key, _ in model.named_parameters()] == before
    assert {value for key, value in found.items() if key not in own} <= {(1.0, 0.0), (1.0, 0.1)}


@pytest.mark.parametrize("name", MODELS)
def test_timm_alone_is_right_for_a_head_with_its_scale(name):
    """So train.py --layer-decay needs no help with the default head."""
    model = swap_head(timm.create_model(name, num_classes=10))
    alone = rates(model, param_groups_layer_decay(model, layer_decay=0.6))
    assert alone == rates(model, layer_decay_groups(model, layer_decay=0.6))


def test_timm_alone_moves_the_trunk_up_a_level_without_one():
    """The confounder is real: if timm changes, this helper can go."""
    model = swap_head(timm.create_model("test_vit", num_classes=10), learn_scale=False)
    shifted = rates(model, param_groups_layer_decay(model, layer_decay=0.75))
    right = rates(model, layer_decay_groups(model, layer_decay=0.75))
    assert {round(shifted[key][0] / right[key][0], 6) for key in right} == {round(1 / 0.75, 6)}


def test_the_model_is_left_as_it_was_even_by_an_error():
    model = swap_head(timm.create_model("test_vit", num_classes=10), learn_scale=False)
    keys = list(model.state_dict())
    with pytest.raises(TypeError):
        layer_decay_groups(model, no_such_option=1)
    assert list(model.state_dict()) == keys
    assert not list(model.head.parameters())


def test_groups_make_a_timm_optimizer():
    model = swap_head(timm.create_model("test_vit", num_classes=10, img_size=32), learn_scale=False)
    optimizer = create_optimizer_v2(layer_decay_groups(model), opt="adamw", lr=1e-3)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters()}
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()


def test_a_stock_model_has_timms_groups():
    model = fold_head(swap_head(timm.create_model("test_resnet", num_classes=10)))
    assert rates(model, layer_decay_groups(model)) == rates(model, param_groups_layer_decay(model))
