"""What every loss for wrong labels has in common; limits and sums are in test_noise_identities."""

import pytest
import torch
from torch import nn

from etfhead import losses
from etfhead.losses._label_loss import LabelLoss
from tests.losses.noise_cases import CASES

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def batch(B, K, seed=0, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(B, K, generator=generator, dtype=torch.float64)
    target = torch.randint(K, (B,), generator=generator)
    soft = torch.rand(B, K, generator=generator, dtype=torch.float64)
    soft = soft * (soft > 0.3)  # some classes have no weight at all
    soft[:, 0] += 0.1
    return logits, target, soft / soft.sum(1, keepdim=True)


def cases(*names):
    chosen = [case for case in CASES if not names or case.name in names]
    return pytest.mark.parametrize("case", chosen, ids=repr)


@cases()
@pytest.mark.parametrize(("B", "K"), [(1, 2), (9, 5), (4, 17)])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_value_and_gradient_are_those_of_the_definition(case, B, K, soft):
    logits, target, weights = batch(B, K, seed=K)
    target = weights if soft else target
    given, naive = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = case.function(given, target, reduction="none", **case.options)
    expected = case.naive(naive, target)
    torch.testing.assert_close(value, expected, **EXACT)
    pull = torch.linspace(-1.0, 2.0, B, dtype=torch.float64)
    (value * pull).sum().backward()
    (expected * pull).sum().backward()
    torch.testing.assert_close(given.grad, naive.grad, **EXACT)


@cases()
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_gradcheck(case, soft):
    logits, target, weights = batch(3, 4, seed=7)
    target = weights if soft else target
    assert torch.autograd.gradcheck(
        lambda z: case.function(z, target, **case.options), (logits.requires_grad_(),)
    )


@cases()
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_second_derivatives(case, soft):
    logits, target, weights = batch(2, 3, seed=7)
    target = weights if soft else target
    logits.requires_grad_()

    def loss(z):
        # Its square, so that the gradient of the loss has a gradient too.
        return case.function(z, target, reduction="none", **case.options) ** 2

    if case.function is losses.bi_tempered:
        (gradient,) = torch.autograd.grad(loss(logits).sum(), logits, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()
    else:
        assert torch.autograd.gradgradcheck(loss, (logits,))


@cases()
def test_reductions_and_the_module_agree(case):
    logits, target, soft = batch(6, 3)
    # The dummy batch a module tries its options on has 2 classes.
    for labels in (target, target.int(), target.to(torch.uint8), soft, soft.float()):
        each = case.function(logits, labels, reduction="none", **case.options)
        assert each.shape == (6,)
        for reduction, expected in (("none", each), ("mean", each.mean()), ("sum", each.sum())):
            module = case.module(reduction=reduction, **case.options)
            torch.testing.assert_close(module(logits, labels), expected)
            torch.testing.assert_close(
                case.function(logits, labels, reduction=reduction, **case.options), expected
            )
        assert module.state_dict() == {}
        assert list(module.parameters()) == []


@cases()
def test_a_one_hot_label_is_the_class(case):
    logits, target, _ = batch(6, 4)
    hot = nn.functional.one_hot(target, 4).double()
    torch.testing.assert_close(
        case.function(logits, hot, **case.options), case.function(logits, target, **case.options), **EXACT
    )


@cases()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_finite_for_huge_logits(case, dtype, soft):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]]).to(dtype).requires_grad_()
    rows = []
    for y in range(3):
        target = torch.full((3,), y)
        if soft:
            target = 0.5 * nn.functional.one_hot(target, 3).float() + 0.5 / 3
        with torch.autocast("cpu", torch.bfloat16):
            loss = case.function(logits, target, reduction="none", **case.options)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        loss.sum().backward()
        assert logits.grad.isfinite().all()
        rows.append(loss)
    if not soft and not case.of_logits:  # the right label is never the worst one
        assert rows[0][0] <= min(rows[1][0], rows[2][0])


@cases()
def test_autocast_changes_nothing(case):
    logits, target, soft = batch(5, 4)
    narrow = logits.bfloat16()
    for labels in (target, soft.float()):
        with torch.autocast("cpu", torch.bfloat16):
            value = case.function(narrow, labels, **case.options)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, case.function(narrow.float(), labels, **case.options))


@cases()
def test_shifting_all_logits_changes_nothing(case):
    if case.name == "dot":
        pytest.skip("no softmax")
    logits, target, _ = batch(5, 4)
    torch.testing.assert_close(
        case.function(logits + 30.0, target, **case.options), case.function(logits, target, **case.options)
    )


@cases("ls", "lr", "gce_cut", "nfl", "nnce", "apl", "anl", "boot_hard", "phuber", "js", "dot")
def test_compiles_without_a_break(case):
    torch.compiler.reset()
    logits, target, _ = batch(5, 4)
    module = case.module(**case.options)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), module(logits, target))


