import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from etfhead.heads import ETFHead
from etfhead.losses import LDAMLoss, effective_number_weights, ldam, ldam_margins

COUNTS = [1296, 81, 16, 1]


def sample(B=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = 2 * torch.rand(B, 4, generator=generator, dtype=torch.float64) - 1
    return cosines, torch.randint(4, (B,), generator=generator)


def naive(cosines, labels, s, most):
    losses = []
    for row, y in zip(cosines.tolist(), labels.tolist(), strict=True):
        row[y] -= most * COUNTS[y] ** -0.25 / min(COUNTS) ** -0.25
        losses.append(math.log(sum(math.exp(s * (x - row[y])) for x in row)))
    return torch.tensor(losses, dtype=torch.float64)


def test_margins_are_those_of_the_paper():
    torch.testing.assert_close(
        ldam_margins(COUNTS, max_margin=0.6), torch.tensor([0.1, 0.2, 0.3, 0.6], dtype=torch.float64)
    )


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("most", [0.0, 0.5])
def test_equals_the_naive_loop(scale, most):
    cosines, labels = sample()
    expected = naive(cosines, labels, scale, most)
    options = {"scale": scale, "max_margin": most}
    logits = scale * cosines
    torch.testing.assert_close(ldam(logits, labels, COUNTS, reduction="none", **options), expected)
    torch.testing.assert_close(ldam(logits, labels, COUNTS, reduction="sum", **options), expected.sum())
    module = LDAMLoss(COUNTS, **options)
    torch.testing.assert_close(module(logits, labels), expected.mean())
    torch.testing.assert_close(module.eval()(logits, labels), cross_entropy(logits, labels))
    if most == 0:
        torch.testing.assert_close(expected.mean(), cross_entropy(logits, labels))


def test_weights_and_smoothing_are_those_of_torch():
    cosines, labels = sample()
    weight = effective_number_weights(COUNTS)
    moved = cosines.clone()
    moved[torch.arange(9), labels] -= ldam_margins(COUNTS)[labels]
    expected = cross_entropy(moved, labels, weight=weight.double(), label_smoothing=0.1)
    torch.testing.assert_close(ldam(cosines, labels, COUNTS, weight=weight, label_smoothing=0.1), expected)


def test_a_learnable_scale_gets_the_margins_gradient_and_stays_the_heads():
    head = ETFHead(8, 4, neck=None, normalize=True, scale=5.0, dtype=torch.float64)
    h, labels = torch.randn(9, 8, dtype=torch.float64), sample()[1]
    loss = LDAMLoss(COUNTS, scale=head.scale)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}

    def of_scale(s):
        cosines = torch.nn.functional.normalize(h, dim=1) @ head.frame.matrix().T
        return ldam(s * cosines, labels, COUNTS, scale=s)

    loss(head(h), labels).backward()
    s = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    of_scale(s).backward()
    torch.testing.assert_close(head.scale.grad, s.grad)
    assert torch.autograd.gradcheck(of_scale, (s,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_finite_and_float32(dtype):
    logits = torch.tensor([[30.0, -30.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = ldam(logits, torch.tensor([1]), COUNTS, scale=30.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


ZEROS, LABELS = torch.zeros(2, 4), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("target", "counts", "options", "message"),
    [
        (LABELS, [1, 2, 3, 0], {}, "class_counts=.*positive integers"),
        (LABELS, [1, 2, 3], {}, "class_counts: expected 4 numbers, one per class, got 3"),
        (LABELS, COUNTS, {"max_margin": -0.1}, "max_margin=-0.1"),
        (LABELS, COUNTS, {"scale": 0.0}, "scale=0.0: expected the head's scale"),
        (LABELS, COUNTS, {"scale": torch.ones(2)}, "scale=tensor"),
        (LABELS, COUNTS, {"reduction": "avg"}, "reduction='avg'"),
        (LABELS, COUNTS, {"label_smoothing": -1.0}, "label_smoothing=-1.0"),
        (ZEROS, COUNTS, {}, "target: expected integer classes.*a mixed target has no one margin"),
        (LABELS[:1], COUNTS, {}, r"target: expected integer classes \(2,\)"),
    ],
)
def test_bad_input(target, counts, options, message):
    with pytest.raises(ValueError, match=message):
        ldam(ZEROS, target, counts, **options)
