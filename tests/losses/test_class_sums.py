import math

import pytest
import torch

from etfhead.losses import _class_terms as kinds
from etfhead.losses._class_sums import class_sums

EXACT = {"rtol": 1e-10, "atol": 1e-10}
FLOOR = math.log(0.05)
FOCAL_LARGEST = -((1 - 0.05) ** 0.7) * FLOOR
WEIGHTS = torch.rand(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TERMS = {
    "log": (kinds.Log(), lambda p: p.log()),
    "gap": (kinds.Gap(FLOOR), lambda p: p.clamp(min=0.05).log() - FLOOR),
    "best": (kinds.Best(), lambda p: p.log().max(1, keepdim=True).values),
    "square": (kinds.Square(), lambda p: p * p),
    "entropy": (kinds.Entropy(), lambda p: p * p.log()),
    "weighed": (kinds.Weighed(WEIGHTS), lambda p: WEIGHTS * p.log()),
    "mixed": (kinds.Mixed(WEIGHTS, torch.arange(6).flip(0)), lambda p: WEIGHTS.flip(0) * p),
    "focal": (kinds.Focal(0.5), lambda p: (1 - p).sqrt() * p.log()),
    "focal_2": (kinds.Focal(2.0), lambda p: (1 - p) ** 2 * p.log()),
    "focal_above": (
        kinds.Focal(0.7, FLOOR, FOCAL_LARGEST),
        lambda p: (1 - p.clamp(min=0.05)) ** 0.7 * p.clamp(min=0.05).log() + FOCAL_LARGEST,
    ),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    soft = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (6,), generator=generator), soft


def every(*names):
    return pytest.mark.parametrize("names", [(name,) for name in TERMS] + [*names], ids="+".join)


@every(("gap", "log"), ("square", "log"), ("focal", "focal_above"))
@pytest.mark.parametrize("soft", [False, True])
def test_sums_and_gradients_are_those_of_plain_autograd(names, soft):
    logits, target, weights = batch()
    target = weights if soft else target
    given, naive = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    results = class_sums(given.log_softmax(1), target, *(TERMS[name][0] for name in names))
    p = naive.exp() / naive.exp().sum(1, keepdim=True)
    label = (target * p.log()).sum(1) if soft else p.log()[torch.arange(6), target]
    expected = (label, *(TERMS[name][1](p).sum(1) for name in names))
    torch.testing.assert_close(results, expected, **EXACT)
    pull = [torch.linspace(-1, 2 + i, 6, dtype=torch.float64) for i in range(len(results))]
    torch.autograd.backward(results, pull)
    torch.autograd.backward(expected, pull)
    torch.testing.assert_close(given.grad, naive.grad, **EXACT)


@every(("square", "log"))
def test_second_derivatives(names):
    logits, target, _ = batch()
    terms = [TERMS[name][0] for name in names]
    # Squares, so that the gradients of the results have gradients too.
    assert torch.autograd.gradgradcheck(
        lambda z: sum((x**2).sum() for x in class_sums(z.log_softmax(1), target, *terms)),
        (logits.requires_grad_(),),
    )


@every()
def test_what_autograd_takes_is_what_the_fast_pass_takes(names):
    (term, _) = TERMS[names[0]]
    log_p = batch()[0].log_softmax(1).requires_grad_()
    (gradient,) = torch.autograd.grad(term.values(log_p).sum(), log_p)
    torch.testing.assert_close(term.derivative(log_p).expand_as(log_p), gradient, **EXACT)
    with torch.no_grad():
        p = log_p.exp()
        fast, kept = term.sums(log_p, p, True)
        torch.testing.assert_close(fast, term.values(log_p).sum(1), **EXACT)
        slope = term.slope(log_p, p, kept, torch.ones(6, 1, dtype=torch.float64))
        if term.of_p:  # but for multiples of p
            slope, gradient = (x - p * x.sum(1, keepdim=True) for x in (slope, gradient))
    torch.testing.assert_close(slope.expand_as(log_p), gradient, **EXACT)


@pytest.mark.parametrize("name", ["square", "entropy", "mixed", "focal"])
def test_terms_of_probabilities_take_logits(name):
    logits, target, _ = batch()
    term = TERMS[name][0]
    logits, log_p = logits.requires_grad_(), logits.detach().log_softmax(1).requires_grad_()
    of_logits, of_log_p = class_sums(logits, target, term), class_sums(log_p, target, term)
    torch.testing.assert_close(of_logits, of_log_p, **EXACT)
    for results in (of_logits, of_log_p):
        sum(x.sum() for x in results).backward()
    torch.testing.assert_close(logits.grad, log_p.grad, **EXACT)
    # Far from zero, float32 loses no more than the rounding of the logits.
    near = torch.randint(-8, 8, (6, 5), generator=torch.Generator().manual_seed(0)).float()
    term = kinds.Mixed(WEIGHTS.float(), torch.arange(6)) if name == "mixed" else term
    torch.testing.assert_close(
        class_sums(near + 2.0**16, target, term), class_sums(near, target, term), rtol=0, atol=0
    )


def test_a_backward_pass_can_be_repeated():
    logits, target, _ = batch()
    logits.requires_grad_()
    own, total, squares = class_sums(logits.log_softmax(1), target, kinds.Log(), kinds.Square())
    loss = (own / total + squares).sum()
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_functional_gradients_and_evaluation():
    logits, target, _ = batch()

    def loss(z):
        own, entropy, total = class_sums(z.log_softmax(1), target, kinds.Focal(0.5), kinds.Log())
        return (own / total + entropy).sum()

    z = logits.clone().requires_grad_()
    loss(z).backward()
    torch.testing.assert_close(torch.func.grad(loss)(logits), z.grad, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(loss(z), loss(logits))


def test_a_tie_shares_the_gradient_of_the_largest():
    log_p = torch.zeros(1, 4).log_softmax(1).requires_grad_()
    _, best = class_sums(log_p, torch.tensor([0]), kinds.Best())
    best.sum().backward()
    assert (log_p.grad == 0.25).all()


def test_class_weights_may_learn():
    logits, _, weights = batch()
    weights.requires_grad_()
    log_p = logits.log_softmax(1)
    class_sums(log_p, weights, kinds.Square())[0].sum().backward()
    torch.testing.assert_close(weights.grad, log_p, **EXACT)


def test_a_certain_prediction_has_a_finite_focal_gradient():
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[80.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        own, total = class_sums(logits, torch.tensor([1]), kinds.Focal(0.5))
        (own / total).backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().max() < 2.0
