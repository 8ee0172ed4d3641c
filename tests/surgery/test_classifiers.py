"""Which layers write the class scores: found in every kind of model, refused where replacing is unsafe."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from etfhead.surgery import find_classifiers


def on_meta(build, *args, **kwargs) -> nn.Module:
    if build is timm.create_model and not timm.is_model(args[0]):
        pytest.skip(f"timm {timm.__version__} has no {args[0]}")
    try:
        with torch.device("meta"):
            return build(*args, **kwargs)
    except RuntimeError as error:  # older timm reads numbers of tensors that it makes on the way
        if "meta tensor" not in str(error):
            raise
        return build(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", ["fc"]),
        ("test_vit", ["head"]),
        ("resnetv2_50x1_bit", ["head.fc"]),
        ("volo_d1_224", ["aux_head", "head"]),
        ("levit_384_s8", ["head.linear", "head_dist.linear"]),
        ("levit_256d", ["head.linear"]),
        ("repvit_m1", ["head.head.l", "head.head_dist.l"]),
        ("crossvit_tiny_240", ["head.0", "head.1"]),
        ("efficientvim_m1_dist", [f"heads{d}.{i}" for d in ("", "_dist") for i in range(4)]),
        ("caformer_s18", ["head.fc.fc2"]),
        ("cpubone_nano", ["head.classifier.linear"]),
        ("samvit_base_patch16_224", ["head.fc"]),
        ("sequencer2d_s", ["head.fc"]),
        ("efficientvit_b0", ["head.classifier.4"]),
        ("resnet50_clip", ["head.proj"]),
        ("dla46_c", ["fc"]),  # has a child called base_layer, as adapters do
    ],
)
def test_timm_models(name: str, expected: list[str]) -> None:
    assert list(find_classifiers(on_meta(timm.create_model, name))) == expected


def test_a_hidden_layer_as_wide_as_the_classes_is_no_classifier() -> None:
    model = on_meta(timm.create_model, "caformer_s18", num_classes=2048)
    assert model.head.fc.fc1.out_features == 2048
    assert list(find_classifiers(model)) == ["head.fc.fc2"]


def test_as_many_classes_as_features() -> None:
    model = on_meta(timm.create_model, "repvit_m1", num_classes=384)
    assert model.head.head.l.in_features == 384
    assert list(find_classifiers(model)) == ["head.head.l", "head.head_dist.l"]


def test_a_classifier_that_was_replaced_by_hand_is_found_with_its_own_width() -> None:
    model = timm.create_model("test_resnet")
    model.fc = nn.Linear(model.num_features, 5)  # model.num_classes still says 1000
    assert find_classifiers(model) == {"fc": model.fc}


def test_a_model_without_pretrained_cfg_is_searched_through_get_classifier() -> None:
    model = on_meta(timm.create_model, "efficientvim_m1_dist")
    del model.pretrained_cfg
    assert len(find_classifiers(model)) == 8


@pytest.mark.parametrize("name", ["test_resnet", "samvit_base_patch16_224", "crossvit_tiny_240"])
def test_headless_models_have_none(name: str) -> None:
    assert find_classifiers(on_meta(timm.create_model, name, num_classes=0)) == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["fc"]),
        ("mobilenet_v3_small", ["classifier.3"]),
        ("vit_b_16", ["heads.head"]),
        ("swin_t", ["head"]),
        ("convnext_tiny", ["classifier.2"]),
        ("efficientnet_b0", ["classifier.1"]),
        ("densenet121", ["classifier"]),
        ("vgg11", ["classifier.6"]),
        ("maxvit_t", ["classifier.5"]),
        ("squeezenet1_1", ["classifier.1"]),
        ("googlenet", ["aux1.fc2", "aux2.fc2", "fc"]),
        ("inception_v3", ["AuxLogits.fc", "fc"]),
        ("retinanet_resnet50_fpn", []),
        ("ssdlite320_mobilenet_v3_large", []),
        ("lraspp_mobilenet_v3_large", []),
    ],
)
def test_torchvision_models(name: str, expected: list[str]) -> None:
    models = pytest.importorskip("torchvision").models
    options = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if expected == []:
        options["weights_backbone"] = None
    assert list(find_classifiers(on_meta(models.get_model, name, **options))) == expected


def test_torchvision_segmentation_has_two_convolutions() -> None:
    models = pytest.importorskip("torchvision").models
    model = on_meta(
        models.get_model, "fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True, num_classes=9
    )
    assert list(find_classifiers(model)) == ["classifier.4", "aux_classifier.4"]


class Net(nn.Module):
    """A model that declares nothing and whose ``fc`` is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, 16)
        self.out = nn.Sequential(nn.Dropout(), nn.Linear(16, 4))


