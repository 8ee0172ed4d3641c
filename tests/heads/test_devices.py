"""Heads on other devices: the numbers of a dense float64 reference on the CPU, in every precision."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from etfhead.frames import AssignedFrame, ClassMeansFrame, make_frame
from etfhead.frames.orient import polar_factor
from etfhead.heads import (
    ClassMeanConvHead,
    ClassMeanHead,
    CosineConvHead,
    CosineHead,
    DeltaRuleConvHead,
    DeltaRuleHead,
    ETFConvHead,
    ETFHead,
    FollowingHead,
    GuidedETFConvHead,
    GuidedETFHead,
    LinearConvHead,
    LinearHead,
    MultiLabelETFConvHead,
    MultiLabelETFHead,
    RegressionConvHead,
    RegressionHead,
    decode_labels,
    label_lists,
    multi_hot,
)
from etfhead.heads.label_calibration import (
    best_class_thresholds,
    best_threshold,
    fit_gaps,
    fit_offsets,
)
from etfhead.heads.label_search import centred_logits
from tests.devices import compiles, cuda_only, devices


@pytest.fixture(autouse=True)
def exact_products():
    """Without TF32, which is the default of cuDNN's convolutions."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def rows(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


UNIT = nn.functional.normalize(rows(10, 16))
COUNTS = [400, 100, 25, 5]
TARGETS = rows(60, 3) @ torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.2]]).double() + 5
ASSIGNED = AssignedFrame(
    1100,
    64,
    base=make_frame("union", num_classes=1100, in_features=64),
    assignment=[*range(1, 1100), 0],
    rotation=polar_factor(rows(64, 64)),
)


def make(kind, d, K, **options):
    return lambda **more: kind(d, K, **options, **more)


HEADS = {
    "etf": make(ETFHead, 16, 10),
    "etf K = d + 1": make(ETFHead, 16, 17),
    "etf haar": make(ETFHead, 16, 10, basis="haar"),
    "etf identity": make(ETFHead, 16, 10, basis="identity"),
    "etf structured": make(ETFHead, 384, 200),
    "etf bare": make(ETFHead, 16, 10, neck=None),
    "etf normalised": make(ETFHead, 16, 10, normalize=True, learn_scale=False),
    "etf low rank": make(ETFHead, 16, 10, low_rank=2),
    "etf conv": make(ETFConvHead, 16, 10),
    "etf conv structured": make(ETFConvHead, 384, 200),
    "orthoplex": make(ETFHead, 16, 20),
    "orthoplex structured": make(ETFHead, 256, 500),
    "union": make(ETFHead, 16, 60),
    "union quadratic": make(ETFHead, 64, 1100),
    "union random": make(ETFHead, 96, 700, frame=make_frame("union", num_classes=700, in_features=96)),
    "union antipodal": make(
        ETFHead, 128, 1100, frame=make_frame("union", num_classes=1100, in_features=128, antipodal=True)
    ),
    "union low rank": make(ETFHead, 64, 1100, low_rank=3),
    "class means frame": make(
        ETFHead, 16, 10, frame=ClassMeansFrame(10, 16, vectors=nn.functional.normalize(rows(10, 16, 3)))
    ),
    "assigned": make(ETFHead, 64, 1100, frame=ASSIGNED),
    "orthogonal": make(ETFHead, 16, 4, frame="orthogonal", class_counts=COUNTS),
    "imbalanced": make(ETFHead, 16, 4, frame="imbalanced_ce", class_counts=COUNTS),
    "seli": make(ETFHead, 16, 4, frame="seli", class_counts=COUNTS),
    "class mean": make(ClassMeanHead, 16, 10),
    "class mean repelling": make(ClassMeanHead, 16, 10, repel=0.3, centre=0.5, neck=None),
    "class mean conv": make(ClassMeanConvHead, 16, 10, repel=0.1),
    "delta": make(DeltaRuleHead, 16, 10, label_smoothing=0.1),
    "delta bare": make(DeltaRuleHead, 16, 10, neck=None, rate=0.5),
    "delta conv": make(DeltaRuleConvHead, 16, 10),
    "guided": make(GuidedETFHead, 16, 10, every=2),
    "guided conv": make(GuidedETFConvHead, 16, 10, every=1),
    "multilabel": make(MultiLabelETFHead, 16, 10),
    "multilabel conv": make(MultiLabelETFConvHead, 16, 10),
    "cosine": make(CosineHead, 16, 10),
    "cosine conv": make(CosineConvHead, 16, 10, neck="batchnorm"),
    "linear": make(LinearHead, 16, 10, neck="batchnorm"),
    "linear conv": make(LinearConvHead, 16, 10),
    "regression": make(RegressionHead, 16, 3, targets=TARGETS),
    "regression neck": make(RegressionHead, 16, 3, targets=TARGETS, whiten=True, neck="batchnorm"),
    "regression conv": make(RegressionConvHead, 16, 3, targets=TARGETS),
}
FOLLOWING = {
    name: build
    for name, build in HEADS.items()
    if name.startswith(("class mean", "delta", "guided")) and name != "class means frame"
}
LEARNABLE = ("cosine", "linear")
heads = pytest.mark.parametrize("name", HEADS)
following = pytest.mark.parametrize("name", FOLLOWING)


