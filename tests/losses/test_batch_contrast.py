"""NTCE and NONL against loops over features and class vectors, and where naive exponentials break."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from etfhead.heads import CosineHead, ETFHead
from etfhead.losses import NONLLoss, NTCELoss, nonl, ntce


def sample(B=9, K=4, seed=0, tau=0.3):
    generator = torch.Generator().manual_seed(seed)
    h = normalize(torch.randn(B, 5, generator=generator, dtype=torch.float64))
    w = normalize(torch.randn(K, 5, generator=generator, dtype=torch.float64))
    return h, w, torch.randint(K, (B,), generator=generator), h @ w.T / tau


def naive_ntce(h, w, y, tau=0.3):
    losses = []
    for i in range(len(h)):
        all_of_them = sum(math.exp(w[y[i]] @ h[j] / tau) for j in range(len(h)))
        losses.append(-math.log(math.exp(w[y[i]] @ h[i] / tau) / all_of_them))
    return torch.tensor(losses, dtype=torch.float64)


def naive_nonl(h, w, y, negatives, tau=0.3):
    losses = []
    for i in range(len(h)):
        samples = sum(math.exp(w[y[i]] @ h[j] / tau) for j in range(len(h)) if y[j] != y[i])
        classes = sum(math.exp(w[k] @ h[i] / tau) for k in range(len(w)) if k != y[i])
        bottom = {"samples": samples, "classes": classes, "both": samples + classes}[negatives]
        losses.append(-math.log(math.exp(w[y[i]] @ h[i] / tau) / bottom))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("K", [2, 4, 20])
def test_ntce_equals_the_naive_loop(K):
    h, w, y, z = sample(K=K)
    expected = naive_ntce(h, w, y)
    torch.testing.assert_close(ntce(z, y, reduction="none"), expected)
    torch.testing.assert_close(ntce(z, y, reduction="sum"), expected.sum())
    torch.testing.assert_close(NTCELoss()(z, y), expected.mean())
    torch.testing.assert_close(NTCELoss().eval()(z, y), cross_entropy(z, y))


@pytest.mark.parametrize("negatives", ["samples", "classes", "both"])
@pytest.mark.parametrize("K", [2, 4, 20])
def test_nonl_equals_the_naive_loop(K, negatives):
    h, w, y, z = sample(K=K)
    expected = naive_nonl(h, w, y, negatives)
    options = {"negatives": negatives}
    torch.testing.assert_close(nonl(z, y, reduction="none", **options), expected)
    torch.testing.assert_close(nonl(z, y, reduction="sum", **options), expected.sum())
    torch.testing.assert_close(NONLLoss(**options)(z, y), expected.mean())
    torch.testing.assert_close(NONLLoss(**options).eval()(z, y), cross_entropy(z, y))


def test_one_sample_a_class_makes_ntce_the_cross_entropy_of_the_other_axis():
    z = torch.randn(6, 6, dtype=torch.float64)
    y = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ntce(z, y), cross_entropy(z[y.argsort()].T, torch.arange(6)))


@pytest.mark.parametrize("loss", [ntce, nonl, lambda z, y: nonl(z, y, negatives="both")])
def test_gradcheck_also_with_a_class_without_negatives(loss):
    _, _, y, z = sample()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), (z.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.ones(9, dtype=torch.long)), (z,))


def test_a_batch_of_one_class_only_pulls():
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    loss = nonl(z, torch.full((5,), 1))
    torch.testing.assert_close(loss, -z[:, 1].mean())
    loss.backward()
    assert z.grad.isfinite().all()
    assert torch.equal(z.grad[:, 1], torch.full((5,), -0.2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [ntce, nonl, lambda z, y: nonl(z, y, negatives="both")])
def test_finite_where_exponentials_overflow(loss, dtype):
    z = (
        (200 * torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0], [0.0, 1.0, -1.0]]))
        .to(dtype)
        .requires_grad_()
    )
    y = torch.tensor([0, 1, 1])
    value = loss(z, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), loss(z.detach().double(), y), rtol=1e-6, atol=1e-5)
    value.backward()
    assert z.grad.isfinite().all()


def test_nonl_is_bounded_by_the_scale_and_its_pull_never_fades():
    y = torch.tensor([0, 1])
    best = 10.0 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    best.retain_grad()
    loss = nonl(best, y)
    assert loss.item() == pytest.approx(-20.0)
    loss.backward()
    torch.testing.assert_close(best.grad, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))


@pytest.mark.parametrize("criterion", [NTCELoss(), NONLLoss()])
@pytest.mark.parametrize(
    "head",
    [
        ETFHead(5, 4, neck=None, normalize=True, scale=8.0, learn_scale=False),
        CosineHead(5, 4, neck=None, scale=8.0, learn_scale=False),
    ],
    ids=["fixed", "learnable"],
)
def test_fixed_and_learnable_class_vectors(head, criterion):
    h, y = torch.randn(9, 5, requires_grad=True), sample()[2]
    loss = criterion(head(h), y)
    z = 8.0 * normalize(h, dim=1) @ head.class_vectors().T
    expected = ntce(z, y) if isinstance(criterion, NTCELoss) else nonl(z, y)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert h.grad.abs().sum() > 0
    assert list(criterion.parameters()) == []
    assert all(p.grad is not None for p in head.parameters())


ZEROS, LABELS = torch.zeros(2, 4), torch.tensor([0, 3])


@pytest.mark.parametrize("loss", [ntce, nonl])
@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (ZEROS[0], LABELS, {}, "logits: expected floats"),
        (ZEROS.long(), LABELS, {}, "logits: expected floats"),
        (ZEROS, ZEROS, {}, "target: expected integer classes.*mixed"),
        (ZEROS, LABELS[:1], {}, r"target: expected integer classes \(2,\)"),
        (ZEROS, LABELS, {"reduction": "avg"}, "reduction='avg'"),
    ],
)
def test_bad_input(loss, logits, target, options, message):
    with pytest.raises(ValueError, match=message):
        loss(logits, target, **options)


def test_unknown_negatives():
    with pytest.raises(ValueError, match="negatives='rows': expected 'samples', 'classes' or 'both'"):
        nonl(ZEROS, LABELS, negatives="rows")
