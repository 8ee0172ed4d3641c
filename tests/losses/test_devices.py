"""Every loss on the CPU and on a GPU, in each precision, beside itself in float64 on the CPU."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from etfhead import losses as L
from tests.devices import compiles, devices, on_gpu
from tests.losses.noise_cases import CASES

B, K = 12, 7
COUNTS = [40, 1, 300, 7, 7, 90, 5]
REDUCTIONS = ("none", "mean", "sum")
WHOLE_NUMBERS = [torch.int64, torch.int32, torch.uint8]

halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def batch(seed=0, size=2.0, classes=K):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(B, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (B,), generator=generator)
    soft = torch.rand(B, classes, generator=generator, dtype=torch.float64)
    soft = soft * (soft > 0.3)
    soft[:, 0] += 0.1
    return logits, target, soft / soft.sum(1, keepdim=True)


def transition():
    rows = torch.rand(K, K, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = 0.3 * rows / rows.sum(1, keepdim=True)
    return rows + 0.7 * torch.eye(K, dtype=torch.float64)


def class_weight():
    return torch.linspace(0.5, 2.0, K, dtype=torch.float64)


def memory():
    return torch.softmax(torch.randn(B, K, generator=torch.Generator().manual_seed(6)).double(), 1)


def by_case(case):
    return lambda reduction: case.module(reduction=reduction, **case.options)


class OfMemory(nn.Module):
    """A function of logits, targets and tensors that move with the module."""

    def __init__(self, function, reduction, *tensors):
        super().__init__()
        self.function, self.reduction = function, reduction
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{number}", tensor)

    def forward(self, logits, target):
        return self.function(logits, target, *self.buffers(), reduction=self.reduction)


# How to make each loss for a reduction, and which labels it takes.
LOSSES = {case.name: (by_case(case), "both") for case in CASES} | {
    "forward": (lambda r: L.ForwardCorrectionLoss(transition(), reduction=r), "both"),
    "backward": (lambda r: L.BackwardCorrectionLoss(transition(), reduction=r), "both"),
    "forward_function": (lambda r: OfMemory(L.forward_correction, r, transition()), "both"),
    "backward_function": (lambda r: OfMemory(L.backward_correction, r, transition()), "both"),
    "clip": (lambda r: L.LogitClipLoss(nn.CrossEntropyLoss(reduction=r), max_norm=2.0), "both"),
    "anl_entropy": (lambda r: L.ActiveNegativeLoss(entropy=2.0, reduction=r), "both"),
    "ntce": (lambda r: L.NTCELoss(reduction=r), "hard"),
    "nonl_samples": (lambda r: L.NONLLoss(negatives="samples", reduction=r), "hard"),
    "nonl_classes": (lambda r: L.NONLLoss(negatives="classes", reduction=r), "hard"),
    "nonl_both": (lambda r: L.NONLLoss(negatives="both", reduction=r), "hard"),
    "dot_regression": (lambda r: L.DotRegressionLoss(3.0, reduction=r), "both"),
    "dot_regression_balanced": (lambda r: L.DotRegressionLoss(3.0, True, reduction=r), "both"),
    "squared_error": (lambda r: L.SquaredErrorLoss(reduction=r), "both"),
    "adjusted": (lambda r: L.LogitAdjustedLoss(COUNTS, label_smoothing=0.1, reduction=r), "both"),
    "ldam": (
        lambda r: L.LDAMLoss(COUNTS, scale=8.0, weight=class_weight(), label_smoothing=0.1, reduction=r),
        "hard",
    ),
    "early_learning": (lambda r: OfMemory(L.early_learning_regularization, r, memory()), "both"),
    "overparametrization": (
        lambda r: OfMemory(L.sparse_overparametrization, r, 0.4 * memory()[:, 0], 0.6 * memory()),
        "hard",
    ),
    "pick_all": (
        lambda r: L.PickAllLabelLoss(normalize=True, label_smoothing=0.1, weight=class_weight(), reduction=r),
        "sets",
    ),
}
LABELS = [
    (name, labels)
    for name, (_, takes) in LOSSES.items()
    for labels in (("hard", "soft") if takes == "both" else (takes,))
]
every_loss = pytest.mark.parametrize(("name", "labels"), LABELS, ids=[f"{n}-{k}" for n, k in LABELS])


def labels_of(labels, target, soft):
    return {"hard": target, "soft": soft, "sets": soft > 0.2}[labels]


def value_and_gradient(loss, logits, target):
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    pull = torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64).view(value.shape).to(value)
    return value, torch.autograd.grad(value, logits, pull)[0]


def assert_same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double().cpu(), b.double().cpu(), rtol=tolerance, atol=tolerance)


@devices
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-9)], ids=["float32", "float64"]
)
@every_loss
def test_value_and_gradient_are_those_of_float64_on_the_cpu(name, labels, dtype, tolerance, device):
    make, _ = LOSSES[name]
    logits, target, soft = batch(seed=len(name))
    target = labels_of(labels, target, soft)
    for reduction in REDUCTIONS:
        expected = value_and_gradient(make(reduction).double(), logits, target)
        moved = target.to(device, dtype) if target.is_floating_point() else target.to(device)
        value, gradient = value_and_gradient(
            make(reduction).to(device, dtype), logits.to(device, dtype), moved
        )
        assert value.device.type == gradient.device.type == device
        assert value.dtype == gradient.dtype == dtype
        assert_same((value, gradient), expected, tolerance)


@devices
@pytest.mark.parametrize("dtype", WHOLE_NUMBERS, ids=str)
def test_targets_of_any_whole_number(dtype, device):
    logits, target, _ = batch()
    for name, (make, takes) in LOSSES.items():
        if takes != "sets" and name != "clip":  # it holds torch's own loss, which takes int64
            loss = make("none").to(device, torch.float64)
            found = loss(logits.to(device), target.to(device, dtype))
            torch.testing.assert_close(found.cpu(), make("none").double()(logits, target), msg=name)


@devices
@halves
@pytest.mark.parametrize("size", [2.0, 1e4])
@every_loss
def test_autocast_gives_finite_float32(name, labels, size, dtype, device):
    if size > 100 and name.startswith(("dot_regression", "squared_error")):
        pytest.skip("a square has no upper end; float32 holds it, the gradient's half type does not")
    logits, target, soft = batch(size=size)
    target = labels_of(labels, target, soft)
    loss = LOSSES[name][0]("none").to(device)
    narrow = logits.clamp(-6e4, 6e4).to(device, dtype).requires_grad_()
    with torch.autocast(device, dtype=dtype):
        moved = target.float().to(device) if target.is_floating_point() else target.to(device)
        value = loss(narrow, moved)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.mean(), narrow)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    if size < 100:
        exact = LOSSES[name][0]("none").double()(narrow.detach().double().cpu(), target)
        torch.testing.assert_close(value.double().cpu(), exact, rtol=1e-4, atol=1e-4)


@devices
@every_loss
def test_a_batch_of_no_samples(name, labels, device):
    if name.startswith(("ntce", "nonl", "overparametrization", "early_learning")):
        pytest.skip("needs a sample")
    logits, target, soft = batch()
    target = labels_of(labels, target, soft)[:0].to(device)
    for reduction in ("none", "sum"):
        loss = LOSSES[name][0](reduction).to(device, torch.float64)
        value, gradient = value_and_gradient(loss, logits[:0].to(device), target)
        assert value.shape == ((0,) if reduction == "none" else ())
        assert value.sum() == 0
        assert gradient.shape == (0, K)
    assert LOSSES[name][0]("mean").to(device, torch.float64)(logits[:0].to(device), target).isnan()


@devices
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_several_views(labels, device):
    _, target, soft = batch()
    target = labels_of(labels, target, soft)
    views = torch.stack([batch(seed=seed)[0] for seed in (1, 2)])
    for reduction in REDUCTIONS:
        loss = L.JensenShannonLoss((0.5, 0.25, 0.25), reduction=reduction)
        expected = value_and_gradient(loss, views, target)
        moved = target.to(device, torch.float32) if labels == "soft" else target.to(device)
        assert_same(value_and_gradient(loss, views.to(device, torch.float32), moved), expected, 3e-5)


@devices
def test_label_sets_in_every_form(device):
    logits, _, soft = batch()
    hot = soft > 0.2
    lists = [row.nonzero().flatten() for row in hot]
    padded = nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
    assert padded.shape[1] != K
    expected = L.pick_all_label(logits, hot)
    on_device = logits.to(device)
    for form in (hot, hot.float(), padded, [row.to(device) for row in lists]):
        moved = form.to(device) if isinstance(form, torch.Tensor) else form
        torch.testing.assert_close(L.pick_all_label(on_device, moved).cpu(), expected)
    # Lists come from the loader as numbers, the class weights from a file.
    found = L.pick_all_label(on_device, [row.tolist() for row in lists], weight=class_weight())
    torch.testing.assert_close(found.cpu(), L.pick_all_label(logits, hot, weight=class_weight()))


@devices
def test_margins_follow_a_scale_that_learns_on_the_device(device):
    logits, target, _ = batch()
    results = []
    for place in ("cpu", device):
        scale = nn.Parameter(torch.tensor([6.0], dtype=torch.float64, device=place))
        loss = L.LDAMLoss(torch.tensor(COUNTS, device=place), scale=scale).to(place)
        value = loss(logits.to(place), target.to(place))
        results.append((value, *torch.autograd.grad(value, scale)))
    assert_same(results[1], results[0], 1e-10)


@devices
def test_class_counts_on_the_device_count_the_same(device):
    counts = torch.tensor(COUNTS, device=device)
    for function in (L.effective_number_weights, L.ldam_margins, L.log_prior):
        torch.testing.assert_close(function(counts), function(COUNTS))
    logits = batch()[0]
    found = L.adjust_logits(logits.to(device), counts, tau=0.5)
    torch.testing.assert_close(found.cpu(), L.adjust_logits(logits, COUNTS, tau=0.5))
    parameters = [logits.clone().to(device).requires_grad_(), logits]
    torch.testing.assert_close(L.l1_norm(parameters).cpu(), logits.abs().sum())


@devices
def test_a_transition_is_estimated_where_the_probabilities_are(device):
    probabilities = torch.softmax(batch()[0], 1)
    found = L.estimate_transition(probabilities.float().to(device), quantile=0.9)
    assert found.device.type == device
    assert found.dtype == torch.float64
    torch.testing.assert_close(
        found.cpu(), L.estimate_transition(probabilities, quantile=0.9), rtol=1e-6, atol=0
    )


@devices
@pytest.mark.parametrize("t", [1.0, 1.2, 1.37, 4.0])
def test_the_softmax_with_a_heavy_tail(t, device):
    logits = batch(classes=200)[0]
    pull = torch.linspace(-1.0, 1.0, 200, dtype=torch.float64)

    def of(x):
        return (L.tempered_log_softmax(x, t) * pull.to(x)).sum(1)

    narrow = logits.to(device, torch.float32)
    assert_same(value_and_gradient(lambda x, _: of(x), narrow, None), of_float64(of, logits), 1e-4)


def of_float64(function, logits):
    return value_and_gradient(lambda x, _: function(x), logits, None)


SAMPLES = 30


def sample_loss(kind):
    # A start that moves: the published 1e-8 leaves numbers too small to compare.
    if kind == "elr":
        return L.EarlyLearningRegularizationLoss(SAMPLES, K, strength=2.0)
    return L.SparseOverparametrizationLoss(SAMPLES, K, lr_u=0.5, lr_v=0.5, std=0.3)


def rows_of(loss):
    return [getattr(loss, name) for name in loss._rows] + [loss.touched]


@devices
@pytest.mark.parametrize("index_on", ["cpu", "device"])
@pytest.mark.parametrize("kind", ["elr", "sop"])
def test_losses_that_remember_samples_learn_the_same_rows(kind, index_on, device):
    expected, found = sample_loss(kind).double(), sample_loss(kind).to(device)
    found.load_state_dict(expected.state_dict())
    for step in range(3):
        logits, target, _ = batch(seed=step)
        index = torch.randint(SAMPLES, (B,), generator=torch.Generator().manual_seed(step))
        index[1] = index[0]  # a sampler may repeat one
        wanted = value_and_gradient(lambda z, y: expected(z, y, index), logits, target)  # noqa: B023
        given = index.to(device) if index_on == "device" else index
        result = value_and_gradient(
            lambda z, y: found(z, y, given),  # noqa: B023
            logits.to(device, torch.float32),
            target.to(device),
        )
        assert_same(result, wanted, 1e-4)
    assert all(row.device.type == device for row in rows_of(found))
    assert_same(rows_of(found), rows_of(expected), 1e-4)
    found.synchronize()
    assert not found.touched.any()
    logits, target, _ = batch(seed=9)
    plain = found.eval()(logits.to(device, torch.float32), target.to(device))
    torch.testing.assert_close(plain.cpu().double(), nn.functional.cross_entropy(logits, target))
    back = sample_loss(kind)
    back.load_state_dict(found.cpu().state_dict())
    assert_same(rows_of(back), rows_of(found), 0.0)


@devices
@pytest.mark.parametrize("kind", ["elr", "sop"])
def test_losses_that_remember_samples_are_made_on_a_default_device(kind, device):
    with torch.device(device):
        loss = sample_loss(kind)
    assert {row.device.type for row in rows_of(loss)} == {device}
    assert_same(rows_of(loss), rows_of(sample_loss(kind)), 0.0)


# A transition that is a function's argument is checked at every call; soft labels may take logarithms of it.
# Torch's own cross-entropy waits where it has class weights and label smoothing, as this margin loss here.
WAITS = {("forward_function", "hard"), ("backward_function", "hard"), ("ldam", "hard")} | {
    (name, "soft") for name in ("forward", "forward_function", "backward_function")
}


@contextlib.contextmanager
def no_waits():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize(("name", "labels"), [case for case in LABELS if case not in WAITS])
def test_a_gpu_is_not_waited_for(name, labels, device):
    logits, target, soft = batch()
    loss = LOSSES[name][0]("mean").to(device, torch.float32)
    target = labels_of(labels, target, soft)
    target = target.to(device, torch.float32) if target.is_floating_point() else target.to(device)
    x = logits.to(device, torch.float32)
    expected = value_and_gradient(loss, x, target)
    pull = torch.ones((), device=device)
    x.requires_grad_()
    with no_waits():
        value = loss(x, target)
        (gradient,) = torch.autograd.grad(value, x, pull)
    assert_same((value, gradient), expected, 1e-5)


@on_gpu
@pytest.mark.parametrize("kind", ["elr", "sop"])
def test_samples_on_a_gpu_are_not_waited_for(kind, device):
    loss, twin = sample_loss(kind).to(device), sample_loss(kind).to(device)
    logits, target, _ = batch()
    x, target = logits.to(device, torch.float32), target.to(device)
    index = torch.arange(B, device=device).clamp(min=2)
    expected = value_and_gradient(lambda z, y: twin(z, y, index), x, target)
    pull = torch.ones((), device=device)
    x.requires_grad_()
    with no_waits():
        value = loss(x, target, index)
        (gradient,) = torch.autograd.grad(value, x, pull)
    assert_same((value, gradient), expected, 1e-5)
    assert_same(rows_of(loss), rows_of(twin), 1e-5)


@on_gpu
def test_several_views_on_a_gpu_are_not_waited_for(device):
    _, target, soft = batch()
    views = torch.stack([batch(seed=seed)[0] for seed in (1, 2)]).to(device, torch.float32)
    loss = L.JensenShannonLoss((0.5, 0.25, 0.25))
    for labels in (target.to(device), soft.to(device, torch.float32)):
        expected = loss(views, labels)
        with no_waits():
            found = loss(views, labels)
        assert torch.equal(found, expected)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64, torch.uint8], ids=str)
def test_label_sets_on_a_gpu_are_not_waited_for(dtype, device):
    logits, _, soft = batch()
    x, hot = logits.to(device, torch.float32), (soft > 0.2).to(device, dtype)
    expected = L.pick_all_label(x, hot.bool())
    with no_waits():
        found = L.pick_all_label(x, hot)
    assert torch.equal(found, expected)


@on_gpu
def test_shares_of_labels_stop_the_kernel(device):
    # A failed check in a kernel ends the process' use of the GPU, so it has one of its own.
    program = (
        "import torch\n"
        "from etfhead.losses import pick_all_label\n"
        "shares = torch.full((2, 3), 0.5, device='cuda')\n"
        "pick_all_label(torch.zeros(2, 3, device='cuda'), shares)\n"
        "torch.cuda.synchronize()\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "device-side assert" in done.stderr


@on_gpu
@compiles
@pytest.mark.parametrize("name", ["anl_fl", "forward", "clip"])
def test_compiled_for_a_gpu(name, device):
    torch._dynamo.reset()
    logits, target, _ = batch()
    loss = LOSSES[name][0]("mean").to(device, torch.float32)
    given = logits.to(device, torch.float32), target.to(device)
    compiled = torch.compile(loss)
    assert_same(value_and_gradient(compiled, *given), value_and_gradient(loss, *given), 1e-4)


@devices
@pytest.mark.parametrize("case", [case for case in CASES if case.name != "nnfl"], ids=repr)
def test_many_classes_lose_no_digits(case, device):  # nnfl's smallest probability must be below 1/K
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(8, 50_000, generator=generator)
    target = torch.randint(50_000, (8,), generator=generator)
    loss = case.module(reduction="none", **case.options)
    expected = value_and_gradient(loss, logits.double(), target)
    value, gradient = value_and_gradient(loss, logits.to(device), target.to(device))
    torch.testing.assert_close(value.double().cpu(), expected[0], rtol=1e-5, atol=1e-6)
    gap = gradient.double().cpu() - expected[1]
    # Of each sample: those whose label is unlikely have small gradients.
    assert (gap.norm(dim=1) <= 1e-4 * expected[1].norm(dim=1)).all()