def built(name, **more):
    """A head whose parameters are off their start, the same at every call."""
    head = HEADS[name](**more)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in head.parameters():
            value = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(value.abs() + 1 if parameter.numel() == 1 else value)
    return head


def features_of(head, seed=0, samples=24):
    shape = (samples, head.in_features, 3, 2) if head.channel_dim == 1 else (samples, head.in_features)
    return 0.5 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive(head, h):
    """Logits of features, class axis last, by the formula; in float64 with the dense class vectors."""
    x = h.movedim(1, -1) if head.channel_dim == 1 else h
    if head.neck is not None and head.training:
        axes = tuple(range(x.ndim - 1))
        x = (x - x.mean(axes)) / (x.var(axes, correction=0) + head.neck.eps).sqrt()
    elif head.neck is not None:
        x = (x - head.neck.running_mean) / (head.neck.running_var + head.neck.eps).sqrt()
    if not isinstance(head, ETFHead | LinearHead | RegressionHead) or getattr(head, "normalize", False):
        x = x / x.norm(dim=-1, keepdim=True)
    products = x @ head.class_vectors().T
    if isinstance(head, LinearHead | RegressionHead):
        return products + head.bias
    behind_neck = isinstance(head, ETFHead) and head.neck is not None and not head.normalize
    return head.scale * products / (head.frame.active_features**0.5 if behind_neck else 1.0)


def class_last(head, outputs):
    return outputs.movedim(1, -1) if head.channel_dim == 1 else outputs


def assert_close(found, exact, tolerance, what=""):
    """To a share of the largest number."""
    found, exact = found.detach().cpu().double(), exact.detach().cpu().double()
    assert found.shape == exact.shape, what
    assert torch.isfinite(found).all(), what
    off = (found - exact).abs().max().item()
    assert off <= tolerance * exact.abs().max().item() + 1e-12, f"{what}: off by {off:.3g}"


def everywhere(head, device):
    return {t.device.type for t in [*head.parameters(), *head.buffers()]} == {device}


@devices
@pytest.mark.parametrize("training", [True, False])
@heads
def test_logits_and_gradients(name, training, device):
    head = built(name).to(device).train(training)
    assert everywhere(head, device)
    twin = copy.deepcopy(head).cpu().double()
    h = features_of(head)
    exact_features = h.double().requires_grad_()
    features = h.to(device).requires_grad_()
    outputs = head(features)
    assert outputs.device.type == device
    exact = naive(twin, exact_features)
    assert_close(class_last(head, outputs), exact, 2e-5, "logits")
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (class_last(head, outputs) * weights.to(outputs)).sum().backward()
    (exact * weights).sum().backward()
    assert_close(features.grad, exact_features.grad, 5e-5, "features")
    exact_gradients = {key: p.grad for key, p in twin.named_parameters()}
    for key, parameter in head.named_parameters():
        # The scale's is one sum over all logits, of both signs.
        assert_close(parameter.grad, exact_gradients[key], 5e-5 if parameter.numel() > 1 else 2e-3, key)


