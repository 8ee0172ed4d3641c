"""Models are looked at before the training, whatever the installed timm can build on the meta device."""

import numpy as np
import pytest
import timm
import torch

from etfhead.experiment.preflight import check_buildable
from etfhead.experiment.schema import load_recipe


def recipe(model):
    changes = ["model_kwargs={}", "in_chans=3", "~arms.etf", "~arms.cosine", "arms.learnable.head=linear"]
    return load_recipe("quickstart", [f"model={model}", *changes])


# timm 1.0.15 builds neither of the first two on the meta device.
@pytest.mark.parametrize("model", ["test_vit", "resnetv2_18", "test_resnet"])
def test_counts_the_parameters_of_the_baseline(model):
    options = {"img_size": 32} if model == "test_vit" else {}
    stock = timm.create_model(model, num_classes=10, **options)
    assert check_buildable(recipe(model)) == sum(p.numel() for p in stock.parameters())


def test_a_model_that_reads_numbers_back_is_built_in_memory(monkeypatch):
    create, devices = timm.create_model, []

    def reads_numbers(*args, **kwargs):
        devices.append(torch.get_default_device().type)
        torch.zeros(2).tolist()  # not linspace: transformers puts its own, on the CPU, in its place
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", reads_numbers)
    assert check_buildable(recipe("test_resnet")) > 0
    assert devices == ["meta", "cpu"]


def test_wrong_arguments_are_not_tried_twice(monkeypatch):
    calls = []

    def refuses(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("no such depth")

    monkeypatch.setattr(timm, "create_model", refuses)
    with pytest.raises(ValueError, match=r"model: timm cannot build 'test_resnet' .*no such depth"):
        check_buildable(recipe("test_resnet"))
    assert len(calls) == 1


def test_chosen_classes_are_held_against_the_data(tmp_path):
    labels = np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=np.zeros((6, 8, 8), np.uint8), y_train=labels)
    changes = ["dataset=npz", f"data_root={tmp_path / 'a.npz'}", "in_chans=1"]
    assert check_buildable(load_recipe("quickstart", [*changes, "classes=[2,0]"])) > 0
    with pytest.raises(ValueError, match="classes: 3 is not one of the data set's, which go from 0 to 2"):
        check_buildable(load_recipe("quickstart", [*changes, "classes=[3,0]"]))


# The size that does not fit is refused by the first forward pass, not where the model is built.
@pytest.mark.parametrize("in_memory", [False, True])
def test_images_that_the_model_does_not_take_are_refused_without_data(monkeypatch, in_memory):
    changes = ["model=test_vit", "model_kwargs={img_size: 32}", "in_chans=1", "~arms.etf", "~arms.cosine"]
    create = timm.create_model

    def on_the_cpu(*args, **kwargs):
        with torch.device("cpu"):
            return create(*args, **kwargs)

    if in_memory:
        monkeypatch.setattr(timm, "create_model", on_the_cpu)
    assert check_buildable(load_recipe("quickstart", [*changes, "img_size=32"])) > 0
    with pytest.raises(ValueError, match=r"^model: 'test_vit' cannot take images of \(1, 40, 40\)"):
        check_buildable(load_recipe("quickstart", [*changes, "img_size=40"]))


def test_what_meta_tensors_cannot_do_is_done_in_memory(monkeypatch):
    create, seen = timm.create_model, []

    def reads_numbers(module, args):
        seen.append(args[0].device.type)
        args[0].sum().item()

    def hooked(*args, **kwargs):
        model = create(*args, **kwargs)
        model.register_forward_pre_hook(reads_numbers)
        return model

    monkeypatch.setattr(timm, "create_model", hooked)
    assert check_buildable(recipe("test_resnet")) > 0
    assert seen == ["meta", "cpu"]
