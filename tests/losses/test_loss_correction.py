import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from etfhead.losses import (
    BackwardCorrectionLoss,
    ForwardCorrectionLoss,
    backward_correction,
    estimate_transition,
    forward_correction,
)
from etfhead.losses.loss_correction import _of_logarithms as of_logarithms

EXACT = {"rtol": 1e-10, "atol": 1e-10}
PAIRS = [(forward_correction, ForwardCorrectionLoss), (backward_correction, BackwardCorrectionLoss)]


def sample(B=12, K=5, seed=0, zeros=True):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    T = torch.rand(K, K, generator=generator, dtype=torch.float64)
    if zeros:
        T = T * (T > 0.4)
    T = T + torch.eye(K, dtype=torch.float64)
    soft = torch.rand(B, K, generator=generator, dtype=torch.float64)
    return (
        logits,
        torch.randint(K, (B,), generator=generator),
        soft / soft.sum(1, keepdim=True),
        T / T.sum(1, keepdim=True),
    )


def naive(function, logits, target, T):
    """One number after another, from the definitions."""
    inverse = torch.linalg.inv(T)
    rows = []
    for z, y in zip(logits, target, strict=True):
        p = z.exp() / z.exp().sum()
        if function is forward_correction:
            each = [-torch.log(sum(p[i] * T[i, j] for i in range(len(p)))) for j in range(len(p))]
        else:
            each = [-sum(inverse[j, i] * p[i].log() for i in range(len(p))) for j in range(len(p))]
        rows.append(each[int(y)] if target.ndim == 1 else sum(y[j] * each[j] for j in range(len(p))))
    return torch.stack(rows)


@pytest.mark.parametrize(("function", "module"), PAIRS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("K", [2, 5])
def test_value_and_gradient_are_those_of_the_definition(function, module, soft, K):
    logits, target, weights, T = sample(K=K)
    target = weights if soft else target
    given, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, reference = function(given, target, T, reduction="none"), naive(function, expected, target, T)
    torch.testing.assert_close(value, reference, **EXACT)
    value.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, **EXACT)
    for reduction, total in (("none", reference), ("mean", reference.mean()), ("sum", reference.sum())):
        torch.testing.assert_close(module(T, reduction=reduction)(logits, target), total)
        torch.testing.assert_close(function(logits, target, T, reduction=reduction), total)
    assert torch.autograd.gradcheck(lambda z: function(z, target, T), (logits.requires_grad_(),))


@pytest.mark.parametrize(("function", "module"), PAIRS)
def test_without_noise_it_is_cross_entropy(function, module):
    logits, target, soft, _ = sample()
    for labels in (target, soft):
        torch.testing.assert_close(
            function(logits, labels, torch.eye(5), reduction="none"),
            cross_entropy(logits, labels, reduction="none"),
            **EXACT,
        )


def test_backward_correction_is_unbiased_and_forward_keeps_the_minimiser():
    logits, _, _, T = sample(B=6)
    true = torch.arange(6) % 5
    over_labels = torch.stack(
        [backward_correction(logits, torch.full((6,), j), T, reduction="none") for j in range(5)], 1
    )
    torch.testing.assert_close(
        (T[true] * over_labels).sum(1), cross_entropy(logits, true, reduction="none"), **EXACT
    )
    # With labels as the noise makes them, no gradient is left at the clean posterior.
    p = torch.softmax(logits, 1)
    start = p.log().requires_grad_()
    forward_correction(start, p @ T, T, reduction="sum").backward()
    torch.testing.assert_close(start.grad, torch.zeros_like(start), **EXACT)


@pytest.mark.parametrize(("function", "module"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("soft", [False, True])
def test_finite_and_float32_for_huge_logits_in_autocast(function, module, dtype, soft):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]]).to(dtype).requires_grad_()
    T = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    target = torch.tensor([1, 0, 2])
    labels = 0.7 * one_hot(target, 3) + 0.1 if soft else target
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(T)(logits, labels)
    assert loss.dtype == torch.float32
    expected = function(logits.detach().double(), labels.double() if soft else labels, T.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-3)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_classes_by_logarithms_as_on_a_gpu():
    logits, target, _, T = sample()
    logits[1] *= 1000  # where probabilities underflow
    wide = logits.clone().requires_grad_()
    expected = forward_correction(wide, target, T, reduction="none")
    given = logits.clone().requires_grad_()
    found = of_logarithms(given, T.T[target].log())
    torch.testing.assert_close(found, expected, **EXACT)
    pull = torch.linspace(-1.0, 2.0, len(target), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(found, given, pull)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, wide, pull)[0], **EXACT)
    assert torch.autograd.gradgradcheck(
        lambda z: of_logarithms(z, T.T[target].log()) ** 2, (sample()[0].requires_grad_(),)
    )


