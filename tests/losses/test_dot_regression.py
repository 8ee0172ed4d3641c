import pytest
import torch

from etfhead.heads import ETFHead
from etfhead.losses import DotRegressionLoss, dot_regression


def naive(logits, labels, target_logit=1.0, balanced=False):
    """Written from the definition, one sample at a time."""
    losses = []
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        losses.append(0.5 * (row[y] / target_logit - 1.0) ** 2)
    if balanced:
        counts = {y: labels.tolist().count(y) for y in labels.tolist()}
        B, U = len(losses), len(counts)
        losses = [loss * B / (U * counts[y]) for loss, y in zip(losses, labels.tolist(), strict=True)]
    return losses


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("target_logit", [1.0, 6.2])
@pytest.mark.parametrize(("B", "K"), [(1, 2), (7, 3), (64, 10)])
def test_equals_the_naive_loop(B, K, target_logit, balanced):
    generator = torch.Generator().manual_seed(B)
    logits = torch.randn(B, K, generator=generator, dtype=torch.float64)
    labels = torch.randint(K, (B,), generator=generator)
    options = {"target_logit": target_logit, "class_balanced": balanced}
    expected = torch.tensor(naive(logits, labels, target_logit, balanced), dtype=torch.float64)
    torch.testing.assert_close(dot_regression(logits, labels, reduction="none", **options), expected)
    torch.testing.assert_close(dot_regression(logits, labels, reduction="sum", **options), expected.sum())
    torch.testing.assert_close(DotRegressionLoss(**options)(logits, labels), expected.mean())


@pytest.mark.parametrize("balanced", [False, True])
def test_one_hot_targets_equal_class_indices_and_the_loss_is_linear_in_mixup_weights(balanced):
    logits = torch.randn(6, 4)
    labels = torch.tensor([0, 1, 1, 3, 3, 3])
    hot = torch.nn.functional.one_hot(labels, 4).float()
    loss = DotRegressionLoss(class_balanced=balanced)
    torch.testing.assert_close(loss(logits, hot), loss(logits, labels))
    if not balanced:
        mixed = 0.3 * hot + 0.7 * hot.flip(0)
        torch.testing.assert_close(
            loss(logits, mixed), 0.3 * loss(logits, hot) + 0.7 * loss(logits, hot.flip(0))
        )


def test_class_balance_gives_every_present_class_the_same_say():
    logits = torch.zeros(5, 3)
    losses = dot_regression(logits, torch.tensor([0, 0, 0, 0, 2]), class_balanced=True, reduction="none")
    torch.testing.assert_close(losses[:4].sum(), losses[4])
    torch.testing.assert_close(losses.mean(), torch.tensor(0.5))


def test_gradient_pulls_along_the_class_vector_only():
    # Yang et al. 2022: dL/dh = -(1 - cos) m_y, projected on the sphere's tangent by the normalisation.
    head = ETFHead(16, 4, neck=None, normalize=True, scale=1.0, learn_scale=False, dtype=torch.float64)
    h = torch.nn.functional.normalize(torch.randn(1, 16, dtype=torch.float64), dim=1).requires_grad_()
    dot_regression(head(h), torch.tensor([2])).backward()
    m = head.frame.matrix()[2]
    cosine = (h[0] @ m).detach()
    pull = -(1 - cosine) * m
    torch.testing.assert_close(h.grad[0], pull - (pull @ h[0].detach()) * h[0].detach())


def test_gradcheck():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 1, 0])
    assert torch.autograd.gradcheck(lambda z: dot_regression(z, labels, class_balanced=True), (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_summed_in_float32(dtype):
    loss = dot_regression(
        torch.full((70_000, 2), -3.0, dtype=dtype), torch.zeros(70_000, dtype=torch.long), reduction="sum"
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(560_000)  # fp16 ends at 65,504


@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long), {}, r"logits: expected shape \(B, K\)"),
        (torch.zeros(2, 3), torch.zeros(2), {}, r"target: expected integer classes \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), {}, "target"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), {"reduction": "avg"}, "reduction='avg'"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), {"target_logit": 0.0}, "target_logit=0.0"),
    ],
)
def test_bad_input(logits, target, options, message):
    with pytest.raises(ValueError, match=message):
        dot_regression(logits, target, **options)
