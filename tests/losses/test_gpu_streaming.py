"""The pass of GPUs, run on the CPU: beside the CPU's own pass and beside all logits in float64."""

import itertools

import pytest
import torch

from etfhead.frames import OrthoplexFrame, SimplexFrame, UnionFrame
from etfhead.frames.streaming import BlockProducts, WrittenBlocks, block_products
from etfhead.heads import ETFHead
from etfhead.losses import FrameCrossEntropyLoss, frame_cross_entropy
from etfhead.losses import _gpu_streaming as gpu_streaming
from etfhead.losses import _operator as operator
from etfhead.losses._gpu_streaming import stream_by_softmax
from etfhead.losses._streaming import stream
from tests.losses.test_frame_cross_entropy import FRAMES, Largest, classwise, dense_loss, sample

EVERY = {
    **FRAMES,
    "antipodal": UnionFrame(1100, 64, antipodal=True),
    "random signs": UnionFrame(1100, 60, signs="random"),
    "orthoplex": OrthoplexFrame(90, 64),
}
every_frame = pytest.mark.parametrize("name", EVERY)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Every loss takes the GPU's pass, over class vectors that are written out where a frame can."""

    def products(frame, factors, dtype):
        return (WrittenBlocks if frame.writes_blocks else BlockProducts)(frame, factors, dtype)

    def pass_(*args, bounded, **options):
        return stream_by_softmax(*args, **options)

    monkeypatch.setattr(operator, "block_products", products)
    monkeypatch.setattr(operator, "stream", pass_)


def results(loss_of, x, y, frame, scale, **options):
    x, scale = x.detach().requires_grad_(), torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    loss = loss_of(x, y, frame, scale=scale, **options)
    pull = torch.linspace(1.0, 2.0, loss.numel(), dtype=torch.float64).view(loss.shape)
    return loss, *torch.autograd.grad(loss, (x, scale), pull)


@pytest.mark.parametrize("scale", [3.0, 300.0])
@every_frame
def test_equals_dense_cross_entropy(name, scale, as_on_a_gpu):
    frame = EVERY[name]
    x, y = sample(frame)
    y[2] = -1
    weight, adjustment = classwise(frame)
    choices = itertools.product((None, weight), (0.0, 0.1), (None, adjustment))
    for (w, smoothing, adjusted), block in itertools.product(choices, (None, 64, 100)):
        options = {
            "weight": w,
            "label_smoothing": smoothing,
            "logit_adjustment": adjusted,
            "ignore_index": -1,
            "reduction": "none",
            "normalize": True,
        }
        found = results(frame_cross_entropy, x, y, frame, scale, method="online", block=block, **options)
        expected = results(dense_loss, x, y, frame, scale, **options)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@every_frame
