"""Swapping and folding: what changes, what must not, and every refusal leaving the model as it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import etfhead
from etfhead.heads import CosineHead, ETFConvHead, ETFHead, LinearConvHead, LinearHead
from etfhead.surgery import find_classifiers, find_heads, fold_head, swap_head

K = 5


def resnet(**options) -> nn.Module:
    return timm.create_model("test_resnet", **{"num_classes": K, **options})


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, K))


def images(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def fingerprint(model: nn.Module) -> tuple:
    """Everything an interrupted surgery could have changed."""
    modules = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    tensors = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    training = {name: module.training for name, module in model.named_modules()}
    return modules, tensors, training, getattr(model, "num_classes", None)


def settle(model: nn.Module, *batches: torch.Tensor) -> nn.Module:
    """Give batch norms statistics worth folding, then switch to evaluation."""
    with torch.no_grad():
        for batch in batches:
            model.train()(batch)
    return model.eval()


# What a swap changes


def test_public_names() -> None:
    assert etfhead.swap_head is swap_head
    assert etfhead.fold_head is fold_head


def test_only_the_classifier_changes() -> None:
    model = resnet()
    before = {n: id(m) for n, m in model.named_modules() if n != "fc"}
    weights = {n: p.clone() for n, p in model.named_parameters() if not n.startswith("fc.")}
    state = torch.get_rng_state()
    assert swap_head(model) is model
    assert torch.equal(torch.get_rng_state(), state)  # arms that share a seed share their batches too
    after = {n: id(m) for n, m in model.named_modules() if not n.startswith("fc")}
    assert after == before
    assert all(torch.equal(model.get_parameter(n), w) for n, w in weights.items())
    assert isinstance(model.fc, ETFHead)
    assert model.get_classifier() is model.fc
    assert model.num_classes == K
    assert find_heads(model) == {"fc": model.fc}
    assert find_classifiers(model) == {}


def test_options_reach_the_head() -> None:
    model = swap_head(resnet(), basis="identity", neck=None, scale=3.0, learn_scale=False)
    assert model.fc.frame.spec()["basis"] == "identity"
    assert model.fc.neck is None
    assert model.fc.scale.item() == 3.0
    assert list(model.fc.parameters()) == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_head_takes_dtype_and_mode_of_its_layer(dtype: torch.dtype, training: bool) -> None:
    model = swap_head(resnet().to(dtype).train(training))
    assert model.fc.class_vectors().dtype == model.fc.scale.dtype == dtype
    assert {m.training for m in model.modules()} == {training}
    assert model.eval()(images().to(dtype)).dtype == dtype


def test_meta_models_stay_on_meta() -> None:
    with torch.device("meta"):
        model = resnet()
    swap_head(model)
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, K)


def test_a_frozen_trunk_stays_frozen() -> None:
    model = resnet().requires_grad_(False)
    swap_head(model, num_classes=7)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["fc.scale"]


def test_heads_of_equal_width_share_a_frame_but_nothing_else() -> None:
    model = swap_head(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=K, depth=1), seed=3)
    a, b = find_heads(model).values()
    assert torch.equal(a.class_vectors(), b.class_vectors())
    assert not torch.equal(a.class_vectors(), ETFHead(192, K, seed=0).class_vectors())
    assert {id(t) for t in a.state_dict(keep_vars=True).values()}.isdisjoint(
        id(t) for t in b.state_dict(keep_vars=True).values()
    )


def test_branches_of_different_width_get_their_own_frames() -> None:
    tiny = {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}
    model = swap_head(timm.create_model("crossvit_tiny_240", num_classes=K, **tiny))
    assert {n: h.in_features for n, h in find_heads(model).items()} == {"head.0": 96, "head.1": 192}


def test_swapped_models_copy_and_pickle() -> None:
    model = swap_head(resnet()).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), model(images()))


# Class counts


@pytest.mark.parametrize("head", ["etf", "cosine", "linear"])
@pytest.mark.parametrize("built_with", [K, 1000, 0])
def test_a_new_number_of_classes(head: str, built_with: int) -> None:
    model = swap_head(resnet(num_classes=built_with).eval(), head, num_classes=7)
    assert model.num_classes == 7
    assert model(images()).shape == (4, 7)
    assert not any(m.training for m in model.modules())


def test_layers_between_pooling_and_classifier_survive_a_new_number_of_classes() -> None:
    model = timm.create_model("caformer_s18", num_classes=K)
    hidden = model.head.fc.fc1
    swap_head(model, num_classes=7)
    assert model.head.fc.fc1 is hidden
    assert type(model.head.fc.fc2) is ETFHead


class OldTimm(nn.Module):
    """Builds its classifier on the CPU, in float32 and training mode, as older versions of timm did."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 0
        self.body = nn.Linear(12, 8)
        self.head: nn.Module = nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(8, num_classes)
        self.body.requires_grad_(True)