def test_any_module_by_name() -> None:
    model = Net()
    assert find_classifiers(model) == {}
    assert find_classifiers(model, "out.1") == {"out.1": model.out[1]}
    assert list(find_classifiers(model, ["out.1", "fc"])) == ["out.1", "fc"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.2", r"no such module; did you mean 'out.1'\?.*'fc', 'out.1'"),
        ("otu", "no such module.*'fc', 'out.1'"),
        ("out", r"is a Sequential, not a layer; name the one to replace: 'out.1'"),
        ("out.0", "is a Dropout: expected a plain Linear"),
        ("body.0", r"is a Conv2d with kernel_size=\(3, 3\)"),
        ("body.1", r"is a Conv2d .*groups=2"),
        ("", "expected a dotted module name"),
        ([], "expected a dotted module name"),
        (["fc", 3], "expected a dotted module name"),
        (["fc", "fc"], "a name appears twice"),
    ],
)
def test_names_that_cannot_be_meant(name: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_classifiers(Net(), name)


def test_a_wrong_name_in_a_model_without_plain_layers() -> None:
    with pytest.raises(ValueError, match="its last plain layers: none"):
        find_classifiers(nn.Sequential(nn.ReLU()), "fc")


def head_of(layer: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model.fc = layer
    return model


class LoRALinear(nn.Module):
    """The shape of peft's wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 3)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})


class BaseTunerLayer(nn.Module):
    """Known by its name: peft is not imported."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 3)


class ScaledLinear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return 2 * super().forward(input)


def weight_norm_hook() -> nn.Module:
    layer = nn.Linear(8, 3)
    layer.weight_g, layer.weight_v = nn.Parameter(torch.ones(3, 1)), nn.Parameter(layer.weight.detach())
    del layer.weight
    layer.weight = layer.weight_v * layer.weight_g
    return layer


def with_int8_weight() -> nn.Module:
    layer = nn.Linear(8, 3)
    layer.weight = nn.Parameter(torch.zeros(3, 8, dtype=torch.int8), requires_grad=False)
    return layer


def with_tensor_subclass() -> nn.Module:
    class Sharded(torch.Tensor):
        pass

    layer = nn.Linear(8, 3)
    layer.weight = nn.Parameter(torch.zeros(3, 8).as_subclass(Sharded))
    return layer


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    return prune.l1_unstructured(nn.Linear(8, 3), "weight", amount=2)


@pytest.mark.parametrize(
    ("layer", "name", "message"),
    [
        (LoRALinear(), "fc.base_layer", "carries an adapter"),
        (BaseTunerLayer(), "fc.base_layer", "carries an adapter"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), "fc", "weight is computed from other"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)), "fc", "weight is computed from other"),
        (weight_norm_hook(), "fc", "weight is computed from other"),
        (pruned(), "fc", "weight is computed from other"),
        (with_int8_weight(), "fc", r"weight is a Parameter of torch.int8"),
        (with_tensor_subclass(), "fc", "weight is a Sharded of torch.float32; swap .* before"),
        (nn.LazyLinear(3), "fc", "LazyLinear has no size yet"),
        (ScaledLinear(8, 3), "fc", "ScaledLinear: expected a plain Linear"),
        (nn.Conv2d(8, 3, 1, stride=2), "fc", r"stride=\(2, 2\)"),
        (nn.Conv2d(8, 3, 1, padding=1), "fc", r"padding=\(1, 1\)"),
        (nn.BatchNorm1d(8), "fc", "is a BatchNorm1d: expected"),
    ],
)
def test_layers_that_cannot_be_replaced(layer: nn.Module, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_classifiers(head_of(layer), name)


def test_a_quantised_classifier_of_a_timm_model() -> None:
    model = timm.create_model("test_resnet", num_classes=4)

    class QuantizedLinear(nn.Module):
        weight = torch.zeros(4, 8, dtype=torch.int8)

    model.fc = QuantizedLinear()
    with pytest.raises(ValueError, match=r"QuantizedLinear: expected a plain Linear.*before quantising"):
        find_classifiers(model)


def test_a_lora_classifier_of_a_timm_model() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.fc = LoRALinear()
    with pytest.raises(ValueError, match="carries an adapter"):
        find_classifiers(model)


def test_tied_parameters_are_refused_with_their_other_holder() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"classifier='1' shares parameters with '0.weight'"):
        find_classifiers(model, "1")


def test_a_layer_under_two_names_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    model.alias = model[1]
    with pytest.raises(ValueError, match=r"shares parameters with 'alias.weight', 'alias.bias'"):
        find_classifiers(model, "1")


def test_what_is_not_a_bare_module() -> None:
    model = nn.Sequential(nn.Linear(8, 3))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got list"):
        find_classifiers([model])
    with pytest.raises(TypeError, match=r"model is a DataParallel: .*\.module"):
        find_classifiers(nn.DataParallel(model), "module.0")
    with pytest.raises(TypeError, match=r"model is a OptimizedModule: .*\._orig_mod"):
        find_classifiers(torch.compile(model), "_orig_mod.0")
    with pytest.raises(TypeError, match=r"'0' is a DataParallel"):
        find_classifiers(nn.Sequential(nn.DataParallel(model)), "0.module.0")
    model.compile()
    with pytest.raises(TypeError, match=r"model is compiled"):
        find_classifiers(model, "0")
