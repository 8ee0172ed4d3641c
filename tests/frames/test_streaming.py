import pytest
import torch

from etfhead.frames import AssignedFrame, Frame, OrthoplexFrame, SimplexFrame, UnionFrame
from etfhead.frames.streaming import BlockProducts, WrittenBlocks, block_grid, streamed_topk


class Dense(Frame):
    """Random vectors of any norm; remembers which blocks it was asked for."""

    name = "dense"

    def __init__(self, num_classes, in_features):
        super().__init__(num_classes, in_features)
        self.asked = []

    def matrix(self):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.num_classes, self.in_features, generator=generator, dtype=torch.float64)

    def spec(self):
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}

    def block_logits(self, x, factors, start, stop):
        self.asked.append((start, stop))
        return super().block_logits(x, factors, start, stop)


def assigned():
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(1100, generator=generator)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    return AssignedFrame(1100, 64, base=UnionFrame(1100, 64), assignment=order, rotation=rotation)


FRAMES = [
    Dense(150, 12),
    SimplexFrame(20, 24),
    SimplexFrame(300, 512),
    SimplexFrame(40, 48, basis="identity"),
    OrthoplexFrame(400, 256),
    UnionFrame(1100, 64),
    UnionFrame(1100, 64, antipodal=True),
    assigned(),
]


@pytest.mark.parametrize("block", [None, 1, 70, 10**6])
@pytest.mark.parametrize("frame", FRAMES, ids=repr)
def test_topk_equals_that_of_all_logits(frame, block):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, frame.in_features, generator=generator, dtype=torch.float64)
    best = streamed_topk(x, frame, frame.factors(), 5, block=block)
    expected = (x @ frame.matrix().T).topk(5)
    torch.testing.assert_close(best.values, expected.values)
    assert torch.equal(best.indices, expected.indices)


def test_topk_of_all_classes_sorts_them_and_of_many_samples_goes_in_parts():
    frame = SimplexFrame(7, 8)
    x = torch.randn(1300, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = streamed_topk(x, frame, frame.factors(), 7, block=2)
    assert torch.equal(best.indices, (x @ frame.matrix().T).argsort(dim=-1, descending=True))
    assert streamed_topk(x[:0], frame, frame.factors(), 2).values.shape == (0, 2)


def test_topk_never_asks_for_more_than_a_block():
    frame = Dense(1000, 4)
    streamed_topk(torch.randn(3, 4, dtype=torch.float64), frame, frame.factors(), 2, block=64)
    assert frame.asked == [(start, min(start + 64, 1000)) for start in range(0, 1000, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frame", [Dense(150, 12), UnionFrame(1100, 64), assigned()], ids=repr)
def test_factors_of_another_type_are_cast(frame, dtype):
    x = torch.randn(2, frame.in_features, generator=torch.Generator().manual_seed(2), dtype=dtype)
    best = streamed_topk(x, frame, frame.factors(), 1)
    assert best.values.dtype == dtype
    exact = (x.double() @ frame.matrix().T).amax(1, keepdim=True)
    torch.testing.assert_close(best.values.double(), exact, rtol=3e-2, atol=0)


def test_a_dense_weight_of_another_type_is_cast_slice_by_slice():
    frame = Dense(64, 4)
    weight = frame.factors()["weight"]
    products = BlockProducts(frame, {"weight": weight}, torch.float32)
    assert products.factors["weight"] is weight
    x, c = torch.randn(3, 4), torch.randn(3, 16)
    torch.testing.assert_close(products.logits(x, 16, 32), x @ weight[16:32].float().T)
    torch.testing.assert_close(products.adjoint(c, 16, 32), c @ weight[16:32].float())


@pytest.mark.parametrize(
    "frame",
    [
        UnionFrame(1100, 64),
        UnionFrame(1100, 64, antipodal=True),
        UnionFrame(900, 60, signs="random"),
        Dense(150, 12),
        assigned(),
    ],
    ids=repr,
)
def test_written_blocks_are_the_stored_vectors(frame):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, frame.in_features, generator=generator, dtype=torch.float64)
    plain, written = (kind(frame, frame.factors(), x.dtype) for kind in (BlockProducts, WrittenBlocks))
    unit, classes = frame.block_size, frame.num_classes
    for start, stop in ((0, min(2 * unit, classes)), (unit if unit < classes else 0, classes)):
        c = torch.randn(5, stop - start, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(written.logits(x, start, stop), plain.logits(x, start, stop))
        torch.testing.assert_close(written.adjoint(c, start, stop), plain.adjoint(c, start, stop))


@pytest.mark.parametrize("frame", FRAMES, ids=repr)
def test_vectors_at_any_index(frame):
    index = torch.tensor([frame.num_classes - 1, 0, 1, 0])
    products = BlockProducts(frame, frame.factors(), torch.float64)
    x = torch.randn(3, frame.in_features, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = products.logits(x, 0, frame.num_classes)[:, index]
    torch.testing.assert_close(x @ products.vectors(index, torch.float64).T, expected)


@pytest.mark.parametrize("frame", FRAMES, ids=repr)
def test_block_logits_may_be_overwritten(frame):
    x = torch.randn(3, frame.in_features, dtype=torch.float64)
    before = x.clone()
    BlockProducts(frame, frame.factors(), x.dtype).logits(x, 0, frame.num_classes).zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("rows", [1, 128, 5000])
@pytest.mark.parametrize("frame", FRAMES, ids=repr)
def test_blocks_are_what_the_frame_allows_and_fit_the_cache(frame, rows):
    samples, classes = block_grid(frame, rows, torch.device("cpu"))
    assert 1 <= samples <= rows
    assert classes == frame.num_classes or classes % frame.block_size == 0
    assert samples * classes * 4 <= 4e6
    _, asked = block_grid(frame, rows, torch.device("cpu"), block=65)
    assert asked == frame.num_classes or (65 <= asked < 65 + frame.block_size)


@pytest.mark.parametrize(
    ("k", "x", "block", "message"),
    [
        (0, torch.zeros(2, 4), None, "k=0"),
        (11, torch.zeros(2, 4), None, "k=11: expected an integer from 1 to num_classes=10"),
        (1, torch.zeros(2, 5), None, r"x: expected a last dimension of 4, got shape \(2, 5\)"),
        (1, torch.zeros(2, 4), 0, "block=0"),
    ],
)
def test_bad_input(k, x, block, message):
    frame = Dense(10, 4)
    with pytest.raises(ValueError, match=message):
        streamed_topk(x, frame, frame.factors(), k, block=block)