@devices
@heads
def test_a_head_built_on_a_device_is_the_one_that_was_moved_there(name, device):
    moved = built(name).to(device)
    with torch.device(device):
        there = HEADS[name]()
    asked = HEADS[name](device=device)
    with torch.device("meta"):
        empty = HEADS[name]()
    assert everywhere(empty, "meta")
    empty.to_empty(device=device)
    empty.reset_parameters()
    for head in (there, asked, empty):
        assert everywhere(head, device)
        if not name.startswith(LEARNABLE):  # these draw their start from the device's own generator
            expected = HEADS[name]().state_dict()
            for key, tensor in head.state_dict().items():
                assert torch.equal(tensor.cpu(), expected[key]), key
        head.load_state_dict(moved.state_dict())
        h = features_of(head).to(device)
        assert_close(head.eval()(h), moved.eval()(h), 1e-6)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@heads
def test_a_head_that_was_rounded_is_exact_again(name, dtype, device):
    h = features_of(HEADS[name]()).to(device, dtype)
    direct = HEADS[name](device=device, dtype=dtype)
    assert direct(h).dtype == dtype
    assert direct(h).isfinite().all()
    head = HEADS[name]().to(device)
    before = {key: tensor.clone() for key, tensor in head.state_dict().items()}
    head.to(dtype)
    outputs = head.eval()(h)
    assert outputs.dtype == dtype
    exact = naive(copy.deepcopy(head).cpu().double(), h.cpu().double())
    assert_close(class_last(head, outputs), exact, 0.06)
    head.float()
    if isinstance(head, ETFHead | RegressionHead) and not isinstance(head, GuidedETFHead):
        for key in {"weight", "frame_id", "bias"} & before.keys():
            assert torch.equal(head.state_dict()[key], before[key]), key


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@heads
def test_autocast(name, dtype, device):
    """Logits with a scale are float32; without one they have autocast's type, as nn.Linear's have."""
    head = built(name).to(device).train()
    twin = copy.deepcopy(head).cpu().double()
    h = features_of(head)
    features = h.to(device).requires_grad_()
    with torch.autocast(device, dtype):
        outputs = head(features)
        again = head(features.detach().to(dtype))
    assert outputs.dtype == (torch.float32 if hasattr(head, "scale") else dtype)
    assert again.dtype == outputs.dtype
    exact = naive(twin, h.double())
    assert_close(class_last(head, outputs), exact, 0.03)
    assert_close(class_last(head, again), exact, 0.03)
    outputs.float().logsumexp(1).mean().backward()
    for tensor in (features, *head.parameters()):
        assert tensor.grad.isfinite().all()
    if isinstance(head, FollowingHead):
        head.update(torch.arange(len(h)) % head.num_classes)
        assert all(buffer.isfinite().all() for buffer in head.buffers())


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", [n for n in HEADS if n not in ("etf bare", "linear conv", "regression", "regression conv")]
)
def test_large_features_stay_finite_in_half_precision(name, dtype, device):
    """Of a size at which the square of a norm is beyond float16."""
    head = HEADS[name]().to(device).train()
    features = (1e3 * features_of(head)).to(device, dtype).requires_grad_()
    with torch.autocast(device, dtype):
        outputs = head(features)
    outputs.float().logsumexp(1).mean().backward()
    assert outputs.isfinite().all()
    assert features.grad.isfinite().all()


