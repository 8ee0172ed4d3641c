import pytest
import torch
from torch import nn

from etfhead.frames import ClassMeansFrame
from etfhead.heads import CosineHead, ETFHead, GuidedETFHead
from etfhead.surgery.class_pass import FeatureSums
from etfhead.surgery.head_start import HeadStart, start_behind_neck, start_head

K, D = 4, 6


def features(samples=40):
    generator = torch.Generator().manual_seed(0)
    return 3 + torch.randn(samples, D, generator=generator), torch.arange(samples) % K


def sums():
    h, target = features()
    taken = FeatureSums(K, D, -1, torch.device("cpu"))
    taken.update(h, target)
    return taken


def frame():
    vectors = nn.functional.normalize(torch.randn(K, D, generator=torch.Generator().manual_seed(1)))
    return ClassMeansFrame(K, D, vectors=vectors)


def test_without_a_neck_a_head_meets_the_features_themselves():
    h, target = features()
    start = start_behind_neck(nn.Linear(D, K), sums(), "error")
    expected = torch.stack([h[target == k].mean(0) for k in range(K)])
    torch.testing.assert_close(start.means.float(), expected)
    torch.testing.assert_close(start.mean.float(), h.mean(0))
    assert start.neck is None


def test_behind_a_neck_it_meets_what_batchnorm_makes_of_them():
    h, target = features()
    head = ETFHead(D, K)
    start = start_behind_neck(head, sums(), "error")
    start_head(head, frame(), start)
    h = head.eval().features_behind_neck(h)
    expected = torch.stack([h[target == k].mean(0) for k in range(K)])
    torch.testing.assert_close(start.means.float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(start.some.float(), h, rtol=1e-4, atol=1e-5)
    assert not start.mean.any()


def test_each_kind_of_head_takes_its_own():
    start = start_behind_neck(ETFHead(D, K), sums(), "error")
    fixed, cosine, guided = ETFHead(D, K), CosineHead(D, K), GuidedETFHead(D, K)
    for head in (fixed, cosine, guided):
        start_head(head, frame(), start)
    assert fixed.frame == frame()
    torch.testing.assert_close(cosine.weight.double(), frame().matrix(), rtol=0, atol=1e-6)
    torch.testing.assert_close(guided.class_means.double(), start.means.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_has_logits_of_deviation_one_about_the_mean(bias):
    h, _ = features()
    layer = nn.Linear(D, K, bias=bias)
    start_head(layer, frame(), start_behind_neck(layer, sums(), "error"))
    logits = layer(h)
    assert (logits - logits.mean(0)).std().item() == pytest.approx(1.0, abs=1e-4)
    assert (logits.mean(0).abs().max() < 1e-4) == bias
    torch.testing.assert_close(layer.weight / layer.weight.norm(dim=1)[:, None], frame().matrix().float())


def test_a_layer_that_has_seen_no_features_or_constant_ones_takes_unit_vectors():
    constant = torch.full((5, D), 2.0, dtype=torch.float64)
    for start, mean in (
        (HeadStart(frame().matrix()), torch.zeros(D)),
        (HeadStart(frame().matrix(), constant[0], constant), constant[0].float()),
    ):
        layer = nn.Conv2d(D, K, 1)
        start_head(layer, frame(), start)
        torch.testing.assert_close(layer.weight.flatten(1), frame().matrix().float())
        torch.testing.assert_close(
            layer(mean[None, :, None, None]).flatten(), torch.zeros(K), rtol=0, atol=1e-5
        )


def test_a_class_without_samples_is_refused():
    taken = FeatureSums(K + 1, D, -1, torch.device("cpu"))
    taken.update(*features())
    with pytest.raises(ValueError, match="4"):
        start_behind_neck(nn.Linear(D, K + 1), taken, "error")
    means = start_behind_neck(nn.Linear(D, K + 1), taken, "mean").means
    torch.testing.assert_close(means[K], means[:K].mean(0))