def test_a_headless_model_grows_its_head_where_the_trunk_is() -> None:
    model = swap_head(OldTimm().double().eval(), num_classes=K)
    assert model.head.class_vectors().dtype == torch.float64
    assert not model.head.training


def test_a_failed_growth_is_undone() -> None:
    model = OldTimm()
    model.body.requires_grad_(False)
    before = fingerprint(model)
    with pytest.raises(ValueError, match="num_classes=30"):
        swap_head(model, num_classes=30, frame="simplex")
    assert fingerprint(model) == before
    assert model.num_classes == 0


def test_numpy_integers_count_classes() -> None:
    np = pytest.importorskip("numpy")
    assert swap_head(resnet(), num_classes=np.int64(7)).num_classes == 7


# Other heads


def test_linear_keeps_the_stock_layer() -> None:
    model = resnet()
    layer = model.fc
    assert swap_head(model, "linear").fc is layer
    assert swap_head(model, "linear", num_classes=K).fc is layer


def test_linear_with_another_number_of_classes_is_fresh_and_of_the_same_kind() -> None:
    model = swap_head(mlp().double(), "linear", num_classes=7, classifier="3")
    assert type(model[3]) is nn.Linear
    assert model[3].weight.shape == (7, 8)
    assert model[3].weight.dtype == torch.float64
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))
    swap_head(model, "linear", num_classes=7, classifier="0")
    assert model[0].weight.shape == (7, 3, 1, 1)
    assert model[0].bias is None


def test_linear_behind_a_neck() -> None:
    assert type(swap_head(resnet(), "linear", neck="batchnorm").fc) is LinearHead
    model = timm.create_model("dla46_c", num_classes=K)
    assert type(swap_head(model, "linear", neck="batchnorm").fc) is LinearConvHead


def test_cosine() -> None:
    model = swap_head(resnet(), "cosine", scale=2.0)
    assert type(model.fc) is CosineHead
    assert model.eval()(images()).abs().max() <= 2


# Folding


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("etf", {"basis": "identity"}),
        ("etf", {"basis": "hadamard"}),
        ("etf", {"basis": "haar"}),
        ("etf", {"neck": None}),
        ("etf", {"scale": 7.5, "learn_scale": False}),
        ("linear", {"neck": "batchnorm"}),
    ],
)
@pytest.mark.parametrize("name", ["test_resnet", "dla46_c", "deit_tiny_distilled_patch16_224"])
def test_folded_models_are_stock_models(name: str, head: str, options: dict) -> None:
    torch.manual_seed(0)
    small = {"img_size": 32, "depth": 2} if "deit" in name else {}
    model = swap_head(timm.create_model(name, num_classes=K, **small), head, **options)
    settle(model, images(8), 1 + 2 * images(8).flip(0))
    with torch.no_grad():
        expected = model(images())
        assert fold_head(model) is model
        assert_close(model(images()), expected)
        stock = timm.create_model(name, num_classes=K, **small).eval()
        stock.load_state_dict(model.state_dict(), strict=True)
        assert_close(stock(images()), expected)
    assert all(p.requires_grad for layer in find_classifiers(model).values() for p in layer.parameters())


def test_reparameterize_folds_too() -> None:
    model = settle(swap_head(resnet()), images())
    folded = timm.utils.reparameterize_model(model)
    assert type(folded.fc) is nn.Linear
    assert_close(folded(images()), model(images()))


def test_a_folded_model_can_be_swapped_again() -> None:
    assert list(find_heads(swap_head(fold_head(swap_head(resnet()))))) == ["fc"]