@devices
@heads
def test_checkpoints_go_from_device_to_device(name, device):
    head = built(name).to(device).train()
    head(features_of(head, seed=1).to(device))
    if isinstance(head, FollowingHead):
        head.update(torch.arange(24, device=device) % head.num_classes)
    head.eval()
    h = features_of(head)
    outputs = head(h.to(device))
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    states = [head.state_dict()]
    for where in ("cpu", device):
        file.seek(0)
        states.append(torch.load(file, map_location=where, weights_only=True))
    for state in states:
        for target in {"cpu", device}:
            other = HEADS[name]().to(target).eval()
            other.load_state_dict(state)
            assert everywhere(other, target)
            assert_close(other(h.to(target)), outputs, 2e-5)
            for key, tensor in other.state_dict().items():
                assert torch.equal(tensor.cpu(), head.state_dict()[key].cpu()), key


@devices
def test_another_heads_checkpoint_is_refused_on_every_device(device):
    state = ETFHead(16, 10, seed=1).to(device).state_dict()
    with pytest.raises(RuntimeError, match="is not the head's fixed frame"):
        ETFHead(16, 10).to(device).load_state_dict(state)
    state = nn.Linear(16, 3).to(device).state_dict()
    with pytest.raises(RuntimeError, match="is not a symmetric matrix times"):
        RegressionHead(16, 3, targets=TARGETS).to(device).load_state_dict(state, strict=False)


@devices
def test_an_aligned_checkpoint_is_adopted_on_every_device(device):
    head = ETFHead(64, 1100).to(device)
    head.adopt_frame(ASSIGNED)
    assert everywhere(head, device)
    state = head.state_dict()
    for target in {"cpu", device}:
        other = ETFHead(64, 1100).to(target)
        other.load_state_dict(state)
        assert everywhere(other, target)
        assert other.frame == head.frame


@devices
@heads
def test_copies_folds_and_the_best_classes(name, device):
    head = built(name).to(device).train()
    h = features_of(head).to(device)
    head(h)
    head.eval()
    outputs = head(h)
    twin = copy.deepcopy(head)
    assert everywhere(twin, device)
    assert_close(twin(h), outputs, 1e-6)
    with torch.no_grad():
        for tensor in [*head.parameters(), *head.buffers()]:
            tensor.zero_()
    assert_close(twin(h), outputs, 1e-6)
    vectors = twin.class_vectors()
    assert vectors.device.type == device
    assert vectors.dtype == torch.float32
    assert repr(twin)
    if hasattr(twin, "topk"):
        best = twin.topk(h, 3)
        assert best.indices.device.type == device
        assert_close(best.values, outputs.topk(3, dim=1).values, 2e-5)
        assert_close(outputs.gather(1, best.indices), best.values, 2e-5)
    try:
        layer = twin.fuse()
    except ValueError as error:
        assert "normalise" in str(error) or "normalize" in str(error)  # noqa: PT017
    else:
        assert everywhere(layer, device)
        assert_close(layer(h), outputs, 5e-5)


@devices
@pytest.mark.parametrize("soft", [False, True])
@following
def test_class_vectors_follow_as_they_do_in_float64_on_the_cpu(name, soft, device):
    head = FOLLOWING[name]().to(device).train()
    twin = FOLLOWING[name]().double().train()
    start = nn.functional.normalize(rows(head.num_classes, head.in_features, 9))
    for one in (head, twin):
        one.start_from(start.to(next(one.buffers()).device))
    generator = torch.Generator().manual_seed(2)
    for step in range(6):
        h = features_of(head, seed=step)
        target = torch.randint(0, head.num_classes, (len(h),), generator=generator)
        if soft:
            target = nn.functional.one_hot(target, head.num_classes).double()
            target = 0.7 * target + 0.3 * target.flip(0)
        else:
            target[step] = -100
        head(h.to(device))
        twin(h.double())
        head.update(target if step % 2 else target.to(device))  # labels may still be the loader's
        twin.update(target)
    assert everywhere(head, device)
    exact = twin.state_dict()
    for key, tensor in head.state_dict().items():
        assert_close(tensor, exact[key], 2e-4, key)
    assert not torch.allclose(head.class_vectors().cpu().double(), start, atol=1e-2)