@cases()
def test_empty_batches_have_an_empty_loss(case):
    loss = case.function(
        torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), reduction="none", **case.options
    )
    assert loss.shape == (0,)


ZEROS, CLASSES = torch.zeros(2, 3), torch.tensor([0, 1])


@cases()
@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (torch.zeros(3), CLASSES, {}, "logits: expected"),
        (torch.zeros(2, 3, dtype=torch.long), CLASSES, {}, "logits: expected floats"),
        (torch.zeros(2, 1), CLASSES, {}, "logits: expected"),
        (ZEROS, torch.tensor([0, 1, 2]), {}, r"target: expected integer classes \(2,\)"),
        (ZEROS, torch.tensor([0.0, 1.0]), {}, "target: expected"),
        (ZEROS, torch.zeros(2, 4), {}, r"float class weights \(2, 3\)"),
        (ZEROS, torch.zeros(2, 3, dtype=torch.long), {}, "target: expected"),
        (ZEROS, torch.tensor([True, False]), {}, "target: expected"),
        (ZEROS, torch.tensor([0, 3]), {}, "expected classes from 0 to 2, got 0 to 3"),
        (ZEROS, torch.tensor([-100, 1]), {}, "expected classes from 0 to 2, got -100 to 1"),
        (ZEROS, CLASSES, {"reduction": "avg"}, "reduction='avg'"),
    ],
)
def test_bad_batches(case, logits, target, options, message):
    with pytest.raises(ValueError, match=message):
        case.function(logits, target, **{**case.options, **options})


BAD = [
    ("LabelSmoothingCrossEntropyLoss", {"label_smoothing": 1.5}),
    ("LabelSmoothingCrossEntropyLoss", {"label_smoothing": float("nan")}),
    ("LabelRelaxationLoss", {"alpha": 1.0}),
    ("LabelRelaxationLoss", {"alpha": -0.1}),
    ("GeneralizedCrossEntropyLoss", {"q": 1.5}),
    ("GeneralizedCrossEntropyLoss", {"truncation": 0.0}),
    ("ReverseCrossEntropyLoss", {"log_zero": 0.0}),
    ("SymmetricCrossEntropyLoss", {"alpha": -1.0}),
    ("SymmetricCrossEntropyLoss", {"log_zero": 4.0}),
    ("NormalizedCrossEntropyLoss", {"gamma": -0.5}),
    ("NormalizedNegativeLoss", {"min_prob": 0.5}),
    ("AsymmetricGeneralizedCrossEntropyLoss", {"a": 0.0}),
    ("AsymmetricUnhingedLoss", {"a": 1.0}),
    ("AsymmetricUnhingedLoss", {"q": 0.0}),
    ("AsymmetricExponentialLoss", {"a": -1.0}),
    ("AsymmetricMeanSquareLoss", {"a": 0.5}),
    ("ActivePassiveLoss", {"beta": -1.0}),
    ("ActivePassiveLoss", {"active": nn.CrossEntropyLoss()}),
    ("ActivePassiveLoss", {"passive": losses.ETFDotLoss()}),
    ("ActiveNegativeLoss", {"entropy": -1.0}),
    ("JointAsymmetricLoss", {"alpha": -1.0}),
    ("BootstrappingLoss", {"mode": "firm"}),
    ("BootstrappingLoss", {"beta": 2.0}),
    ("TaylorCrossEntropyLoss", {"order": 0}),
    ("TaylorCrossEntropyLoss", {"order": 2.0}),
    ("HuberizedCrossEntropyLoss", {"tau": 1.0}),
    ("PolyCrossEntropyLoss", {"epsilon": -2.0}),
    ("BiTemperedLoss", {"t1": 1.2}),
    ("BiTemperedLoss", {"t2": 0.9}),
    ("JensenShannonLoss", {"weights": (0.5, 0.6)}),
    ("JensenShannonLoss", {"weights": (1.0,)}),
    ("ETFDotLoss", {"target_logit": 0.0}),
    ("GeneralizedCrossEntropyLoss", {"reduction": "avg"}),
    ("JensenShannonLoss", {"reduction": "avg"}),
    ("ActivePassiveLoss", {"reduction": "avg"}),
]


@pytest.mark.parametrize(("name", "options"), BAD)
def test_bad_options_are_named_when_the_module_is_made(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        getattr(losses, name)(**options)


def test_every_loss_of_labels_is_a_case():
    def below(kind):
        return {kind} | {found for child in kind.__subclasses__() for found in below(child)}

    tested = {case.module for case in CASES} | {losses.ForwardCorrectionLoss, losses.BackwardCorrectionLoss}
    public = {getattr(losses, name) for name in losses.__all__}
    assert below(LabelLoss) & public == tested
