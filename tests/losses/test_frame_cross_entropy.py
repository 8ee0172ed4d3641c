import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from etfhead.frames import AssignedFrame, Frame, SimplexFrame, UnionFrame
from etfhead.frames.streaming import BlockProducts
from etfhead.heads import ClassMeanHead, ETFConvHead, ETFHead
from etfhead.losses import FrameCrossEntropyLoss, frame_cross_entropy
from etfhead.losses import _streaming as streaming
from etfhead.losses._streaming import LARGEST_LOGIT, stream

CE = nn.functional.cross_entropy


class Dense(Frame):
    """Vectors of any norm."""

    name = "dense"

    def matrix(self):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.num_classes, self.in_features, generator=generator, dtype=torch.float64)

    def spec(self):
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}


class Head(nn.Module):
    """What the loss needs of a head: unit features in training, logits in evaluation."""

    fused = True
    channel_dim = -1

    def __init__(self, frame, scale=5.0):
        super().__init__()
        self.frame = frame
        self.scale = nn.Parameter(torch.tensor([scale]))
        for name, factor in frame.factors().items():
            self.register_buffer(name, factor.float() if factor.is_floating_point() else factor)

    def logit_factors(self):
        return self.scale, dict(self.named_buffers())

    def forward(self, x):
        x = nn.functional.normalize(x.movedim(self.channel_dim, -1), dim=-1)
        if not self.training:
            scale, factors = self.logit_factors()
            x = scale * self.frame.apply(x, factors)
        return x.movedim(-1, self.channel_dim)


def assigned():
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(1100, generator=generator)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    return AssignedFrame(1100, 64, base=UnionFrame(1100, 64), assignment=order, rotation=rotation)


FRAMES = {
    "dense": Dense(150, 12),
    "simplex": SimplexFrame(20, 24),
    "hadamard": SimplexFrame(300, 512),
    "identity": SimplexFrame(40, 48, basis="identity"),
    "union": UnionFrame(1100, 64),
    "antipodal": UnionFrame(1100, 64, antipodal=True),
    "assigned": assigned(),
}


def sample(frame, count=9, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, frame.in_features, generator=generator, dtype=torch.float64)
    y = torch.randint(frame.num_classes, (count,), generator=generator)
    y[-1] = frame.num_classes - 1
    return x.to(dtype).requires_grad_(), y


def classwise(frame, seed=3):
    generator = torch.Generator().manual_seed(seed)
    weight, adjustment = torch.randn(2, frame.num_classes, generator=generator, dtype=torch.float64)
    return weight.abs(), adjustment


def dense_loss(x, y, frame, *, scale=1.0, normalize=False, logit_adjustment=None, **options):
    """From all logits, by torch, in float64."""
    x = nn.functional.normalize(x.double(), dim=-1) if normalize else x.double()
    z = scale * x @ frame.matrix().T
    return CE(z if logit_adjustment is None else z + logit_adjustment, y, **options)


