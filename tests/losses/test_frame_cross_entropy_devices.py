"""The streamed cross-entropy on the CPU and on a GPU, beside all logits in float64 on the CPU."""

import itertools

import pytest
import torch
from torch import nn

from etfhead.frames import UnionFrame
from etfhead.frames import streaming as frame_streaming
from etfhead.heads import ClassMeanHead, ETFConvHead, ETFHead
from etfhead.losses import FrameCrossEntropyLoss, frame_cross_entropy
from etfhead.losses import _gpu_streaming as streaming
from etfhead.losses import _operator as operator
from tests.devices import compiles, devices, on_gpu
from tests.losses.test_frame_cross_entropy import FRAMES, Head, classwise, dense_loss, sample

every_frame = pytest.mark.parametrize("name", FRAMES)


def factors_on(frame, device, dtype=torch.float32):
    return {
        name: f.to(device, dtype) if f.is_floating_point() else f.to(device)
        for name, f in frame.factors().items()
    }


def results(x, y, frame, scale, **options):
    """The loss and its gradients to features and scale."""
    x = x.detach().requires_grad_()
    loss = frame_cross_entropy(x, y, frame, scale=scale, **options)
    pull = torch.linspace(1.0, 2.0, loss.numel(), dtype=torch.float64).view(loss.shape).to(loss)
    return loss, *torch.autograd.grad(loss, (x, scale), pull)


def dense_results(x, y, frame, scale, **options):
    x = x.detach().requires_grad_()
    loss = dense_loss(x, y, frame, scale=scale, **options)
    pull = torch.linspace(1.0, 2.0, loss.numel(), dtype=torch.float64).view(loss.shape)
    return loss, *torch.autograd.grad(loss, (x, scale), pull)


def learned(scale, device="cpu", dtype=torch.float64):
    return torch.tensor([scale], dtype=dtype, device=device, requires_grad=True)


def moved(options, device, dtype):
    return {k: v.to(device, dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def assert_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a.double().cpu(), b.double().cpu(), rtol=tolerance, atol=tolerance, equal_nan=True
        )


@devices
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-11)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("method", ["auto", "bounded", "online"])
@every_frame
def test_equals_dense_cross_entropy(name, method, dtype, tolerance, device):
    frame = FRAMES[name]
    x, y = sample(frame)
    y[2] = -1
    weight, adjustment = classwise(frame)
    factors = factors_on(frame, device, dtype)
    choices = itertools.product((None, weight), (0.0, 0.1), (None, adjustment), ("none", "mean", "sum"))
    for number, (w, smoothing, adjusted, reduction) in enumerate(choices):
        options = {
            "weight": w,
            "label_smoothing": smoothing,
            "logit_adjustment": adjusted,
            "ignore_index": -1,
            "reduction": reduction,
            "normalize": True,
        }
        found = results(
            x.to(device, dtype),
            y.to(device),
            frame,
            learned(3.0, device, dtype),
            method=method,
            block=(None, 100)[number % 2],
            factors=factors if number % 4 else None,
            **moved(options, device, dtype),
        )
        assert {part.device.type for part in found} == {device}
        assert {part.dtype for part in found} == {dtype}
        assert_close(found, dense_results(x, y, frame, learned(3.0), **options), tolerance)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("block", [None, 100])
@every_frame
def test_half_features(name, block, dtype, device):
    frame = FRAMES[name]
    x, y = sample(frame, count=40, dtype=dtype)
    factors = factors_on(frame, device)
    found = results(
        x.to(device),
        y.to(device),
        frame,
        learned(3.0, device, torch.float32),
        normalize=True,
        block=block,
        factors=factors,
        reduction="none",
    )
    expected = dense_results(x, y, frame, learned(3.0), normalize=True, reduction="none")
    assert found[0].dtype == torch.float32
    assert found[1].dtype == dtype
    # Products are in bfloat16 for bfloat16 features on a GPU, and in float32 otherwise.
    error = 0.04 if (device, dtype) == ("cuda", torch.bfloat16) else 1e-5
    torch.testing.assert_close(found[0].double().cpu(), expected[0], rtol=error, atol=error)
    gap = (found[1].double().cpu() - expected[1].double()).norm() / expected[1].double().norm()
    assert gap < max(error, 0.01)


@devices
@pytest.mark.parametrize("method", ["auto", "bounded"])
def test_more_samples_than_go_at_once(method, device):
    frame = FRAMES["union"]
    x, y = sample(frame, count=4500)
    options = {"normalize": True, "reduction": "none"}
    found = results(
        x.to(device, torch.float32),
        y.to(device),
        frame,
        learned(9.0, device, torch.float32),
        method=method,
        **options,
    )
    assert_close(found[:2], dense_results(x, y, frame, learned(9.0), **options)[:2], 5e-5)


