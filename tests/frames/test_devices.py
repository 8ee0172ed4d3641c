"""Frames on other devices: tensors of the CPU whatever the default, products where the features are."""

import pytest
import torch
from torch import nn

from etfhead.frames import (
    AssignedFrame,
    ClassMeansFrame,
    CodeFrame,
    OrientedSimplexFrame,
    RegressionFrame,
    make_frame,
    streamed_topk,
    target_statistics,
)
from etfhead.frames.assign import assign_classes
from etfhead.frames.class_sums import ClassSums
from etfhead.frames.orient import class_means_code, orient_simplex, polar_factor
from tests.devices import cuda, devices


def unit(K, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(K, d, generator=generator, dtype=torch.float64))


VECTORS = unit(10, 16)
SIMPLEX_VECTORS = orient_simplex(unit(10, 16))
TURN = polar_factor(unit(64, 64))
COVARIANCE = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
COUNTS = [400, 100, 25, 5]


def named(name, K, d, **options):
    return lambda: make_frame(name, num_classes=K, in_features=d, **options)


FRAMES = {
    "simplex": named("simplex", 10, 16),
    "simplex haar": named("simplex", 10, 16, basis="haar"),
    "simplex identity": named("simplex", 10, 16, basis="identity"),
    "simplex K = d + 1": named("simplex", 17, 16),
    "simplex of a prime width": named("simplex", 10, 17),
    "simplex structured": named("simplex", 200, 384),
    "orthoplex": named("orthoplex", 20, 16),
    "orthoplex structured": named("orthoplex", 500, 256),
    "union": named("union", 60, 16),
    "union quadratic": named("union", 1100, 64, signs="quadratic"),
    "union random": named("union", 700, 96, signs="random"),
    "union antipodal": named("union", 1100, 128, antipodal=True),
    "code": lambda: CodeFrame(10, 16, vectors=VECTORS),
    "class means": lambda: ClassMeansFrame(10, 16, vectors=VECTORS),
    "oriented": lambda: OrientedSimplexFrame(10, 16, vectors=SIMPLEX_VECTORS),
    "assigned": lambda: AssignedFrame(10, 16, base=named("simplex", 10, 16)(), assignment=[*range(1, 10), 0]),
    "assigned structured": lambda: AssignedFrame(
        1100, 64, base=named("union", 1100, 64)(), assignment=[*range(1, 1100), 0], rotation=TURN
    ),
    "orthogonal": named("orthogonal", 4, 16, class_counts=COUNTS),
    "orthogonal structured": named("orthogonal", 200, 384, class_counts=list(range(1, 201))),
    "imbalanced": named("imbalanced_ce", 4, 16, class_counts=COUNTS),
    "seli": named("seli", 4, 16, class_counts=COUNTS),
    "regression": lambda: RegressionFrame(2, 16, covariance=COVARIANCE),
}
frames = pytest.mark.parametrize("name", FRAMES)


def tensors(frame):
    return {"matrix": frame.matrix(), **frame.factors(), **frame.state()}


def placed(frame, dtype, device):
    return {
        name: factor.to(device, dtype) if factor.is_floating_point() else factor.to(device)
        for name, factor in frame.factors().items()
    }


@frames
@pytest.mark.parametrize("default", ["meta", cuda])
def test_frames_are_built_on_the_cpu_under_any_default_device(name, default):
    expected = FRAMES[name]()
    with torch.device(default):
        frame = FRAMES[name]()
        found = tensors(frame)
        assert frame.max_norm == expected.max_norm
        assert frame.coherence() == expected.coherence()
        assert frame == expected
    for key, tensor in tensors(expected).items():
        assert found[key].device.type == "cpu", key
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("default", ["meta", cuda])
def test_what_comes_from_data_is_computed_on_the_cpu_under_any_default_device(default):
    means, targets = unit(10, 16), unit(50, 2)
    union = make_frame("union", num_classes=60, in_features=16)

    def everything():
        assigned = assign_classes(union, unit_of_60)
        return [
            orient_simplex(means),
            class_means_code(means, 8),
            assigned.assignment,
            assigned.matrix(),
            assign_classes(union, unit_of_60, method="greedy").matrix(),
            *target_statistics(targets),
            *target_statistics(targets.tolist()),
        ]

    unit_of_60 = unit(60, 16)
    expected = everything()
    with torch.device(default):
        found = everything()
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cpu"
        assert torch.equal(one, other)