def test_soft_labels_that_underflow_have_the_gradient_of_logarithms():
    # In float64 too e^-2000 is 0: these pairs go the way of logarithms.
    logits = torch.tensor([[0.0, -2000.0, -2001.0]], dtype=torch.float64, requires_grad=True)
    T = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.4], [0.0, 0.3, 0.7]], dtype=torch.float64)
    soft = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    value = forward_correction(logits, soft, T)
    hard = sum(soft[0, j] * forward_correction(logits, torch.tensor([j]), T) for j in range(3))
    torch.testing.assert_close(value, hard, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (value, hard)), **EXACT)


@pytest.mark.parametrize("function", [forward_correction, backward_correction])
def test_soft_labels_may_learn(function):
    T = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = torch.rand_like(logits).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, y: function(z, y, T), (logits.requires_grad_(), soft))


def test_a_class_nobody_is_taken_for_needs_no_weight():
    T = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = forward_correction(logits, torch.tensor([[1.0, 0.0]], dtype=torch.float64), T)
    loss.backward()
    assert loss.item() == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_label_that_no_class_leads_to_has_an_infinite_loss(compiled):
    torch.compiler.reset()
    loss = ForwardCorrectionLoss(
        torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.5, 0.5, 0.0]]), reduction="none"
    )
    logits, target = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]]).requires_grad_(), torch.tensor([2, 1])
    given = torch.compile(loss, backend="aot_eager", fullgraph=True) if compiled else loss
    found = given(logits, target)
    torch.testing.assert_close(found, torch.stack([torch.tensor(torch.inf), loss(logits[1:], target[1:])[0]]))
    assert torch.autograd.grad(found[1], logits)[0][1].isfinite().all()


def test_the_matrix_moves_with_the_module_and_stays_out_of_the_state_dict():
    for _, module in PAIRS:
        loss = module(torch.eye(3)).double()
        assert loss.matrix.dtype == torch.float64
        assert loss.state_dict() == {}
        assert "num_classes=3" in repr(loss)


def test_a_transition_is_estimated_from_the_surest_samples():
    _, _, _, T = sample(zeros=False)
    # Some samples are certain of their class, so their noisy posterior is a row of T.
    generator = torch.Generator().manual_seed(1)
    blurred = torch.softmax(torch.randn(200, 5, generator=generator, dtype=torch.float64), 1)
    posterior = torch.cat([blurred, torch.eye(5, dtype=torch.float64)]) @ T
    assert (posterior.argmax(0) >= 200).all()
    torch.testing.assert_close(estimate_transition(posterior), T)
    ranked = posterior[:, 2].sort().values
    at = estimate_transition(posterior, quantile=0.97)[2, 2]
    assert at == pytest.approx(ranked[int(-(-0.97 * 205 // 1)) - 1].item())
    torch.testing.assert_close(
        estimate_transition(posterior.float()).sum(1), torch.ones(5, dtype=torch.float64)
    )


SINGULAR = torch.tensor([[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ForwardCorrectionLoss(torch.ones(2, 3)), r"transition: expected floats of shape \(K, K\)"),
        (lambda: ForwardCorrectionLoss(torch.eye(2).long()), "transition: expected floats"),
        (lambda: ForwardCorrectionLoss(0.9 * torch.eye(2)), "row 0 sums to 0.9"),
        (lambda: ForwardCorrectionLoss(torch.tensor([[1.5, -0.5], [0.0, 1.0]])), "transition: expected rows"),
        (lambda: BackwardCorrectionLoss(SINGULAR), "no useful inverse"),
        (lambda: backward_correction(torch.zeros(1, 2), torch.tensor([0]), SINGULAR), "no useful inverse"),
        (
            lambda: ForwardCorrectionLoss(torch.eye(3))(torch.zeros(1, 2), torch.tensor([0])),
            "one row for each of the 2",
        ),
        (lambda: ForwardCorrectionLoss(torch.eye(3), reduction="avg"), "reduction='avg'"),
        (lambda: estimate_transition(torch.ones(3)), "probabilities: expected floats"),
        (lambda: estimate_transition(torch.ones(3, 2)), "probabilities: expected rows"),
        (lambda: estimate_transition(torch.eye(2), quantile=0.0), "quantile=0.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert ForwardCorrectionLoss(SINGULAR)(torch.zeros(1, 2), torch.tensor([0])) > 0