@devices
def test_no_samples_and_none_that_counts(device):
    frame = FRAMES["union"]
    x, y = (part.to(device) for part in sample(frame, dtype=torch.float32))
    for smoothing in (0.0, 0.1):
        options = {"label_smoothing": smoothing, "factors": factors_on(frame, device)}
        empty = frame_cross_entropy(x[:0], y[:0], frame, reduction="none", **options)
        assert empty.shape == (0,)
        assert frame_cross_entropy(x[:0], y[:0], frame, **options).isnan()
        ignored = results(
            x,
            torch.full_like(y, -100),
            frame,
            learned(2.0, device, torch.float32),
            reduction="sum",
            **options,
        )
        assert all(not part.any() for part in ignored)


@devices
@pytest.mark.parametrize("bad", [-7, 1100])
@pytest.mark.parametrize("block", [64, 1100])
@pytest.mark.parametrize("name", ["union", "assigned"])
def test_a_target_that_is_no_class_is_nan_where_it_is_not_read(name, block, bad, device, monkeypatch):
    frame = FRAMES[name]
    x, y = (part.to(device) for part in sample(frame, dtype=torch.float32))
    y[2] = bad
    if device == "cpu":
        with pytest.raises(ValueError, match=f"target: expected classes from 0 to 1099 .* got {bad}"):
            frame_cross_entropy(x, y, frame, block=block)
        monkeypatch.setattr(operator, "check_classes", lambda *args: None)
    options = {"block": block, "factors": factors_on(frame, device), "label_smoothing": 0.1}
    weight = classwise(frame)[0].to(device, torch.float32)
    losses, gradient, _ = results(
        x, y, frame, learned(2.0, device, torch.float32), reduction="none", weight=weight, **options
    )
    assert losses.isnan().nonzero().flatten().tolist() == [2]
    rest = gradient.isfinite().all(1)
    rest[2] = True
    assert rest.all()


@devices
@pytest.mark.parametrize("method", ["auto", "online"])
@every_frame
def test_predictions_are_those_of_the_logits(name, method, device):
    head = Head(FRAMES[name]).to(device)
    x, y = (part.to(device) for part in sample(head.frame, count=40, dtype=torch.float32))
    adjustment = 9.0 * classwise(head.frame)[1].float()
    criterion = FrameCrossEntropyLoss(head, logit_adjustment=adjustment, method=method, block=100).to(device)
    loss, predictions = criterion.with_predictions(head(x), y)
    head.eval()
    logits = head(x)
    assert torch.equal(predictions, logits.argmax(-1))
    torch.testing.assert_close(criterion(logits, y), loss, rtol=1e-4, atol=1e-4)


HEADS = {
    "union": lambda fused: ETFHead(64, 1100, fused=fused),
    "simplex": lambda fused: ETFHead(64, 20, fused=fused, normalize=True),
    "class means": lambda fused: ClassMeanHead(64, 1100, fused=fused),
    "map": lambda fused: ETFConvHead(64, 1100, fused=fused, neck=None),
}


def input_of(head):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 2) if head.channel_dim == 1 else ()
    x = torch.randn(6, 64, *shape, generator=generator)
    return x, torch.randint(head.num_classes, (6, *shape), generator=generator)


@devices
@pytest.mark.parametrize("name", HEADS)
def test_a_fused_head_is_its_twin_with_logits(name, device):
    found = []
    for fused, place in ((True, device), (False, "cpu")):
        head = HEADS[name](fused).to(place)
        x, y = (part.to(place) for part in input_of(head))
        x.requires_grad_()
        loss = FrameCrossEntropyLoss(head)(head(x), y) if fused else nn.functional.cross_entropy(head(x), y)
        loss.backward()
        found.append((loss, x.grad, head.scale.grad))
    assert_close(*found, 1e-4)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", HEADS)
def test_autocast_keeps_the_sums_in_float32(name, dtype, device):
    head = HEADS[name](True).to(device)
    x, y = (part.to(device) for part in input_of(head))
    layer = (nn.Conv2d(64, 64, 1) if x.ndim == 4 else nn.Linear(64, 64)).to(device)
    criterion = FrameCrossEntropyLoss(head, label_smoothing=0.1)
    expected = criterion(head(layer(x)), y)
    with torch.autocast(device, dtype=dtype):
        loss = criterion(head(layer(x)), y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=3e-2, atol=0)
    loss.backward()
    gradients = [layer.weight.grad, head.scale.grad]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert layer.weight.grad.any()