def test_folding_is_all_or_nothing() -> None:
    model = nn.Sequential(ETFHead(8, K), ETFHead(K, 4, normalize=True))
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"1: .*normalize=True"):
        fold_head(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("options", [("etf", {"normalize": True}), ("cosine", {})])
def test_normalised_heads_do_not_fold(options: tuple) -> None:
    model = swap_head(resnet(), options[0], **options[1])
    with pytest.raises(ValueError, match="no plain-layer equivalent"):
        fold_head(model)
    assert list(find_heads(model)) == ["fc"]


def test_a_head_under_two_names_folds_into_one_layer() -> None:
    model = nn.Sequential(ETFHead(8, K))
    model.alias = model[0]
    fold_head(model)
    assert model.alias is model[0]
    assert type(model.alias) is nn.Linear


def test_nothing_to_fold() -> None:
    with pytest.raises(ValueError, match="no etfhead head"):
        fold_head(resnet())
    with pytest.raises(ValueError, match=r"use model\.fuse"):
        fold_head(ETFHead(8, K))
    with pytest.raises(TypeError, match="DataParallel"):
        fold_head(nn.DataParallel(swap_head(resnet())))


# Models from elsewhere


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18", {}, 32),
        ("mobilenet_v3_small", {}, 32),
        ("vit_b_16", {"image_size": 32}, 32),
        ("swin_t", {}, 32),
        ("convnext_tiny", {}, 32),
        ("efficientnet_b0", {}, 32),
        ("densenet121", {}, 32),
        ("squeezenet1_1", {}, 64),
        ("fcn_resnet50", {"weights_backbone": None, "aux_loss": True}, 32),
    ],
)
def test_torchvision(name: str, options: dict, size: int) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=9, **options)
    swap_head(model, num_classes=K)
    settle(model, images(4, size), 1 + images(4, size))

    def logits(model: nn.Module) -> torch.Tensor:
        output = model(images(2, size))
        return torch.cat([o.flatten() for o in output.values()]) if isinstance(output, dict) else output

    with torch.no_grad():
        expected = logits(model)
        if name != "fcn_resnet50":
            assert expected.shape == (2, K)
        stock = models.get_model(name, weights=None, num_classes=K, **options).eval()
        stock.load_state_dict(fold_head(model).state_dict(), strict=True)
        assert_close(logits(stock), expected)


def test_torchvision_vgg_on_meta() -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model = swap_head(models.vgg11(weights=None), num_classes=K)
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, K)
    assert list(find_heads(model)) == ["classifier.6"]


def test_hugging_face_timm_wrapper() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers (extra 'hf') is not installed")
    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=9)
    model = transformers.TimmWrapperForImageClassification(config)
    assert list(find_classifiers(model)) == ["timm_model.fc"]
    swap_head(model, num_classes=K)
    assert list(find_heads(model)) == ["timm_model.fc"]
    assert (model.num_labels, model.config.num_labels, model.timm_model.num_classes) == (K, K, K)
    output = model.train()(pixel_values=images(), labels=torch.tensor([0, 1, 2, 4]))
    output.loss.backward()
    assert model.timm_model.fc.scale.grad is not None
    with torch.no_grad():
        expected = model.eval()(pixel_values=images()).logits
        fold_head(model)
        stock = transformers.TimmWrapperForImageClassification(model.config).eval()
        stock.load_state_dict(model.state_dict(), strict=True)
        assert_close(stock(pixel_values=images()).logits, expected)


def test_any_module_by_name() -> None:
    model = mlp()
    swap_head(model, classifier="3", neck=None)
    assert model(torch.randn(2, 12)).shape == (2, K)
    tokens = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, K))
    swap_head(tokens, classifier=["1"])
    assert tokens(torch.randn(2, 3, 12)).shape == (2, 3, K)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, K, 1))
    swap_head(dense, classifier="1")
    assert isinstance(dense[1], ETFConvHead)
    assert dense(images()).shape == (4, K, 30, 30)


def test_named_tasks_keep_their_own_class_counts() -> None:
    model = nn.ModuleDict({"animals": nn.Linear(8, 4), "plants": nn.Linear(8, 6)})
    swap_head(model, classifier=["animals", "plants"])
    assert {n: h.num_classes for n, h in find_heads(model).items()} == {"animals": 4, "plants": 6}


def test_a_task_beside_the_classifier_may_change_its_class_count_alone() -> None:
    model = resnet()
    model.task = nn.Linear(8, 3)
    swap_head(model, num_classes=4, classifier="task")
    assert {n: h.num_classes for n, h in find_heads(model).items()} == {"task": 4}
    assert model.fc.out_features == K


