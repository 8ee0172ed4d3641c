import pytest
import torch
from torch.nn import functional as F

from etfhead.frames import SimplexFrame
from etfhead.losses import frame_cross_entropy
from etfhead.losses._one_block import one_block_losses
from etfhead.losses._sample_losses import sample_losses

WIDE = {"dtype": torch.float64}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("adjusted", [False, True])
def test_losses_and_gradients_are_those_of_torch(smoothing, weighted, adjusted):
    B, K, generator = 7, 5, torch.Generator().manual_seed(0)
    p = torch.randn(B, K, generator=generator, **WIDE).requires_grad_()
    s = torch.tensor([1.7], requires_grad=True, **WIDE)
    y = torch.randint(K, (B,), generator=generator)
    y[2] = -100
    w = torch.rand(K, generator=generator, **WIDE) if weighted else None
    c = torch.randn(K, generator=generator, **WIDE) if adjusted else None
    logits = p * s + (0 if c is None else c)
    expected = F.cross_entropy(logits, y, weight=w, label_smoothing=smoothing, reduction="none")
    counted, classes = (y != -100).double(), y.clamp(min=0)
    pull = (1 - smoothing) * counted * (1 if w is None else w[classes])
    spread = counted * smoothing / K if smoothing else None
    losses = one_block_losses(p, s, classes, pull, spread, w, c)
    torch.testing.assert_close(losses, expected)
    above = torch.randn(B, generator=generator, **WIDE)
    ours = torch.autograd.grad(losses, (p, s), above)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, (p, s), above))


@pytest.mark.parametrize(("basis", "sign"), [("identity", 1.0), ("hadamard", 1.0), ("hadamard", -1.0)])
def test_a_structured_simplex_goes_this_way_and_streams_to_the_same(basis, sign, monkeypatch):
    frame = SimplexFrame(200, 512, basis=basis)
    assert frame.structured
    x = torch.randn(6, 512, generator=torch.Generator().manual_seed(1), **WIDE).requires_grad_()
    y = torch.arange(6)
    scale = torch.tensor([3.0 * sign], requires_grad=True, **WIDE)
    options = {"scale": scale, "factors": frame.factors(), "with_prediction": True}
    streamed, _, best = sample_losses(x, y, frame, method="online", **options)
    before = torch.autograd.grad(streamed.sum(), (x, scale))
    monkeypatch.delattr("etfhead.losses._sample_losses.streamed_cross_entropy")
    losses, _, predictions = sample_losses(x, y, frame, **options)
    torch.testing.assert_close(losses, streamed)
    assert torch.equal(predictions, best)
    torch.testing.assert_close(torch.autograd.grad(losses.sum(), (x, scale)), before)


def test_refusals_are_those_of_the_streamed_loss():
    frame, x = SimplexFrame(8, 16, basis="identity"), torch.randn(3, 16, requires_grad=True)
    with pytest.raises(ValueError, match="target: expected classes from 0 to 7"):
        frame_cross_entropy(x, torch.tensor([0, 8, 1]), frame)
    loss = frame_cross_entropy(x, torch.arange(3), frame)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()
