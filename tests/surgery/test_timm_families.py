"""One small model of every timm family, at its smallest input: swap, train, fold, load into stock."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from torch import nn

from etfhead.surgery import find_classifiers, find_heads, fold_head, swap_head

K = 7

# Family: model, image size, and what makes it small (most take `img_size` only where positions are fixed).
FAMILIES = {
    "beit": ("beitv2_base_patch16_224", 32, {"img_size": 32, "depth": 2}),
    "byoanet": ("eca_botnext26ts_256", 32, {"img_size": 32}),
    "byobnet": ("test_byobnet", 32, {}),
    "cait": ("cait_xxs24_224", 32, {"img_size": 32, "depth": 2}),
    "coat": ("coat_lite_tiny", 32, {"img_size": 32}),
    "convit": ("convit_tiny", 32, {"img_size": 32}),
    "convmixer": ("convmixer_768_32", 32, {}),
    "convnext": ("test_convnext", 32, {}),
    "cpubone": ("cpubone_nano", 32, {}),
    "crossvit": ("crossvit_tiny_240", 32, {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}),
    "csatv2": ("csatv2", 64, {}),
    "cspnet": ("cs3darknet_s", 32, {}),
    "cspnext": ("cspnext_tiny", 32, {}),
    "davit": ("davit_tiny", 32, {}),
    "deepseek_vit": ("deepseek_vit_412m", 56, {"depth": 1, "embed_dim": 128, "num_heads": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", 32, {"img_size": 32}),
    "densenet": ("densenet121", 32, {}),
    "dla": ("dla46_c", 32, {}),
    "dpn": ("dpn48b", 32, {}),
    "edgenext": ("edgenext_xx_small", 32, {}),
    "efficientformer": ("efficientformer_l1", 224, {"depths": (1, 1, 1, 2)}),
    "efficientformer_v2": ("efficientformerv2_s0", 32, {"img_size": 32}),
    "efficientnet": ("test_efficientnet", 32, {}),
    "efficientvim": ("efficientvim_m1_dist", 32, {}),
    "efficientvit_mit": ("efficientvit_b0", 32, {}),
    "efficientvit_msra": ("efficientvit_m0", 32, {"img_size": 32}),
    "eva": ("eva02_tiny_patch14_224", 32, {"img_size": 32}),
    "fasternet": ("fasternet_t0", 32, {}),
    "fastvit": ("fastvit_t8", 32, {}),
    "focalnet": ("focalnet_tiny_srf", 32, {}),
    "gcvit": ("gcvit_xxtiny", 32, {"img_size": 32}),
    "gemma4_vit": ("gemma4_vit_167m", 32, {"depth": 2}),
    "ghostnet": ("ghostnet_050", 32, {}),
    "hardcorenas": ("hardcorenas_a", 32, {}),
    "hgnet": ("hgnetv2_b0", 32, {}),
    "hiera": ("hiera_tiny_224", 32, {"img_size": 32}),
    "hieradet_sam2": ("sam2_hiera_tiny", 32, {}),
    "hrnet": ("hrnet_w18_small", 32, {}),
    "iformer": ("iformer_m_distilled", 32, {}),
    "inception_next": ("inception_next_atto", 32, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 32, {}),
    "levit": ("levit_128s", 32, {"img_size": 32}),
    "lowformer": ("lowformer_b0", 32, {}),
    "mambaout": ("test_mambaout", 32, {}),
    "maxxvit": ("test_coatnet", 32, {"img_size": 32}),
    "metaformer": ("poolformerv2_s12", 32, {}),
    "mlp_mixer": ("gmlp_ti16_224", 32, {"img_size": 32}),
    "mobilenetv3": ("mobilenetv3_small_050", 32, {}),
    "mobilenetv5": ("mobilenetv5_base", 32, {}),
    "mobilevit": ("mobilevit_xxs", 32, {}),
    "mvitv2": ("mvitv2_tiny", 32, {}),
    "naflexvit": ("naflexvit_base_patch16_gap", 32, {"depth": 2}),
    "nasnet": ("nasnetalarge", 32, {}),
    "nest": ("nest_tiny", 32, {"img_size": 32}),
    "nextvit": ("nextvit_small", 32, {}),
    "nfnet": ("test_nfnet", 32, {}),
    "pit": ("pit_ti_distilled_224", 32, {"img_size": 32}),
    "pnasnet": ("pnasnet5large", 32, {}),
    "pvt_v2": ("pvt_v2_b0", 32, {}),
    "qwen3_vit": ("qwen3_vit_88m", 32, {"depth": 2}),
    "rdnet": ("rdnet_tiny", 32, {}),
    "regnet": ("regnetx_002", 32, {}),
    "repghost": ("repghostnet_050", 32, {}),
    "repvit": ("repvit_m0_9", 32, {}),
    "res2net": ("res2next50", 32, {}),
    "resnest": ("resnest14d", 32, {}),
    "resnet": ("test_resnet", 32, {}),
    "resnetv2": ("resnetv2_18", 32, {}),
    "rexnet": ("rexnet_100", 32, {}),
    "selecsls": ("selecsls42", 32, {}),
    "senet": ("legacy_seresnet18", 32, {}),
    "sequencer": ("sequencer2d_s", 32, {}),
    "shvit": ("shvit_s1", 32, {}),
    "sknet": ("skresnet18", 32, {}),
    "starnet": ("starnet_s050", 32, {}),
    "swiftformer": ("swiftformer_xs", 32, {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 32, {"img_size": 32}),
    "swin_transformer_v2": ("swinv2_tiny_window16_256", 64, {"img_size": 64}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 32, {"img_size": 32}),
    "tiny_vit": ("tiny_vit_5m_224", 32, {}),
    "tnt": ("tnt_s_legacy_patch16_224", 32, {"img_size": 32}),
    "tresnet": ("tresnet_m", 32, {}),
    "twins": ("twins_svt_small", 32, {"img_size": 32}),
    "vgg": ("vgg11", 32, {"mlp_ratio": 0.1}),
    "visformer": ("visformer_tiny", 32, {"img_size": 32}),
    "vision_transformer": ("test_vit", 32, {"img_size": 32}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 32, {"img_size": 32}),
    "vision_transformer_relpos": ("test_vit_relpos", 32, {"img_size": 32}),
    "vision_transformer_sam": ("samvit_base_patch16_224", 32, {"img_size": 32, "depth": 2}),
    "vitamin": ("vitamin_small_224", 32, {"img_size": 32}),
    "volo": ("volo_d1_224", 32, {"img_size": 32}),
    "vovnet": ("ese_vovnet19b_slim_dw", 32, {}),
    "xception": ("legacy_xception", 32, {}),
    "xception_aligned": ("xception41p", 32, {}),
    "xcit": ("xcit_nano_12_p8_224", 32, {}),
}

# Members whose classifier differs from that of their family's smallest model.
TRAPS = {
    "one of two heads is missing from pretrained_cfg": ("levit_384_s8", 32, {"img_size": 32}),
    "attention-pool projection as classifier": ("resnet50_clip", 32, {}),
    "MLP before the classifier": ("caformer_s18", 32, {}),
    "one branch of a distilled wrapper": ("iformer_t", 32, {}),
    "multi-scale heads without distillation": ("efficientvim_m1", 32, {}),
}
CASES = {**FAMILIES, **TRAPS}


def build(name: str, options: dict, **more) -> nn.Module:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    return timm.create_model(name, num_classes=K, **options, **more)


def as_tuple(output) -> tuple[torch.Tensor, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def classes_written(model: nn.Module) -> list[str]:
    """Independent of the search under test: every layer with K outputs."""
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.shape[0] == K
    ]


@pytest.mark.parametrize("case", CASES)
def test_swap_train_fold(case: str) -> None:
    name, size, options = CASES[case]
    torch.manual_seed(0)
    model = build(name, options)
    stock = copy.deepcopy(model)
    written = classes_written(model)
    x = torch.randn(2, model.pretrained_cfg["input_size"][0], size, size)
    with torch.no_grad():
        stock_shape = model.eval()(x).shape

    assert list(find_classifiers(model)) == written
    assert swap_head(model.train()) is model

    heads = find_heads(model)
    assert list(heads) == written
    assert classes_written(model) == []
    assert [n for h in heads.values() for n, _ in h.named_parameters()] == ["scale"] * len(heads)
    outputs = as_tuple(model(x))
    assert all(output.shape == stock_shape for output in outputs)
    sum(output[:, 0].sum() for output in outputs).backward()
    trunk = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    reached = [n for n, p in trunk if p.grad is not None]
    assert len(reached) > 0.9 * len(trunk), sorted({n for n, _ in trunk} - set(reached))
    with torch.no_grad():
        model(2 * x + 1)  # a second, different batch: what is folded below are real running statistics
        for head in heads.values():
            moved = head.neck.running_mean.abs() + (head.neck.running_var - 1).abs()
            assert moved.max() > 0.01
        logits = model.eval()(x)

        fold_head(model)
        assert find_heads(model) == {}
        assert_close(model(x), logits)
        stock.load_state_dict(model.state_dict(), strict=True)
        assert_close(stock.eval()(x), logits)


@pytest.mark.parametrize(
    "family", ["deit", "levit", "volo", "crossvit", "efficientvim", "repvit", "resnetv2"]
)
def test_logits_come_from_the_fixed_heads_alone(family: str) -> None:
    name, size, options = FAMILIES[family]
    model = swap_head(build(name, options).eval())
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert model(x).abs().max() > 0
        for head in find_heads(model).values():
            head.scale.zero_()
        assert model(x).abs().max() == 0


@pytest.mark.parametrize("family", ["deit", "levit", "efficientvim"])
def test_distilled_training_returns_one_output_for_each_head(family: str) -> None:
    name, size, options = FAMILIES[family]
    model = swap_head(build(name, options)).train()
    model.set_distilled_training(True)
    outputs = model(torch.randn(2, 3, size, size))
    assert [tuple(output.shape) for output in outputs] == [(2, K), (2, K)]


@pytest.mark.parametrize(
    "family", ["resnet", "dla", "deit", "volo", "crossvit", "efficientvim", "repvit", "cpubone", "sequencer"]
)
def test_reset_classifier_after_the_swap_brings_a_learnable_head_back(family: str) -> None:
    name, size, options = FAMILIES[family]
    stock = build(name, options)
    model = swap_head(copy.deepcopy(stock))
    model.reset_classifier(5)
    stock.reset_classifier(5)  # repvit's drops the distillation branch
    assert find_heads(model) == {}
    assert list(find_classifiers(model)) == list(find_classifiers(stock))
    assert model.eval()(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_every_family_has_its_contract_test() -> None:
    modules = {timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    families = {name.rpartition(".")[2] for name in modules if not name.startswith("etfhead.")}
    missing = sorted(families - set(FAMILIES))
    if missing and tuple(map(int, timm.__version__.split(".")[:3])) > (1, 0, 31):
        warnings.warn(
            f"timm {timm.__version__} has families without a contract test: {missing}", stacklevel=1
        )
    else:
        assert missing == []
    for family, (name, *_) in FAMILIES.items():
        if timm.is_model(name):
            assert timm.model_entrypoint(name).__module__.rpartition(".")[2] == family
