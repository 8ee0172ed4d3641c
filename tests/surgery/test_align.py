"""Class vectors from class means: every head, both sources, and every refusal leaving the model as it was."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.multiprocessing as mp
from torch import nn

import etfhead
from etfhead import ETFHead, align_head, swap_head
from etfhead.frames import AssignedFrame
from etfhead.frames.orient import class_means_code, orient_simplex
from etfhead.heads import (
    ClassMeanHead,
    CosineHead,
    DeltaRuleHead,
    ETFConvHead,
    GuidedETFHead,
    LinearConvHead,
    LinearHead,
    update_heads,
)

D, K, M = 8, 5, 3  # features, classes, input channels


def data(num_classes=K, count=60, seed=0, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, M, 4, 4, generator=generator)
    return centres[target] + spread * torch.randn(count, M, 4, 4, generator=generator), target


def loader(images, target, size=25):
    return list(zip(images.split(size), target.split(size), strict=True))


def trunk(width=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(M * 16, width)
    with torch.no_grad():
        linear.weight.normal_(0, 0.2, generator=generator)
        linear.bias.normal_(0, 1.0, generator=generator)
    return nn.Sequential(nn.Flatten(), linear, nn.ReLU())


def model(head, seed=0):
    return nn.Sequential(trunk(head.in_features, seed), head)


def behind_neck(net, images, target, eps=1e-5):
    """Class means behind a neck with the statistics of all images, by separate passes in float64."""
    with torch.no_grad():
        h = net[0].eval()(images).double()
    x = (h - h.mean(0)) / (h.var(0) + eps).sqrt()
    return torch.stack([x[target == k].mean(0) for k in range(int(target.max()) + 1)]), h


def accuracy(net, images, target):
    with torch.no_grad():
        return (net.eval()(images).argmax(1) == target).float().mean().item()


def test_the_public_name_and_what_it_says():
    assert etfhead.align_head is align_head
    images, target = data()
    seen = []
    net = model(ETFHead(D, K)).train()
    info = align_head(net, loader(images, target), progress=lambda *now: seen.append(now))
    assert seen == [(1, 25), (2, 50), (3, 60)]
    assert info.pop("seconds") > 0
    assert info == {"samples": 60, "classes": K, "source": "features", "frame": "oriented_simplex"}


@pytest.mark.parametrize("size", [7, 60])
def test_a_fixed_head_adopts_the_simplex_nearest_to_the_class_means(size):
    images, target = data()
    net = model(ETFHead(D, K, dtype=torch.float64).float())
    align_head(net, loader(images, target, size))
    means, h = behind_neck(net, images, target)
    assert net[1].frame.name == "oriented_simplex"
    torch.testing.assert_close(net[1].frame.matrix(), orient_simplex(means), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].neck.running_mean.double(), h.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].neck.running_var.double(), h.var(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.25, 1.0])
def test_more_classes_than_features_get_the_softened_class_means(exponent):
    images, target = data(num_classes=20)
    net = model(ETFHead(D, 20))
    assert net[1].frame.name == "union"
    assert align_head(net, loader(images, target), exponent=exponent)["frame"] == "class_means"
    means, _ = behind_neck(net, images, target)
    expected = class_means_code(means, D, exponent=exponent)
    torch.testing.assert_close(net[1].frame.matrix(), expected, rtol=1e-3, atol=1e-4)
    assert accuracy(net, images, target) > 0.5


HEADS = {
    "etf": ETFHead(D, K),
    "normalised": ETFHead(D, K, normalize=True),
    "guided": GuidedETFHead(D, K),
    "class mean": ClassMeanHead(D, K),
    "class mean without centre": ClassMeanHead(D, K, centre=False),
    "class mean without neck": ClassMeanHead(D, K, neck=None, centre=False),
    "delta rule": DeltaRuleHead(D, K),
    "cosine": CosineHead(D, K, neck="batchnorm"),
    "cosine without neck": CosineHead(D, K),
    "linear": LinearHead(D, K, neck="batchnorm"),
    "linear without neck": LinearHead(D, K),
    "stock": nn.Linear(D, K),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_classifies_before_training(name):
    images, target = data()
    net = nn.Sequential()
    net.add_module("body", trunk())
    net.add_module("fc", copy.deepcopy(HEADS[name]))
    fresh = accuracy(net, images, target)
    align_head(net, loader(images, target), exponent=1.0)
    assert accuracy(net, images, target) > max(0.85, fresh)


@pytest.mark.parametrize("name", ["linear", "linear without neck", "stock"])
def test_a_linear_classifier_starts_with_logits_of_size_one_about_zero(name):
    images, target = data()
    net = nn.Sequential()
    net.add_module("body", trunk())
    net.add_module("fc", copy.deepcopy(HEADS[name]))
    align_head(net, loader(images, target, 60))
    logits = net.eval()(images)
    assert logits.std().item() == pytest.approx(1.0, abs=1e-3)
    assert logits.mean(0).abs().max() < 1e-4
    norms = net.fc.weight.norm(dim=1)
    torch.testing.assert_close(norms, norms[:1].expand(K))


def test_class_vectors_of_the_heads_are_the_code_of_the_class_means():
    images, target = data()
    for head in (CosineHead(D, K, neck="batchnorm"), ClassMeanHead(D, K, centre=False)):
        net = model(head)
        align_head(net, loader(images, target))
        expected = class_means_code(behind_neck(net, images, target)[0], D)
        torch.testing.assert_close(head.class_vectors().double(), expected, rtol=1e-3, atol=1e-4)
        align_head(net, loader(images, target), frame="simplex")
        expected = orient_simplex(behind_neck(net, images, target)[0])
        torch.testing.assert_close(head.class_vectors().double(), expected, rtol=1e-3, atol=1e-4)


def test_without_neck_or_bias_class_vectors_keep_what_all_class_means_share():
    images, target = data()
    net = model(CosineHead(D, K))
    align_head(net, loader(images, target), exponent=1.0)
    with torch.no_grad():
        h = net[0](images).double()
    means = torch.stack([h[target == k].mean(0) for k in range(K)])
    expected = nn.functional.normalize(means)
    torch.testing.assert_close(net[1].class_vectors().double(), expected, rtol=1e-4, atol=1e-5)


def test_a_guided_head_starts_with_the_class_means_themselves():
    images, target = data()
    net = model(GuidedETFHead(D, K, momentum=0.9, every=1))
    align_head(net, loader(images, target))
    means, _ = behind_neck(net, images, target)
    torch.testing.assert_close(net[1].class_means.double(), means, rtol=1e-4, atol=1e-4)
    net.train()(images)
    update_heads(net, target)
    # One batch moves a running mean by a tenth of the distance: the simplex has hardly turned.
    turned = (net[1].class_vectors().double() * orient_simplex(means)).sum(1)
    assert turned.min() > 0.98


@pytest.mark.parametrize("num_classes", [K, 20])
def test_classes_are_handed_the_vectors_of_the_head_and_again(num_classes):
    images, target = data(num_classes)
    net = model(ETFHead(D, num_classes))
    first = net[1].frame
    before = accuracy(net, images, target)
    align_head(net, loader(images, target), frame="assigned")
    assert isinstance(net[1].frame, AssignedFrame)
    assert net[1].frame.base == first
    after = accuracy(net, images, target)
    assert after > before
    align_head(net, loader(images, target), frame="assigned")
    assert net[1].frame.base == first
    assert accuracy(net, images, target) >= after - 0.05
    align_head(net, loader(images, target), frame="class_means")
    align_head(net, loader(images, target), frame="assigned")
    assert net[1].frame.base == first


def pooled(images, target, size=4):
    grey = images.double().mean(1)
    small = nn.functional.adaptive_avg_pool2d(grey, size).flatten(1)
    return torch.stack([small[target == k].mean(0) for k in range(int(target.max()) + 1)])


def test_inputs_are_coded_without_running_the_model():
    images, target = data(num_classes=20)
    net = model(ETFHead(D, 20))
    net[0].forward = lambda _: pytest.fail("the model ran")
    before = net[1].neck.running_var.clone()
    info = align_head(net, loader(images, target), source="inputs", exponent=0.5)
    assert (info["source"], info["frame"], info["samples"]) == ("inputs", "class_means", 60)
    expected = class_means_code(pooled(images, target), D, exponent=0.5, rotate=False)
    torch.testing.assert_close(net[1].frame.matrix(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(net[1].neck.running_var, before)


def test_large_inputs_are_pooled_to_sixteen_pixels_and_bytes_are_numbers():
    target = torch.arange(30) % 3
    bright = torch.randint(0, 200, (30, 1, 40, 20), dtype=torch.uint8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(800, 4), CosineHead(4, 3, neck="batchnorm"))
    align_head(net, loader(bright, target), source="inputs")
    small = nn.functional.adaptive_avg_pool2d(bright.double(), (16, 16)).flatten(1)
    means = torch.stack([small[target == k].mean(0) for k in range(3)])
    expected = class_means_code(means, 4, rotate=False).float()
    torch.testing.assert_close(net[2].class_vectors(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "head", [ETFHead(D, K), GuidedETFHead(D, K), ClassMeanHead(D, K), LinearHead(D, K), CosineHead(D, K)]
)
def test_every_head_starts_from_inputs(head):
    images, target = data()
    net = model(copy.deepcopy(head))
    align_head(net, loader(images, target), source="inputs")
    vectors = nn.functional.normalize(net[1].class_vectors().detach().double())
    code = class_means_code(pooled(images, target), D, rotate=False)
    expected = orient_simplex(code) if isinstance(head, ETFHead) else code
    if isinstance(head, ClassMeanHead):
        expected = nn.functional.normalize(expected - expected.mean(0))
    torch.testing.assert_close(vectors, expected, rtol=1e-3, atol=1e-4)


def test_soft_targets_are_weights():
    images, target = data()
    hard, soft = model(ETFHead(D, K)), model(ETFHead(D, K))
    align_head(hard, loader(images, target))
    align_head(soft, loader(images, nn.functional.one_hot(target, K).float()))
    torch.testing.assert_close(soft[1].class_vectors(), hard[1].class_vectors(), rtol=1e-4, atol=1e-5)


def test_a_conv_head_averages_over_pixels_and_its_neck_sees_them_all():
    images, target = data()
    net = nn.Sequential(nn.Conv2d(M, D, 3), ETFConvHead(D, K))
    align_head(net, loader(images, target))
    h = net[0](images).detach().double()
    mean, var = h.mean((0, 2, 3)), h.movedim(1, -1).reshape(-1, D).var(0)
    x = (h.mean((2, 3)) - mean) / (var + 1e-5).sqrt()
    means = torch.stack([x[target == k].mean(0) for k in range(K)])
    torch.testing.assert_close(net[1].frame.matrix(), orient_simplex(means), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net[1].neck.running_var.double(), var, rtol=1e-4, atol=1e-5)
    linear = nn.Sequential(nn.Conv2d(M, D, 3), LinearConvHead(D, K))
    align_head(linear, loader(images, target))
    assert linear(images).mean((2, 3)).argmax(1).eq(target).float().mean() > 0.5


def test_a_timm_model_with_two_heads_and_its_modes():
    net = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, depth=1, img_size=32)
    swap_head(net).train()
    net.blocks.eval()
    before = {name: module.training for name, module in net.named_modules()}
    grads = {name: p.requires_grad for name, p in net.named_parameters()}
    images, target = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    state = torch.get_rng_state()
    align_head(net, [(images, target, "ignored")])
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in net.named_modules()} == before
    assert {name: p.requires_grad for name, p in net.named_parameters()} == grads
    assert net.head.frame.name == net.head_dist.frame.name == "oriented_simplex"
    assert not torch.equal(net.head.class_vectors(), net.head_dist.class_vectors())
    assert not net.head._forward_pre_hooks


def test_an_aligned_checkpoint_loads_without_data():
    images, target = data()
    for build in (lambda: ETFHead(D, K), lambda: ETFHead(D, 20), lambda: GuidedETFHead(D, K)):
        net, twin = model(build()), model(build())
        images, target = data(net[1].num_classes)
        align_head(net, loader(images, target))
        twin.load_state_dict(net.state_dict())
        assert torch.equal(twin.eval()(images), net.eval()(images))


def test_max_batches_draws_no_more():
    images, target = data()

    def endless():
        while True:
            yield images, target

    assert align_head(model(ETFHead(D, K)), endless(), max_batches=2)["samples"] == 120


@pytest.mark.parametrize("source", ["features", "inputs"])
def test_empty_classes_are_refused_or_placed_at_the_mean(source):
    images, target = data(num_classes=K - 1)
    net = model(ETFHead(D, K))
    before = net[1].class_vectors().clone()
    with pytest.raises(ValueError, match=r"1 of 5 classes have no sample \(4\).*empty='mean'"):
        align_head(net, loader(images, target), source=source)
    assert torch.equal(net[1].class_vectors(), before)
    align_head(net, loader(images, target), source=source, empty="mean")
    assert net[1].frame.name == "oriented_simplex"


def spoiled():
    images, target = data()
    images[30] = float("nan")
    return loader(images, target)


@pytest.mark.parametrize(
    ("head", "batches", "options", "message"),
    [
        (ETFHead(D, K), spoiled(), {}, "features: 8 of 200 numbers of batch 1 are NaN or infinite"),
        (ETFHead(D, K), spoiled(), {"source": "inputs"}, "of batch 1 are NaN or infinite"),
        (ETFHead(D, K - 1), loader(*data()), {}, "target: expected classes from 0 to 3, got 0 to 4"),
        (ETFHead(D, K), loader(*data()), {"source": "outputs"}, "source='outputs'"),
        (ETFHead(D, K), loader(*data()), {"frame": "oriented"}, "frame='oriented'"),
        (ETFHead(D, K), loader(*data()), {"exponent": -1.0, "frame": "class_means"}, "exponent=-1.0"),
        (ETFHead(D, K), [{"image": 1}], {}, "loader: expected batches .images, target."),
        (ETFHead(D, K), [], {}, "no sample of any"),
        (ETFHead(D, K), [], {"source": "inputs"}, "loader: it gave no batch"),
        (ETFHead(D, 20), loader(*data(20)), {"frame": "simplex"}, "20 classes need in_features >= 19, got 8"),
        (
            GuidedETFHead(D, K),
            loader(*data()),
            {"frame": "class_means"},
            "a guided head's frame is a simplex",
        ),
        (CosineHead(D, K), loader(*data()), {"frame": "assigned"}, "only an ETFHead.*closed-form frame"),
        (ETFHead(D, K, frame="code"), loader(*data()), {"frame": "assigned"}, "only an ETFHead"),
    ],
)
def test_refusals_leave_the_model_as_it_was(head, batches, options, message):
    net = model(copy.deepcopy(head)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        align_head(net, batches, **options)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not net[1]._forward_pre_hooks


def test_flat_inputs_have_no_mean_image():
    net = nn.Sequential(nn.Linear(4, D), ETFHead(D, K))
    with pytest.raises(ValueError, match=r"source='inputs' needs images \(B, C, H, W\)"):
        align_head(net, [(torch.randn(10, 4), torch.arange(10) % K)], source="inputs")


def test_no_head_and_a_wrapped_model():
    with pytest.raises(ValueError, match=r"no head, and no classifier .*swap_head"):
        align_head(nn.Sequential(nn.Flatten()), [])
    with pytest.raises(TypeError, match="DataParallel"):
        align_head(nn.DataParallel(model(ETFHead(D, K))), [])


def _align_a_share(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    images, target = data()
    share = slice(0, 20) if rank == 0 else slice(20, None)
    for name, head in (("etf", ETFHead(D, K)), ("linear", LinearHead(D, K))):
        net = model(head)
        align_head(net, loader(images[share], target[share]))
        torch.save(head.state_dict(), f"{folder}/{name}{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_shares_are_one_with_all(tmp_path):
    mp.start_processes(_align_a_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    images, target = data()
    net = model(ETFHead(D, K))
    align_head(net, loader(images, target))
    for name in ("etf", "linear"):
        a, b = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(value, b[key]) for key, value in a.items())
        if name == "etf":
            for key, value in net[1].state_dict().items():
                torch.testing.assert_close(a[key], value, rtol=1e-5, atol=1e-6)


def test_a_regression_head_has_no_classes_to_turn_to():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    swap_head(model, "regression", classifier="1", targets=torch.randn(30, 3))
    with pytest.raises(ValueError, match="1: real-valued targets have no classes"):
        align_head(model, [(torch.randn(4, 3, 2, 2), torch.arange(4) % 3)])