def compare(x, y, frame, *, scale, tolerance, method="auto", block=None, factors=None, **options):
    """Loss and gradients to features and scale against the dense ones."""
    reference = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    expected = dense_loss(x, y, frame, scale=reference, **options)
    towards = torch.linspace(1.0, 2.0, expected.numel(), dtype=torch.float64).view(expected.shape)
    wanted = torch.autograd.grad(expected, (x, reference), towards)
    s = torch.tensor([scale], dtype=x.dtype, requires_grad=True)
    loss = frame_cross_entropy(x, y, frame, scale=s, method=method, block=block, factors=factors, **options)
    found = torch.autograd.grad(loss, (x, s), towards.to(loss))
    for a, b in zip((loss, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("method", ["auto", "bounded", "online"])
@pytest.mark.parametrize("name", FRAMES)
def test_equals_dense_cross_entropy_with_every_combination_of_options(name, method):
    frame = FRAMES[name]
    x, y = sample(frame)
    y[2] = -1
    weight, adjustment = classwise(frame)
    choices = itertools.product((None, weight), (0.0, 0.1, 1.0), (None, adjustment), ("none", "mean", "sum"))
    for number, (w, smoothing, adjusted, reduction) in enumerate(choices):
        compare(
            x,
            y,
            frame,
            scale=3.0,
            tolerance=1e-12,
            method=method,
            block=(None, 1, 100)[number % 3] if frame.num_classes < 1000 else (None, 100)[number % 2],
            weight=w,
            label_smoothing=smoothing,
            logit_adjustment=adjusted,
            ignore_index=-1,
            reduction=reduction,
            normalize=True,
        )


@pytest.mark.parametrize("method", ["auto", "online"])
@pytest.mark.parametrize("name", FRAMES)
def test_float32(name, method):
    frame = FRAMES[name]
    x, y = sample(frame, dtype=torch.float32)
    weight, adjustment = classwise(frame)
    options = {"label_smoothing": 0.1, "weight": weight, "logit_adjustment": adjustment, "normalize": True}
    compare(x, y, frame, scale=16.0, tolerance=1e-5, method=method, **options)


@pytest.mark.parametrize("name", FRAMES)
def test_features_of_any_norm_and_large_scales_stay_finite(name):
    frame = FRAMES[name]
    x, y = sample(frame)
    compare(x, y, frame, scale=200.0, tolerance=1e-10)
    compare(x, y, frame, scale=200.0, tolerance=1e-10, normalize=True, block=1)
    loss = frame_cross_entropy(x.float() * 1e3, y, frame, scale=200.0)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_bounded_is_exact_up_to_its_limit_and_refused_beyond():
    frame = FRAMES["union"]
    # All features at their own class vector, or opposite to it: the largest and the smallest logit there is.
    y = torch.arange(8)
    for sign in (1.0, -1.0):
        x = (sign * frame.matrix()[y]).float().requires_grad_()
        compare(
            x, y, frame, scale=LARGEST_LOGIT * (1 - 1e-6), tolerance=1e-5, method="bounded", normalize=True
        )
    options = {"method": "bounded", "normalize": True}
    with pytest.raises(ValueError, match="float32 is safe up to 64"):
        frame_cross_entropy(x, y, frame, scale=65.0, **options)
    with pytest.raises(ValueError, match=r"logits may reach 65"):
        frame_cross_entropy(x, y, frame, scale=torch.tensor([65.0]), **options)
    with pytest.raises(ValueError, match="largest adjustment"):
        frame_cross_entropy(x, y, frame, scale=60.0, logit_adjustment=torch.full((1100,), -5.0), **options)


@pytest.mark.parametrize(
    ("scale", "options", "bounded"),
    [
        (60.0, {}, True),
        (torch.tensor([60.0]), {}, True),
        (70.0, {}, False),
        (60.0, {"logit_adjustment": torch.full((1100,), -5.0)}, False),
        (60.0, {"normalize": False}, False),
        (60.0, {"method": "online"}, False),
    ],
)
def test_auto_takes_the_form_without_maxima_where_it_is_safe(scale, options, bounded, monkeypatch):
    taken = []
    step = streaming._step
    monkeypatch.setattr(streaming, "_step", lambda *args: (taken.append(args[-2]), step(*args))[1])
    x, y = sample(FRAMES["union"], dtype=torch.float32)
    frame_cross_entropy(x, y, FRAMES["union"], **{"scale": scale, "normalize": True, **options})
    assert set(taken) == {bounded}


def test_gradcheck():
    x, y = sample(FRAMES["simplex"], count=4)
    y[1] = -100
    scale = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)

    def loss(x, scale):
        options = {"scale": scale, "label_smoothing": 0.1, "normalize": True, "reduction": "none", "block": 6}
        return frame_cross_entropy(x, y, FRAMES["simplex"], **options)

    assert torch.autograd.gradcheck(loss, (x, scale))


@pytest.mark.parametrize("normalize", [False, True])
def test_a_second_derivative_is_refused_rather_than_wrong(normalize):
    x, y = sample(FRAMES["simplex"])
    loss = frame_cross_entropy(x, y, FRAMES["simplex"], normalize=normalize)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.square().sum().backward()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_targets_ignored_and_no_samples_at_all(weighted, smoothing):
    frame = FRAMES["union"]
    x, y = sample(frame)
    weight = classwise(frame)[0] if weighted else None
    for reduction in ("none", "mean", "sum"):
        options = {"label_smoothing": smoothing, "weight": weight, "reduction": reduction}
        compare(x, torch.full_like(y, -100), frame, scale=2.0, tolerance=1e-12, **options)
        empty = frame_cross_entropy(x[:0], y[:0], frame, **options)
        expected = dense_loss(x[:0], y[:0], frame, **options)
        torch.testing.assert_close(empty, expected, equal_nan=True)


def test_a_class_of_weight_zero_and_one_that_is_ruled_out():
    frame = FRAMES["union"]
    x, y = sample(frame)
    weight, adjustment = classwise(frame)
    weight[y[0]] = 0.0
    adjustment[500:900] = -torch.inf
    y[(y >= 500) & (y < 900)] = 3
    for block in (None, 64):
        compare(x, y, frame, scale=2.0, tolerance=1e-12, weight=weight, block=block)
        compare(x, y, frame, scale=2.0, tolerance=1e-12, logit_adjustment=adjustment, block=block)


@pytest.mark.parametrize("shape", [(), (2, 3), (1300,)])
def test_any_leading_shape_and_more_samples_than_go_at_once(shape):
    frame = FRAMES["hadamard"]
    x = torch.randn(*shape, frame.in_features, generator=torch.Generator().manual_seed(0)).double()
    y = torch.randint(frame.num_classes, shape, generator=torch.Generator().manual_seed(1))
    options = {"scale": 9.0, "normalize": True, "reduction": "none"}
    expected = dense_loss(x.reshape(-1, frame.in_features), y.reshape(-1), frame, **options)
    torch.testing.assert_close(frame_cross_entropy(x, y, frame, **options), expected.view(shape))


class Largest(TorchDispatchMode):
    """How many numbers the largest result of any operation has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


@pytest.mark.parametrize("bounded", [False, True])
def test_no_tensor_is_larger_than_a_block_or_the_features(bounded):
    frame, count = UnionFrame(20_000, 64), 8
    x, y = sample(frame, count=count, dtype=torch.float32)
    products = BlockProducts(frame, frame.factors(), torch.float32)
    options = {"block": 1024, "bounded": bounded, "with_gradient": True, "with_prediction": True}
    with torch.no_grad(), Largest() as largest:
        stream(products, x, y, torch.ones(count), torch.ones(count), adjustment=None, **options)
    assert largest.numbers == count * 1024


def test_backward_keeps_a_few_tensors_of_the_features_size():
    frame = UnionFrame(20_000, 64)
    x, y = sample(frame, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        frame_cross_entropy(x, y, frame, normalize=True, label_smoothing=0.1)
    assert kept
    assert max(kept) <= x.numel()
    assert sum(kept) <= 8 * x.numel()


def test_without_gradient_no_adjoint_is_formed(monkeypatch):
    frame = FRAMES["union"]
    x, y = sample(frame)
    with_gradient = frame_cross_entropy(x, y, frame)
    monkeypatch.setattr(BlockProducts, "adjoint", None)
    with torch.no_grad():
        assert torch.equal(frame_cross_entropy(x, y, frame), with_gradient)


@pytest.mark.parametrize("method", ["auto", "online"])
@pytest.mark.parametrize("name", FRAMES)
def test_predictions_are_those_of_the_logits_without_adjustment(name, method):
    head = Head(FRAMES[name])
    _, adjustment = classwise(head.frame)
    x, y = sample(head.frame, count=40, dtype=torch.float32)
    for adjusted in (None, 9.0 * adjustment.float()):
        criterion = FrameCrossEntropyLoss(head, logit_adjustment=adjusted, method=method, block=100)
        loss, predictions = criterion.with_predictions(head(x), y)
        assert torch.equal(loss, criterion(head(x), y))
        assert torch.equal(predictions, head.eval()(x).argmax(-1))
        head.train()


def test_module_follows_the_head_and_owns_nothing_of_it():
    head = Head(FRAMES["union"])
    model = nn.Sequential(nn.Linear(10, 64), head)
    criterion = FrameCrossEntropyLoss(head, weight=torch.ones(1100))
    assert list(criterion.parameters()) == []
    assert list(criterion.state_dict()) == ["weight"]
    x, y = torch.randn(6, 10), torch.arange(6)
    criterion(model(x), y).backward()
    assert head.scale.grad.abs() > 0
    assert model[0].weight.grad.abs().max() > 0
    with torch.no_grad():
        head.scale.fill_(11.0)
    torch.testing.assert_close(
        criterion(model(x), y),
        dense_loss(model[0](x), y, head.frame, scale=11.0, normalize=True).float(),
    )
    head.frame = UnionFrame(1100, 64, seed=5)
    for name in ("flip", "signs"):
        getattr(head, name).copy_(head.frame.factors()[name])
    expected = dense_loss(model[0](x), y, head.frame, scale=11.0, normalize=True).float()
    torch.testing.assert_close(criterion(model(x), y), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_evaluation_mode_gives_the_same_loss_from_logits_also_over_a_map(channel_dim, reduction):
    head = Head(FRAMES["simplex"])
    head.channel_dim = channel_dim
    weight, adjustment = classwise(head.frame)
    options = {"weight": weight.float(), "logit_adjustment": adjustment.float(), "label_smoothing": 0.1}
    criterion = FrameCrossEntropyLoss(head, reduction=reduction, **options)
    x = torch.randn(2, 3, 5, 24).movedim(-1, channel_dim)
    y = torch.randint(20, (2, 3, 5))
    y[0, 0] = -100
    trained, found = criterion.with_predictions(head(x), y)
    head.eval()
    evaluated, predictions = criterion.with_predictions(head(x), y)
    torch.testing.assert_close(trained, evaluated)
    assert torch.equal(found, predictions)
    assert found.shape == y.shape


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_evaluation_mode_takes_the_types_and_shapes_that_training_takes(shape):
    head = Head(FRAMES["simplex"])
    weight, adjustment = classwise(head.frame)  # float64, as from class counts
    criterion = FrameCrossEntropyLoss(head, weight=weight, logit_adjustment=adjustment)
    x, y = torch.randn(*shape, 24), torch.full(shape, 7, dtype=torch.int32)
    trained = criterion(head(x), y)
    head.eval()
    torch.testing.assert_close(criterion(head(x), y), trained)


def test_a_target_that_is_no_class_is_nan_where_the_device_does_not_stop():
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    y[2] = 1100  # beyond all blocks; frame_cross_entropy refuses it on a CPU
    one = torch.ones(len(y))
    options = {"adjustment": None, "bounded": True, "with_gradient": True, "with_prediction": False}
    products = BlockProducts(frame, frame.factors(), torch.float32)
    loss, gradient, _ = stream(products, x.detach(), y, one, one, block=64, **options)
    assert loss.isnan().nonzero().flatten().tolist() == [2]
    assert gradient.isnan().any(1).nonzero().flatten().tolist() == [2]


def test_compiles_again_for_another_scale_and_stays_out_of_cuda_graphs():
    torch._dynamo.reset()
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    factors = {k: f.float() if f.is_floating_point() else f for k, f in frame.factors().items()}

    def loss(scale):
        return frame_cross_entropy(x, y, frame, scale=scale, factors=factors, normalize=True)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for scale in (2.0, 3.0, 70.0):
        torch.testing.assert_close(compiled(scale), loss(scale))
    assert torch.Tag.cudagraph_unsafe in torch.ops.etfhead.streamed_cross_entropy.default.tags


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph_that_notices_another_frame(backend):
    torch._dynamo.reset()
    head = Head(FRAMES["union"])
    model = nn.Sequential(nn.Linear(10, 64), head)
    criterion = FrameCrossEntropyLoss(head, label_smoothing=0.1)
    x, y = torch.randn(6, 10), torch.arange(6)

    def step(x, y):
        return criterion.with_predictions(model(x), y)

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for seed in (0, 1) if backend == "aot_eager" else (1,):
        head.frame = UnionFrame(1100, 64, seed=seed)
        if backend == "aot_eager":  # a copy, as an average of weights has it, is another frame too
            head.frame = (copy.deepcopy, lambda frame: pickle.loads(pickle.dumps(frame)))[seed](head.frame)
        head.flip.copy_(head.frame.factors()["flip"])
        parameters = list(model.parameters())
        (expected, wanted), (loss, found) = step(x, y), compiled(x, y)
        torch.testing.assert_close(loss, expected)
        assert torch.equal(found, wanted)
        for a, b in zip(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_autocast_leaves_the_sums_in_float32():
    head = Head(FRAMES["union"])
    model = nn.Sequential(nn.Linear(10, 64), head)
    criterion = FrameCrossEntropyLoss(head)
    x, y = torch.randn(6, 10), torch.arange(6)
    expected = criterion(model(x), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(model(x), y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    loss.backward()
    assert model[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_lose_no_more_than_their_own_rounding(dtype):
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=dtype)
    loss = frame_cross_entropy(x, y, frame, scale=10.0, normalize=True)
    exact = dense_loss(x, y, frame, scale=10.0, normalize=True)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    loss.backward()
    assert x.grad.dtype == dtype


def test_half_products_keep_the_gradient_of_samples_that_are_nearly_learned():
    # What is left of the gradient is of the size of p_y - 1, far below bfloat16's rounding of p_y.
    frame = FRAMES["union"]
    y = torch.arange(40, 48)
    x = 14.0 * frame.enter(frame.matrix()[y], frame.factors()).float()
    one = torch.ones(len(y))
    options = {"adjustment": None, "bounded": True, "with_gradient": True, "with_prediction": False}
    for block in (64, 1100):
        half, exact = (
            stream(BlockProducts(frame, frame.factors(), dtype), x, y, one, one, block=block, **options)[1]
            for dtype in (torch.bfloat16, torch.float32)
        )
        assert (half - exact).norm() < 0.02 * exact.norm()


X, Y, SIMPLEX = torch.zeros(4, 24), torch.zeros(4, dtype=torch.long), FRAMES["simplex"]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(4, 23), Y, {}, r"features: expected floating-point numbers \(\.\.\., 24\)"),
        (X.long(), Y, {}, "features: .* got torch.int64"),
        (X, torch.zeros(4, 20), {}, r"target: expected integer classes \(4,\).*soft targets"),
        (X, Y[:3], {}, r"target: expected integer classes \(4,\), got torch.int64 \(3,\)"),
        (X, Y + 20, {}, "target: expected classes from 0 to 19 or ignore_index, got 20"),
        (X, Y - 1, {}, "target: .* got -1"),
        (X, Y, {"label_smoothing": 1.5}, "label_smoothing=1.5"),
        (X, Y, {"reduction": "avg"}, "reduction='avg'"),
        (X, Y, {"method": "fast"}, "method='fast'"),
        (X, Y, {"scale": float("nan")}, "scale=nan"),
        (X, Y, {"scale": torch.ones(2)}, r"scale: .* \(2,\)"),
        (X, Y, {"weight": torch.ones(19)}, r"weight: expected shape \(20,\), got \(19,\)"),
        (X, Y, {"logit_adjustment": torch.ones(1, 20)}, "logit_adjustment: expected shape"),
        (X, Y, {"weight": torch.ones(20, requires_grad=True)}, "weight: requires a gradient"),
        (
            X,
            Y,
            {"factors": {"weight": torch.ones(20, 24, requires_grad=True)}},
            "factors.*: requires",
        ),
        (X, Y, {"block": 0}, "block=0"),
        (X + torch.nan, Y, {"method": "bounded"}, "logits may reach nan"),
    ],
)
def test_bad_input(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        frame_cross_entropy(x, y, SIMPLEX, **options)


def test_features_that_are_not_finite_give_a_loss_that_says_so():
    for bad in (torch.nan, torch.inf):
        x = torch.zeros(4, 64)
        x[1, 3] = bad
        losses = frame_cross_entropy(x, Y, FRAMES["union"], reduction="none")
        assert losses.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("head", [nn.Linear(3, 4), Head(FRAMES["simplex"])])
def test_a_head_that_returns_logits_is_refused(head):
    head.fused = False
    with pytest.raises(ValueError, match="head: expected one that returns features in training mode"):
        FrameCrossEntropyLoss(head)


@pytest.mark.parametrize(
    "build",
    [
        lambda fused: ETFHead(64, 1100, fused=fused),
        lambda fused: ETFHead(64, 20, fused=fused, normalize=True),
        lambda fused: ClassMeanHead(64, 1100, fused=fused),
        lambda fused: ETFConvHead(64, 1100, fused=fused, neck=None),
    ],
    ids=["union", "normalized simplex", "class means", "map"],
)
def test_a_fused_head_trains_as_its_twin_with_logits(build):
    fused, plain = build(True), build(False)
    generator = torch.Generator().manual_seed(0)
    shape = (6, 64, 2, 2) if fused.channel_dim == 1 else (6, 64)
    x = torch.randn(shape, generator=generator)
    y = torch.randint(fused.num_classes, (6, *shape[2:]), generator=generator)
    results = []
    for head in (fused, plain):
        inputs = x.clone().requires_grad_()
        out = head(inputs)
        loss = FrameCrossEntropyLoss(fused)(out, y) if head is fused else CE(out, y)
        loss.backward()
        results.append((loss, inputs.grad, head.scale.grad))
    assert results[0][1].abs().max() > 0
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_loss_that_an_earlier_version_pickled_whole():
    head = ETFHead(16, 5, fused=True)
    loss = FrameCrossEntropyLoss(head, label_smoothing=0.1)
    x, y = torch.randn(4, 16), torch.arange(4)
    expected, text = loss(head(x), y), repr(loss)
    del loss.__dict__["product_dtype"], loss.__dict__["compiled"]
    old = pickle.loads(pickle.dumps(loss))
    torch.testing.assert_close(old(head(x), y), expected)
    assert repr(old) == text