@devices
def test_more_classes_than_one_block_of_the_delta_rule(device, monkeypatch):
    from etfhead.heads import delta_rule

    monkeypatch.setattr(delta_rule, "_NUMBERS", 24 * 7)
    monkeypatch.setattr(delta_rule, "_CACHED", 24 * 7)
    for fused in (False, True):
        head = DeltaRuleHead(16, 50, fused=fused, neck=None).to(device).train()
        twin = DeltaRuleHead(16, 50, neck=None).double().train()
        h, target = features_of(head), torch.arange(24) * 2
        head(h.to(device))
        twin(h.double())
        head.update(target.to(device))
        twin.update(target)
        assert_close(head.weight, twin.weight, 1e-5)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("classes", "samples"), [(40, 9), (16, 40)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ClassMeanHead, {}),
        (ClassMeanHead, {"centre": False}),
        (ClassMeanHead, {"repel": 0.3}),
        (ClassMeanHead, {"repel": 0.3, "centre": False}),
        (GuidedETFHead, {"every": 2}),
    ],
)
def test_an_update_that_does_not_ask_gives_the_same_vectors(
    kind, options, classes, samples, soft, monkeypatch
):
    """What a GPU computes, with the CPU's numbers; samples share classes, and some are left out."""
    heads = [kind(48, classes, neck=None, **options) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        h = features_of(heads[0], seed=seed, samples=samples)
        target = torch.randint(1, 5, (samples,), generator=generator)
        h[0], target[1] = torch.nan, 1 if soft else -100
        if soft:
            target = 0.7 * nn.functional.one_hot(target, classes) + 0.3 / classes
        for head, known in zip(heads, (("cpu",), ()), strict=True):
            monkeypatch.setattr("etfhead.heads.batch_sums._KNOWN", known)
            head(h)
            head.update(target)
    for key, tensor in heads[0].state_dict().items():
        assert_close(heads[1].state_dict()[key], tensor, 1e-5, key)


@devices
@pytest.mark.parametrize("classes", [10, 100])
def test_classes_out_of_the_batch_keep_every_bit_on_every_device(classes, device, monkeypatch):
    """Also class 0, whose place samples that are left out take, and where none is left."""
    monkeypatch.setattr("etfhead.heads.batch_sums._KNOWN", ())
    head = ClassMeanHead(16, classes, neck=None, centre=False).to(device).train()
    head.start_from(rows(classes, 16))
    before = head.state_dict()["weight"].clone()
    h = features_of(head).to(device)
    h[3] = torch.inf
    target = torch.full((24,), -1)
    for named in ([], [2, 5], [0, 5, 9]):
        target[5 : 5 + len(named)] = torch.tensor(named, dtype=torch.int64)
        head(h)
        head.update(target.to(device))
        changed = (head.weight != before).any(1).nonzero().flatten().tolist()
        assert changed == sorted({*named, *([2] if 0 in named else [])})


@devices
def test_targets_of_the_cpu_that_are_out_of_range_are_named_on_every_device(device):
    head = ClassMeanHead(16, 10).to(device).train()
    head(features_of(head).to(device))
    with pytest.raises(ValueError, match="expected classes below 10, got 10"):
        head.update(torch.full((24,), 10))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head", ["ClassMeanHead(16, 10)", "ClassMeanHead(16, 99)", "DeltaRuleHead(16, 99)"])
def test_targets_of_a_gpu_that_are_out_of_range_stop_the_kernel(head):
    """In a process of its own, whose device is lost afterwards."""
    code = f"""
import torch
from etfhead.heads import ClassMeanHead, DeltaRuleHead
head = {head}.to("cuda")
head(torch.randn(24, 16, device="cuda"))
torch.cuda.synchronize()
print("ready", flush=True)
head.update(torch.full((24,), head.num_classes, device="cuda"))
torch.cuda.synchronize()
print("passed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["ready"]
    assert "device-side assert" in done.stderr


class Copies(TorchDispatchMode):
    """Notes copies between devices."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {t.device.type for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)}
            self.found += [(str(func), *devices)] if len(devices) > 1 else []
        return out


UNWAITED = {
    "class mean": make(ClassMeanHead, 16, 10),
    "class mean uncentred": make(ClassMeanHead, 16, 10, centre=False),
    "class mean of many": make(ClassMeanHead, 16, 5000),
    "class mean of many, uncentred": make(ClassMeanHead, 16, 5000, centre=False),
    "class mean repelling": make(ClassMeanHead, 16, 300, repel=0.3),
    "class mean repelling, streamed": make(ClassMeanHead, 16, 300, repel=0.3, fused=True),
    "class mean conv": make(ClassMeanConvHead, 16, 10, repel=0.1),
    "delta": make(DeltaRuleHead, 16, 10, label_smoothing=0.1),
    "delta streamed": make(DeltaRuleHead, 16, 300, fused=True),
    "delta conv": make(DeltaRuleConvHead, 16, 10),
    "guided": make(GuidedETFHead, 16, 10, every=20),
    "guided conv": make(GuidedETFConvHead, 16, 10, every=20, until=3),
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", UNWAITED)
def test_an_update_asks_a_gpu_for_nothing(name, soft):
    """Without a GPU: tensors without numbers, which cannot be asked for any."""
    head = UNWAITED[name]()
    with FakeTensorMode():
        for module in head.modules():
            for held in (module._parameters, module._buffers):
                for key, tensor in held.items():
                    if tensor is not None:
                        there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        held[key] = nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there
        if isinstance(head, GuidedETFHead):
            head._counted = (head.updates, head.updates._version, 0)
        h = torch.empty(24, *features_of(head).shape[1:], device="cuda")
        target = torch.empty(24, dtype=torch.int64, device="cuda")
        if soft:
            target = torch.empty(24, head.num_classes, device="cuda")
        with Copies() as copies:
            head(h)
            head.update(target)
        assert not copies.found
        with pytest.raises(DynamicOutputShapeException):  # the check can fail
            h[h > 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", UNWAITED)
def test_a_gpu_is_not_waited_for(name, soft):
    head = UNWAITED[name]().to("cuda").train()
    h = features_of(head).to("cuda")
    target = torch.randint(0, head.num_classes, (24,), generator=torch.Generator().manual_seed(0))
    target = nn.functional.one_hot(target, head.num_classes).float() if soft else target
    target = target.to("cuda")
    head(h)
    head.update(target)  # a guided head asks once at which update it is
    twin = copy.deepcopy(head)
    twin(h)
    twin.update(target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        head(h)
        head.update(target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for key, tensor in head.state_dict().items():
        assert_close(tensor, twin.state_dict()[key], 1e-5, key)


@devices
@pytest.mark.parametrize("name", [n for n in HEADS if n.endswith(("conv", "conv structured"))])
def test_channels_last_features_give_the_same_outputs(name, device):
    head = built(name).to(device).train()
    h = features_of(head).to(device)
    plain = h.clone().requires_grad_()
    last = h.to(memory_format=torch.channels_last).requires_grad_()
    one, other = copy.deepcopy(head)(plain), head.to(memory_format=torch.channels_last)(last)
    assert_close(other, one, 1e-5)
    one.square().sum().backward()
    other.square().sum().backward()
    assert_close(last.grad, plain.grad, 2e-5)
    assert_close(
        head.eval().fuse()(last) if name.startswith(("etf", "multilabel")) else head(last), head(last), 5e-5
    )


@devices
def test_a_large_map_of_pixels_passes_the_neck(device):
    """More rows than a grid of CUDA blocks is high."""
    head = ETFConvHead(4, 3).to(device).train()
    h = torch.randn(2, 4, 400, 400, generator=torch.Generator().manual_seed(0))
    exact = naive(copy.deepcopy(head).cpu().double(), h.double())
    assert_close(class_last(head, head(h.to(device))), exact, 1e-3)
    head.eval()
    exact = naive(copy.deepcopy(head).cpu().double(), h.double())
    assert_close(class_last(head, head(h.to(device))), exact, 1e-3)


@devices
def test_empty_batches_pass_in_evaluation(device):
    for name in ("etf", "etf structured", "union quadratic", "class mean", "cosine", "regression"):
        head = HEADS[name]().to(device).eval()
        assert head(torch.zeros(0, head.in_features, device=device)).shape == (0, head.num_classes)


def label_data():
    """Logits of 400 samples with 1 to 4 labels of 10, and the labels."""
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(400, 10, generator=generator).argsort(1)
    counts = torch.randint(1, 5, (400, 1), generator=generator)
    hot = order < counts
    return 4 * hot + 1.5 * torch.randn(400, 10, generator=generator), hot


METHODS = {
    "nearest": {},
    "nearest_cosine": {},
    "posterior": {},
    "threshold": {},
    "class_thresholds": {},
    "count": {},
    "topk": {"k": 2},
}


@devices
def test_label_sets_are_calibrated_and_decoded_alike(device):
    logits, hot = label_data()
    reference = MultiLabelETFHead(16, 10, max_labels=5).eval()
    head = MultiLabelETFHead(16, 10, max_labels=5).to(device).eval()
    there = logits.to(device)
    for calibrated in (False, True):
        if calibrated:
            reference.calibrate(logits, hot)
            head.calibrate((there[part], hot[part].to(device)) for part in torch.arange(400).split(150))
            for key, tensor in head.state_dict().items():
                assert torch.equal(tensor.cpu(), reference.state_dict()[key]), key
        for method, options in METHODS.items():
            if method in ("posterior", "class_thresholds") and not calibrated:
                continue
            found = head.decode(there, method, **options)
            assert found.device.type == device
            assert torch.equal(found.cpu(), reference.decode(logits, method, **options)), method
            assert label_lists(found) == label_lists(found.cpu())
        for method in ("sigmoid", "marginal"):
            assert_close(head.probabilities(there, method), reference.probabilities(logits, method), 1e-5)
        assert_close(head.expected_counts(there), reference.expected_counts(logits), 1e-5)
    other = MultiLabelETFHead(16, 10, max_labels=5)
    other.load_state_dict(head.state_dict())
    assert other.label_threshold() == head.label_threshold()
    h = features_of(head).to(device)
    assert torch.equal(head.decode(h, from_features=True), head.decode(head(h)))


@devices
def test_label_sets_of_a_map(device):
    head = MultiLabelETFConvHead(16, 10).to(device).eval()
    h = features_of(head).to(device)
    hot = head.decode(h, from_features=True)
    assert hot.shape == (24, 10, 3, 2)
    assert torch.equal(hot.cpu(), copy.deepcopy(head).cpu().decode(head(h).cpu()))


@devices
def test_fits_on_a_device_are_those_on_the_cpu(device):
    logits, hot = label_data()
    logits = logits.double()
    there, labels = logits.to(device), hot.to(device)
    gaps = fit_gaps(logits, hot)
    torch.testing.assert_close(fit_gaps(there, labels), gaps, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        fit_offsets(there, labels, gaps), fit_offsets(logits, hot, gaps), rtol=1e-10, atol=1e-10
    )
    scores = centred_logits(logits)
    for objective in ("micro_f1", "exact_match"):
        assert best_threshold(scores.to(device), labels, objective) == best_threshold(scores, hot, objective)
    by_class = best_class_thresholds(scores.to(device), labels, 0.0)
    assert torch.equal(by_class.cpu(), best_class_thresholds(scores, hot, 0.0))


@devices
def test_ties_and_many_classes_are_decoded_alike(device):
    generator = torch.Generator().manual_seed(0)
    tied = torch.randint(0, 3, (50, 12), generator=generator).float()
    many = torch.randn(20, 1000, generator=generator)
    for logits in (tied, many):
        K = logits.shape[1]
        counts = torch.randint(0, K + 1, (len(logits),), generator=generator)
        gaps = 2 + torch.rand(K - 1, generator=generator)
        for options in (
            {"method": "topk", "k": 3},
            {"method": "topk", "k": counts},
            {"method": "nearest", "gaps": gaps},
            {"method": "nearest", "gaps": gaps, "max_labels": 5},
            {"method": "nearest_cosine"},
            {"method": "threshold", "threshold": gaps.mean(), "max_labels": 4},
        ):
            there = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
            found = decode_labels(logits.to(device), **there)
            assert torch.equal(found.cpu(), decode_labels(logits, **options)), options


@devices
def test_label_sets_in_every_form(device):
    hot = label_data()[1]
    lists = label_lists(hot)
    padded = torch.full((400, 4), -1)
    for row, labels in zip(padded, lists, strict=True):
        row[: len(labels)] = torch.tensor(labels)
    forms = [hot.to(device), hot.float().to(device), padded.to(device), lists]
    for form in forms:
        found = multi_hot(form, 10, device=device)
        assert found.device.type == device
        assert torch.equal(found.cpu(), hot)
        assert multi_hot(form, 10, device="cpu").device.type == "cpu"
    assert multi_hot(padded.to(device), 10).device.type == device


@devices
def test_whitened_targets(device):
    head = RegressionHead(16, 3, targets=TARGETS.to(device), whiten=True).to(device)
    white = head.whitened(TARGETS.float().to(device))
    assert white.device.type == device
    cov = torch.cov(white.cpu().double().T, correction=0)
    torch.testing.assert_close(cov, torch.eye(3, dtype=torch.float64), rtol=1e-4, atol=1e-4)


COMPILED = [
    "etf",
    "etf structured",
    "etf conv",
    "union quadratic",
    "assigned",
    "class mean repelling",
    "delta",
    "guided",
]
gpu_compiler = [*cuda_only, compiles]


@pytest.mark.parametrize(
    ("name", "device", "backend"),
    [
        *((name, "cpu", "aot_eager") for name in COMPILED),
        *(pytest.param(name, "cuda", "inductor", marks=gpu_compiler) for name in COMPILED[1:7]),
    ],
)
def test_compiled_heads_give_what_eager_ones_give(name, device, backend):
    head = built(name).to(device).train()
    twin = copy.deepcopy(head)
    torch.compiler.reset()
    compiled = torch.compile(head, backend=backend)
    for step in range(2):
        h = features_of(head, seed=step).to(device)
        one, other = h.clone().requires_grad_(), h.clone().requires_grad_()
        outputs, exact = compiled(one), twin(other)
        assert_close(outputs, exact, 2e-5)
        outputs.logsumexp(1).sum().backward()
        exact.logsumexp(1).sum().backward()
        assert_close(one.grad, other.grad, 2e-4)
        if isinstance(head, FollowingHead):
            for each in (head, twin):
                each.update(torch.arange(24, device=device) % head.num_classes)
    for key, tensor in head.state_dict().items():
        assert_close(tensor, twin.state_dict()[key], 2e-5, key)
    torch.compiler.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["etf", "etf structured", "union quadratic", "cosine"])
def test_a_cuda_graph_replays_the_logits(name):
    """No hidden wait for the CPU in the forward pass: capture would refuse it."""
    head = built(name).to("cuda").eval()
    with torch.no_grad():
        h = features_of(head).to("cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                head(h)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = head(h)
        new = features_of(head, seed=7).to("cuda")
        h.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
        assert_close(outputs, head(new), 1e-5)