@on_gpu
@compiles
@pytest.mark.parametrize("method", ["bounded", "online"])
def test_the_compiled_step_is_the_step(method, device):
    torch._dynamo.reset()
    streaming._compiled_step.cache_clear()
    head = Head(FRAMES["union"]).to(device)
    x, y = (part.to(device) for part in sample(head.frame, count=40, dtype=torch.float32))
    steps = []
    for compiled in (False, True):
        criterion = FrameCrossEntropyLoss(head, method=method, block=256, compiled=compiled)
        inputs = x.detach().requires_grad_()
        loss, predictions = criterion.with_predictions(head(inputs), y)
        steps.append((loss, predictions, *torch.autograd.grad(loss, (inputs, head.scale))))
    assert streaming._compiled_step.cache_info().currsize == 1
    assert torch.equal(steps[0][1], steps[1][1])
    assert_close(steps[1], steps[0], 1e-4)


@on_gpu
@compiles
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_training_step_on_a_gpu(mode, device):
    torch._dynamo.reset()
    head = Head(FRAMES["union"]).to(device)
    model = nn.Sequential(nn.Linear(10, 64, device=device), head)
    criterion = FrameCrossEntropyLoss(head, label_smoothing=0.1, block=256)
    parameters = list(model.parameters())

    def step(x, y):
        return criterion.with_predictions(model(x), y)

    compiled = torch.compile(step, mode=mode, fullgraph=True)
    for seed in range(3):  # the first calls of a CUDA graph are not replays
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, 10, generator=generator).to(device)
        y = torch.randint(1100, (32,), generator=generator).to(device)
        expected, wanted = step(x, y)
        gradients = torch.autograd.grad(expected, parameters)
        torch.compiler.cudagraph_mark_step_begin()
        loss, found = compiled(x, y)
        value, found = loss.detach().clone(), found.clone()
        assert_close((value, *torch.autograd.grad(loss, parameters)), (expected, *gradients), 1e-4)
        assert torch.equal(found, wanted)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["bounded", "online"])
def test_memory_is_that_of_a_block(method, dtype, device):
    count, frame = 4096, UnionFrame(50_000, 128)
    factors = factors_on(frame, device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 128, generator=generator).to(device, dtype).requires_grad_()
    y = torch.randint(frame.num_classes, (count,), generator=generator).to(device)

    def step(inputs, labels):
        options = {"scale": 8.0, "normalize": True, "method": method, "factors": factors}
        loss = frame_cross_entropy(inputs, labels, frame, **options)
        return loss, *torch.autograd.grad(loss, inputs)

    step(x[:64], y[:64])  # what libraries keep for themselves
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss, gradient = step(x, y)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 14 * frame_streaming._CELLS["cuda"] < count * frame.num_classes * 4
    few = x[:64].detach().double().cpu().requires_grad_()
    expected = dense_loss(few, y[:64].cpu(), frame, scale=8.0, normalize=True, reduction="sum") / count
    (wanted,) = torch.autograd.grad(expected, few)
    gap = (gradient[:64].double().cpu() - wanted).norm() / wanted.norm()
    assert gap < (1e-4 if dtype == torch.float32 else 0.04)
    assert loss.isfinite()


@on_gpu
@pytest.mark.parametrize("name", ["union", "hadamard", "assigned"])
def test_a_gpu_is_not_waited_for(name, device):
    frame = FRAMES[name]
    x, y = (part.to(device) for part in sample(frame, count=40, dtype=torch.float32))
    x = x.detach().requires_grad_()
    factors, pull = factors_on(frame, device), torch.ones((), device=device)
    learns = learned(5.0, device, torch.float32)

    def one_block():
        loss = frame_cross_entropy(x, y, frame, scale=5.0, normalize=True, factors=factors)
        return loss, *torch.autograd.grad(loss, x, pull)

    def learned_scale():
        loss = frame_cross_entropy(x, y, frame, scale=learns, factors=factors, label_smoothing=0.1)
        return loss, *torch.autograd.grad(loss, (x, learns), pull)

    @torch.no_grad()
    def many_blocks():
        return (frame_cross_entropy(x, y, frame, scale=5.0, normalize=True, factors=factors, block=64),)

    for step in (one_block, learned_scale, many_blocks):
        expected = step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_close(found, expected, 1e-5)


@on_gpu
@pytest.mark.parametrize("name", ["union", "hadamard", "dense"])
def test_autocast_makes_the_products_of_a_linear_layer(name, device):
    frame = FRAMES[name]
    x, y = (part.to(device) for part in sample(frame, count=40, dtype=torch.float32))
    options = {"scale": 9.0, "factors": factors_on(frame, device)}
    with torch.autocast(device, dtype=torch.bfloat16):
        found = frame_cross_entropy(x, y, frame, **options)
        wide = frame_cross_entropy(x, y, frame, product_dtype=torch.float32, **options)
    assert torch.equal(found, frame_cross_entropy(x, y, frame, product_dtype=torch.bfloat16, **options))
    assert torch.equal(wide, frame_cross_entropy(x, y, frame, **options))
    assert not torch.equal(found, wide)