# Refusals: each leaves the model as it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "eft"}, r"head='eft': expected one of 'etf', .*'linear'.*; did you mean 'etf'\?"),
        ({"bassis": "haar"}, r"bassis: not an option of head='etf'.*did you mean 'basis'\?"),
        ({"head": "cosine", "basis": "haar"}, "basis: not an option of head='cosine'"),
        ({"head": "linear", "learn_scale": True}, "learn_scale: not an option of head='linear'"),
        ({"in_features": 8}, "in_features: taken from the layer"),
        ({"dtype": torch.float16}, "dtype: taken from the layer"),
        ({"basis": "fourier"}, "classifier 'fc' .*fourier"),
        ({"frame": "simplx"}, "classifier 'fc' .*simplx"),
        ({"frame": etfhead.make_frame("simplex", num_classes=K, in_features=16)}, "'fc'.*in_features=16"),
        ({"num_classes": 0}, "num_classes=0: expected an integer of at least 2"),
        ({"num_classes": 1}, "num_classes=1: expected"),
        ({"num_classes": True}, "num_classes=True: expected"),
        ({"num_classes": 7.0}, r"num_classes=7\.0: expected"),
        ({"num_classes": "7"}, "num_classes='7': expected"),
        ({"num_classes": 5000, "frame": "simplex"}, r"classifier 'fc' \(in_features=\d+\): num_classes=5000"),
        ({"classifier": "head"}, "classifier='head': the model has no such module"),
        ({"classifier": "fcc"}, r"no such module; did you mean 'fc'\?; its classifier: 'fc'$"),
        ({"class_counts": [1, 2, 3]}, "class_counts: expected 5 numbers, one per class, got 3"),
        ({"class_counts": [1, 2, 3, 0, 5]}, r"class_counts\[3\]=0: expected a positive"),
        ({"class_counts": [1, 2, 3, float("nan"), 5]}, r"class_counts\[3\]=nan"),
        ({"class_counts": [1, 2, 3, "4", 5]}, r"class_counts\[3\]='4'"),
        ({"class_counts": [1, 2, 3, 4, 5]}, "class_counts: frame='auto' does not use them.*'orthogonal'"),
        ({"class_counts": [1, 2, 3, 4, 5], "head": "cosine"}, "class_counts: CosineHead has no use for it"),
        ({"frame": "seli"}, "class_counts: frame='seli' follows the training samples of each class"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    model = resnet()
    before = fingerprint(model)
    with pytest.raises(ValueError, match=message):
        swap_head(model, **options)
    assert fingerprint(model) == before


def test_a_late_failure_leaves_every_branch_as_it_was() -> None:
    tiny = {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}
    model = timm.create_model("crossvit_tiny_240", num_classes=150, **tiny)  # widths 96 and 192
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"classifier 'head.0' \(in_features=96\): num_classes=150"):
        swap_head(model, frame="simplex")
    assert fingerprint(model) == before


def test_a_single_output_is_no_classifier() -> None:
    with pytest.raises(ValueError, match=r"classifier '0'.*num_classes=1: expected"):
        swap_head(nn.Sequential(nn.Linear(8, 1)), classifier="0")


@pytest.mark.parametrize("head", ["etf", "cosine", "linear"])
def test_a_second_swap(head: str) -> None:
    model = swap_head(resnet())
    before = fingerprint(model)
    with pytest.raises(ValueError, match="already has an etfhead head at 'fc'"):
        swap_head(model, head)
    assert fingerprint(model) == before


def test_no_classifier() -> None:
    with pytest.raises(ValueError, match=r"no classifier found in Sequential.*name it"):
        swap_head(mlp())
    with pytest.raises(ValueError, match="ResNet was built without a classifier: pass num_classes"):
        swap_head(resnet(num_classes=0))


def test_an_encoder_only_model_that_took_num_classes_silently() -> None:
    if not timm.is_model("qwen3_vit_88m_enc"):
        pytest.skip(f"timm {timm.__version__} has no qwen3_vit_88m_enc")
    with torch.device("meta"):
        model = timm.create_model("qwen3_vit_88m_enc", num_classes=K)
    with pytest.raises(ValueError, match=r"no classifier found in Qwen3VitEncoder.*encoder-only"):
        swap_head(model, num_classes=K)


def test_part_of_a_classifier_cannot_change_its_class_count_alone() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=K, depth=1)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"name \['head_dist'\] as well"):
        swap_head(model, num_classes=7, classifier="head")
    assert fingerprint(model) == before
    assert list(find_heads(swap_head(model, classifier="head"))) == ["head"]


def test_wrapped_models() -> None:
    with pytest.raises(TypeError, match="DataParallel: change the head first"):
        swap_head(nn.DataParallel(resnet()))
    with pytest.raises(TypeError, match="OptimizedModule: change the head first"):
        swap_head(torch.compile(resnet()))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        swap_head("test_resnet")


def test_ddp(tmp_path) -> None:
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(resnet())
        with pytest.raises(TypeError, match=r"DistributedDataParallel: change the head first.*\.module"):
            swap_head(model)
    finally:
        dist.destroy_process_group()