@devices
@frames
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_products_and_gradients_are_those_of_the_matrix(name, dtype, tolerance, device):
    frame = FRAMES[name]()
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(3, 5, frame.in_features, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.randn(3, 5, frame.num_classes, generator=generator, dtype=torch.float64).to(dtype)
    features = h.to(device).requires_grad_()
    logits = frame.logits(features)
    assert logits.device.type == device
    assert logits.dtype == dtype
    logits.backward(weights.to(device))
    expected, gradient = h.double() @ frame.matrix().T, weights.double() @ frame.matrix()
    for found, exact in ((logits, expected), (features.grad, gradient)):
        off = (found.detach().cpu().double() - exact).abs().max()
        assert off <= tolerance * exact.abs().max()


@devices
@frames
def test_blocks_and_the_best_classes_are_those_of_the_matrix(name, device):
    frame = FRAMES[name]()
    K, unit_block = frame.num_classes, frame.block_size
    factors = placed(frame, torch.float64, device)
    generator = torch.Generator().manual_seed(2)
    h = torch.randn(7, frame.in_features, generator=generator, dtype=torch.float64)
    full = h @ frame.matrix().T
    stored = frame.stored_index(torch.arange(K, device=device), factors).cpu()
    in_store = torch.empty_like(full)
    in_store[:, stored] = full
    x = frame.enter(h.to(device), factors)
    step = unit_block * max(1, K // unit_block // 2)
    backward = torch.zeros_like(x)
    for start in range(0, K, step):
        stop = min(start + step, K)
        z = frame.block_logits(x, factors, start, stop)
        assert z.device.type == device
        torch.testing.assert_close(z.cpu(), in_store[:, start:stop], rtol=1e-10, atol=1e-10)
        backward += frame.block_adjoint(in_store[:, start:stop].to(device), factors, start, stop)
    back = frame.leave(backward, factors)
    torch.testing.assert_close(back.cpu(), full @ frame.matrix(), rtol=1e-10, atol=1e-10)
    k = min(3, K)
    best = streamed_topk(h.to(device), frame, factors, k, block=step)
    assert best.indices.device.type == device
    torch.testing.assert_close(best.values.cpu(), full.topk(k).values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(full.gather(1, best.indices.cpu()), best.values.cpu(), rtol=1e-10, atol=1e-10)


@devices
def test_the_best_of_many_classes_over_many_samples(device):
    """More of both than one block of a GPU holds."""
    frame = make_frame("union", num_classes=3000, in_features=64)
    h = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    factors = placed(frame, torch.float32, device)
    best = streamed_topk(h.to(device), frame, factors, 2)
    full = h.double() @ frame.matrix().T
    torch.testing.assert_close(best.values.cpu().double(), full.topk(2).values, rtol=1e-5, atol=1e-5)
    chosen = full.gather(1, best.indices.cpu())
    torch.testing.assert_close(chosen, best.values.cpu().double(), rtol=1e-5, atol=1e-5)


@devices
def test_geometry_from_means_does_not_depend_on_where_they_are(device):
    means = unit(10, 16)
    there = means.to(device)
    base = make_frame("simplex", num_classes=10, in_features=16)
    assert torch.equal(orient_simplex(there), orient_simplex(means))
    assert torch.equal(class_means_code(there, 8), class_means_code(means, 8))
    assert assign_classes(base, there) == assign_classes(base, means)
    statistics = target_statistics(there)
    assert all(torch.equal(a, b) for a, b in zip(statistics, target_statistics(means), strict=True))
    assert (
        OrientedSimplexFrame(10, 16, vectors=orient_simplex(there).to(device)).matrix().device.type == "cpu"
    )
    counts = torch.tensor(COUNTS, device=device)
    assert make_frame("seli", num_classes=4, in_features=16, class_counts=counts) == FRAMES["seli"]()
    turned = AssignedFrame(
        10,
        16,
        base=base,
        assignment=torch.arange(10, device=device).flip(0),
        rotation=polar_factor(unit(16, 16)).to(device),
    )
    assert all(tensor.device.type == "cpu" for tensor in turned.state().values())


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("soft", [False, True])
def test_class_sums_are_those_of_a_loop(dtype, soft, device):
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(40, 6, generator=generator) + 100).to(dtype)
    target = torch.randint(0, 4, (40,), generator=generator)
    weights = nn.functional.one_hot(target, 4).double()
    if soft:
        weights = torch.rand(40, 4, generator=generator).double()
    else:
        target[::7], weights[::7] = -100, 0.0
    sums = ClassSums(4, 6, device=device)
    for rows in torch.arange(40).split(17):
        labels = weights[rows] if soft else target[rows]
        # Once a batch from where the model is, once from where the loader is.
        sums.update(features[rows].to(device), labels if rows[0] else labels.to(device))
    x = features.double()
    share = weights / weights.sum()
    mean = share.sum(1) @ x
    assert sums.means().device.type == device
    torch.testing.assert_close(
        sums.means().cpu(), weights.T @ x / weights.sum(0)[:, None], rtol=1e-12, atol=0
    )
    torch.testing.assert_close(sums.total_mean.cpu(), mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        sums.total_variance.cpu(), share.sum(1) @ (x - mean).square(), rtol=1e-9, atol=0
    )


@devices
def test_class_sums_name_the_batch_on_every_device(device):
    sums = ClassSums(3, 2, device=device)
    sums.update(torch.ones(2, 2, device=device), torch.tensor([0, 2], device=device))
    with pytest.raises(ValueError, match="expected classes from 0 to 2, got 1 to 3 in batch 1"):
        sums.update(torch.ones(2, 2, device=device), torch.tensor([1, 3], device=device))
    with pytest.raises(ValueError, match="1 of 4 numbers of batch 1 are NaN or infinite"):
        sums.update(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]], device=device), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"1 of 3 classes have no sample \(1\)"):
        sums.means()
    assert sums.means(empty="mean").cpu().tolist() == [[1.0, 1.0]] * 3