def test_predictions_are_before_the_adjustment(name):
    frame = EVERY[name]
    x, y = sample(frame, count=40)
    x = frame.enter(x.detach(), frame.factors())
    products, one = BlockProducts(frame, frame.factors(), torch.float64), torch.ones(40).double()
    if not frame.structured or frame.writes_blocks:
        products = WrittenBlocks(frame, frame.factors(), torch.float64)
    found = stream_by_softmax(
        products,
        x,
        y,
        one,
        one,
        adjustment=50.0 * torch.arange(frame.num_classes).double(),
        block=-(-64 // frame.block_size) * frame.block_size,
        with_gradient=False,
        with_prediction=True,
    )
    whole = products.logits(x, 0, frame.num_classes)
    assert torch.equal(found[2], whole.argmax(1))
    assert found[1].numel() == 0


@pytest.mark.parametrize("bad", [-7, 1100])
def test_a_target_that_is_no_class_is_nan(bad):
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    y[2] = bad
    one = torch.ones(len(y))
    loss, gradient, _ = stream_by_softmax(
        WrittenBlocks(frame, frame.factors(), torch.float32),
        x.detach(),
        y,
        one,
        one,
        adjustment=None,
        block=64,
        with_gradient=True,
        with_prediction=False,
    )
    assert loss.isnan().nonzero().flatten().tolist() == [2]
    assert gradient.isnan().any(1).nonzero().flatten().tolist() == [2]


def test_logits_of_any_size_are_finite():
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    one = torch.ones(len(y))
    options = {"adjustment": None, "block": 64, "with_gradient": True, "with_prediction": False}
    products = WrittenBlocks(frame, frame.factors(), torch.float32)
    for scale in (0.0, 1e4, 1e30):
        loss, gradient, _ = stream_by_softmax(products, x.detach() * scale, y, one, one, **options)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        assert (loss >= -1e-4 * scale).all()


def test_half_products_keep_the_gradient_of_samples_that_are_nearly_learned():
    # What is left of the gradient is of the size of p_y - 1, far below bfloat16's rounding of p_y.
    frame = FRAMES["union"]
    y = torch.arange(40, 48)
    x = 14.0 * frame.enter(frame.matrix()[y], frame.factors()).float()
    one = torch.ones(len(y))
    options = {"adjustment": None, "with_gradient": True, "with_prediction": False}
    exact = stream(
        BlockProducts(frame, frame.factors(), torch.float32),
        x,
        y,
        one,
        one,
        block=64,
        bounded=True,
        **options,
    )[1]
    for block in (64, 1100):
        products = WrittenBlocks(frame, frame.factors(), torch.bfloat16)
        half = stream_by_softmax(products, x, y, one, one, block=block, **options)[1]
        assert (half - exact).norm() < 0.02 * exact.norm()


def test_no_tensor_is_larger_than_a_block_its_vectors_or_the_features():
    frame, count = UnionFrame(20_000, 64), 8
    x, y = sample(frame, count=count, dtype=torch.float32)
    products = WrittenBlocks(frame, frame.factors(), torch.float32)
    options = {"block": 1024, "with_gradient": True, "with_prediction": True}
    with torch.no_grad(), Largest() as largest:
        stream_by_softmax(products, x, y, torch.ones(count), torch.ones(count), adjustment=None, **options)
    assert largest.numbers == 1024 * 64


def test_products_in_the_type_that_is_asked_for():
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    plain, wide, narrow = (
        frame_cross_entropy(x, y, frame, scale=9.0, product_dtype=dtype)
        for dtype in (None, torch.float32, torch.bfloat16)
    )
    assert torch.equal(plain, wide)
    assert narrow.dtype == torch.float32
    assert 1e-6 < (narrow - wide).abs() < 0.05 * wide
    with pytest.raises(
        ValueError, match=r"product_dtype=torch.float16: expected torch.bfloat16, torch.float32"
    ):
        frame_cross_entropy(x, y, frame, product_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"product_dtype=torch.float16: expected"):
        FrameCrossEntropyLoss(ETFHead(64, 1100, fused=True), product_dtype=torch.float16)


def test_a_cpu_writes_no_blocks():
    frame = FRAMES["union"]
    assert type(block_products(frame, frame.factors(), torch.bfloat16)) is BlockProducts


def test_the_step_may_be_compiled(monkeypatch):
    torch._dynamo.reset()
    frame = FRAMES["union"]
    x, y = sample(frame, dtype=torch.float32)
    step = torch.compile(gpu_streaming._step, dynamic=True, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(gpu_streaming, "_compiled_step", lambda: step)
    products, one = WrittenBlocks(frame, frame.factors(), torch.float32), torch.ones(len(y))
    options = {"adjustment": None, "block": 256, "with_gradient": True, "with_prediction": True}
    eager, compiled = (
        stream_by_softmax(products, x.detach(), y, one, one, compiled=compiled, **options)
        for compiled in (False, True)
    )
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(
        frame_cross_entropy(x, y, frame, compiled=True), frame_cross_entropy(x, y, frame)
    )  # a CPU has nothing to compile


@pytest.mark.parametrize("masked", [slice(0, 500), slice(500, 1100), slice(3, 40)])
def test_masked_classes_may_fill_blocks(masked, as_on_a_gpu):
    frame, adjustment = EVERY["antipodal"], torch.zeros(1100, dtype=torch.float64)
    adjustment[masked] = -torch.inf
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left = (adjustment == 0.0).nonzero()[:, 0]
    y = left[:: len(left) // 6][:6].clone()
    options = {"logit_adjustment": adjustment, "reduction": "none"}
    found = results(frame_cross_entropy, x, y, frame, 8.0, block=128, **options)
    expected = results(dense_loss, x, y, frame, 8.0, **options)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    y[2] = masked.start  # a sample of a masked class has no finite loss, and spoils no other
    losses = frame_cross_entropy(x, y, frame, scale=8.0, block=128, **options)
    assert losses[2] == torch.inf
    assert torch.equal(losses[[0, 1, 3, 4, 5]], found[0][[0, 1, 3, 4, 5]])


def test_half_products_are_half_where_all_classes_are_one_block():
    frame = SimplexFrame(400, 512)  # structured: without product_dtype its logits are formed at once
    x, y = torch.randn(4, 512, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    whole, half = (
        frame_cross_entropy(x, y, frame, scale=1.0, product_dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0.0 < (whole - half).abs() < 0.02 * whole
