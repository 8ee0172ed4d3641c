"""ETFHead beyond the simplex: more classes than features, frames from data, and checkpoints of both."""

import copy
import hashlib
import io
import math
import pickle

import pytest
import torch
from torch import nn

from etfhead import ETFHead, make_frame
from etfhead.frames import AssignedFrame, ClassMeansFrame, CodeFrame, OrientedSimplexFrame, UnionFrame
from etfhead.frames.orient import orient_simplex
from etfhead.heads import ETFConvHead, auto_scale

D, K = 16, 10
BIG_D, BIG_K = 64, 1100  # structured: union, orthoplex and identity


def unit(K, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(K, d, generator=generator, dtype=torch.float64))


def permuted(base, *, rotated=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(unit(base.in_features, base.in_features, seed))[0] if rotated else None
    assignment = torch.randperm(base.num_classes, generator=generator)
    return AssignedFrame(
        base.num_classes, base.in_features, base=base, assignment=assignment, rotation=rotation
    )


def data_frames():
    """Every kind of frame from data with the options of an ETFHead that may adopt it."""
    small, big = make_frame("auto", num_classes=K, in_features=D), UnionFrame(BIG_K, BIG_D)
    yield "simplex", {}, OrientedSimplexFrame(K, D, vectors=orient_simplex(unit(K, D)))
    yield "means", {}, ClassMeansFrame(K, D, vectors=unit(K, D))
    yield "many means", {"frame": "union"}, ClassMeansFrame(BIG_K, BIG_D, vectors=unit(BIG_K, BIG_D))
    yield "code", {"frame": "code"}, CodeFrame(K, D, vectors=unit(K, D))
    yield "dense assigned", {}, permuted(small)
    yield "assigned", {"frame": "union"}, permuted(big)
    yield "unturned", {"frame": "union"}, permuted(big, rotated=False)
    simplex = make_frame("simplex", num_classes=700, in_features=1024)
    yield "oriented big", {}, OrientedSimplexFrame(700, 1024, vectors=simplex.matrix().flip(0))


CASES = {name: (options, frame) for name, options, frame in data_frames()}
cases = pytest.mark.parametrize("case", CASES)


def head_of(case, **more):
    options, frame = CASES[case]
    return ETFHead(frame.in_features, frame.num_classes, **options, **more), frame


def reference_logits(head, frame, h):
    """Scale times the dense product, in float64, behind the neck."""
    x = nn.functional.batch_norm(h.double(), head.neck.running_mean.double(), head.neck.running_var.double())
    return head.scale.double() * x @ frame.matrix().T / math.sqrt(frame.active_features)


@pytest.mark.parametrize(
    ("d", "K", "name"), [(9, 10, "simplex"), (9, 11, "orthoplex"), (16, 33, "union"), (64, 1100, "union")]
)
def test_auto_goes_on_where_the_simplex_ends(d, K, name):
    head = ETFHead(d, K).eval()
    assert head.frame == make_frame("auto", num_classes=K, in_features=d, basis="hadamard", seed=0)
    assert head.frame.name == name
    assert head.scale.item() == pytest.approx(auto_scale(K))
    h = torch.randn(5, d)
    torch.testing.assert_close(head(h).double(), reference_logits(head, head.frame, h), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.fuse()(h), head(h), rtol=1e-5, atol=1e-5)
    twin = ETFHead(d, K).eval()
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin(h), head(h))
    assert f"frame={name}(" in repr(head)


def test_a_structured_frame_of_a_million_classes_is_built_printed_saved_and_asked_for_its_best_classes():
    head = ETFHead(1024, 1_000_000, neck=None).eval()
    stored = sum(t.numel() for t in [*head.parameters(), *head.buffers()])
    assert stored < 3e6
    assert sum(t.numel() for t in head.state_dict().values()) < 100
    assert "num_classes=1000000" in repr(head)
    factors = head.logit_factors()[1]
    for k in (3, 999_999, 512_000):
        start = k - k % 1024
        stop = min(start + 1024, 1_000_000)
        one = nn.functional.one_hot(torch.tensor(k - start), stop - start).float()
        vector = head.frame.leave(head.frame.block_adjoint(one, factors, start, stop), factors)
        assert head.topk(vector, 1).indices.tolist() == [k]
    with pytest.raises(RuntimeError, match="is not the head's fixed frame"):
        head.load_state_dict({"weight": torch.zeros(1).expand(1_000_000, 1024)}, strict=False)


@cases
def test_an_adopted_frame_gives_the_logits(case):
    head, frame = head_of(case)
    scale = head.scale
    h = 3 + 2 * torch.randn(64, head.in_features)
    head(h)
    head.eval().adopt_frame(frame)
    torch.testing.assert_close(head(h).double(), reference_logits(head, frame, h), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.class_vectors(), frame.matrix().float())
    torch.testing.assert_close(head.fuse()(h), head(h), rtol=1e-4, atol=1e-4)
    assert head.scale is scale
    names = [n for n, _ in head.named_buffers()]
    assert ("weight" in names) != frame.structured
    assert torch.equal(head.topk(h, 3).indices, head(h).topk(3).indices)


@cases
def test_an_aligned_checkpoint_loads_into_a_head_built_the_same_way(case):
    head, frame = head_of(case)
    head.adopt_frame(frame)
    head(torch.randn(32, head.in_features))
    file = io.BytesIO()
    torch.save(head.eval().state_dict(), file)
    file.seek(0)
    twin = head_of(case)[0].eval()
    twin.load_state_dict(torch.load(file, weights_only=True))
    h = torch.randn(8, head.in_features)
    assert torch.equal(twin(h), head(h))
    assert twin.frame.name == frame.name
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in twin.state_dict().items())
    # A frame of its own again, from there on.
    assert torch.equal(twin.half().float()(h), head.half().float()(h))


@cases
def test_copies_of_an_aligned_head_and_a_round_trip_through_half_keep_every_bit(case):
    head, frame = head_of(case)
    head.eval().adopt_frame(frame)
    h = torch.randn(8, head.in_features)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(h), head(h))
    before = {name: tensor.clone() for name, tensor in head.named_buffers()}
    head.half().float()
    for name, tensor in head.named_buffers():
        assert torch.equal(tensor, before[name]), name
    if "assignment" in before:
        assert head.assignment.dtype == torch.int64


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_aligned_checkpoint_loads_as_the_nearest_exact_frame(case, dtype):
    head, frame = head_of(case)
    head.adopt_frame(frame)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in head.state_dict().items()}
    twin = head_of(case)[0]
    twin.load_state_dict(state)
    close = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(twin.class_vectors(), head.class_vectors(), rtol=0, atol=close)
    vectors = twin.frame.matrix()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)).double(), rtol=0, atol=1e-6)
    if frame.name == "oriented_simplex":
        assert twin.frame.coherence().max_cosine == -1 / (frame.num_classes - 1)


@cases
def test_on_meta_then_assigned(case):
    donor, frame = head_of(case)
    donor.eval().adopt_frame(frame)
    head = head_of(case, device="meta")[0].eval()
    head.load_state_dict(donor.state_dict(), assign=True)
    h = torch.randn(4, donor.in_features)
    assert torch.equal(head(h), donor(h))


def test_an_aligned_head_takes_its_first_frame_and_other_data_back():
    head, fresh = ETFHead(D, K).eval(), ETFHead(D, K).eval()
    h = torch.randn(4, D)
    for name in ("simplex", "means", "dense assigned"):
        donor = ETFHead(D, K).eval()
        donor.adopt_frame(CASES[name][1])
        head.load_state_dict(donor.state_dict())
        assert torch.equal(head(h), donor(h))
    head.load_state_dict(fresh.state_dict())
    assert head.frame is head.first_frame
    assert torch.equal(head(h), fresh(h))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": unit(K, D, 1).float()}, "weight: numbers up to"),
        ({"weight": torch.full((K, D), math.nan)}, "weight: not all numbers are finite"),
        ({"weight": unit(K, D + 1).float()}, r"weight: expected floating numbers of shape \(10, 16\)"),
        ({"weight": torch.zeros(K, D, dtype=torch.int8)}, "weight: expected floating numbers.*int8"),
        ({"frame_id": torch.zeros(64)}, "is not the head's fixed frame"),
    ],
)
def test_what_is_no_turned_simplex_is_refused(change, message, strict):
    donor, head = head_of("simplex")[0], head_of("simplex")[0]
    donor.adopt_frame(CASES["simplex"][1])
    before = head.class_vectors().clone()
    with pytest.raises(RuntimeError, match=message):
        head.load_state_dict({**donor.state_dict(), **change}, strict=strict)
    assert torch.equal(head.class_vectors(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assignment": torch.zeros(BIG_K, dtype=torch.int64)}, "exactly once"),
        ({"rotation": torch.zeros(BIG_D, BIG_D)}, "rotation: numbers up to"),
        ({"rotation": torch.eye(BIG_D + 1)}, r"rotation: expected floating numbers of shape \(64, 64\)"),
    ],
)
def test_a_broken_assignment_is_refused(change, message):
    donor, head = head_of("assigned")[0], head_of("assigned")[0]
    donor.adopt_frame(CASES["assigned"][1])
    with pytest.raises(RuntimeError, match=message):
        head.load_state_dict({**donor.state_dict(), **change})
    assert head.frame is head.first_frame


def test_an_assignment_over_another_seed_is_refused():
    donor = ETFHead(BIG_D, BIG_K, frame="union", seed=1)
    donor.adopt_frame(permuted(donor.frame))
    with pytest.raises(RuntimeError, match="is not that of the head's fixed frame"):
        ETFHead(BIG_D, BIG_K, frame="union").load_state_dict(donor.state_dict(), strict=False)


def test_frames_of_another_size_or_without_their_data_are_refused():
    with pytest.raises(ValueError, match="expected num_classes=10, in_features=16"):
        ETFHead(D, K).adopt_frame(make_frame("simplex", num_classes=9, in_features=D))
    with pytest.raises(ValueError, match=r"frame='class_means' is made from data.*align_head"):
        ETFHead(D, K, frame="class_means")


def test_the_gain_follows_the_features_that_an_adopted_frame_reads():
    head = ETFHead(D, K, basis="identity", scale=1.0).eval()
    h = torch.randn(4, D)
    head.adopt_frame(CASES["simplex"][1])
    expected = h @ CASES["simplex"][1].matrix().T.float() / math.sqrt(1 + 1e-5) / 4
    torch.testing.assert_close(head(h), expected)


def test_fingerprints_of_simplex_heads_are_what_they_always_were():
    text = (
        '{"basis": "hadamard", "in_features": 512, "name": "simplex", "normalize": false, '
        '"num_classes": 160, "seed": 0}'
    )
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    assert ETFHead(512, 160).frame_id.tolist() == [bits >> i & 1 for i in range(64)]
    assert set(ETFHead(512, 160, neck=None).state_dict()) == {"frame_id", "scale"}
    assert set(ETFHead(D, K, neck=None).state_dict()) == {"frame_id", "weight", "bias", "scale"}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_fused_head_trains_on_features_and_evaluates_to_logits(normalize):
    head, plain = (ETFHead(D, K, normalize=normalize, fused=fused) for fused in (True, False))
    h = torch.randn(32, D)
    x, logits = head(h), plain(h)
    assert x.shape == (32, D)
    scale, factors = head.logit_factors()
    torch.testing.assert_close(scale * head.frame.apply(x, factors), logits)
    torch.testing.assert_close(plain.eval().features_behind_neck(h), head.eval().features_behind_neck(h))
    assert torch.equal(head(h), plain(h))
    assert "fused=True" in repr(head)


def test_a_fused_conv_head_keeps_the_place_of_the_features():
    head = ETFConvHead(D, K, fused=True, neck=None)
    x = torch.randn(2, D, 3, 4)
    assert torch.equal(head(x), x)
    assert head.features_behind_neck(x).shape == (2, 3, 4, D)
    assert head.eval()(x).shape == (2, K, 3, 4)


@pytest.mark.parametrize("frame", ["simplex", "union"])
@pytest.mark.parametrize("cls", [ETFHead, ETFConvHead])
def test_topk_is_that_of_the_logits(cls, frame):
    head = cls(BIG_D, 50 if frame == "simplex" else BIG_K, frame=frame).eval()
    with torch.no_grad():
        head.scale.fill_(-2.0)  # a scale below zero turns the order round
    h = torch.randn(6, BIG_D) if cls is ETFHead else torch.randn(2, BIG_D, 2, 3)
    values, classes = head.topk(h, 4)
    expected = head(h).topk(4, dim=1)
    torch.testing.assert_close(values, expected.values)
    assert torch.equal(classes, expected.indices)


@pytest.mark.parametrize("case", ["assigned", "means"])
def test_an_adopted_frame_compiles_and_exports(case):
    torch.compiler.reset()
    head, frame = head_of(case)
    head.adopt_frame(frame)
    eager = copy.deepcopy(head)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    h = torch.randn(8, head.in_features)
    torch.testing.assert_close(compiled(h), eager(h))
    program = torch.export.export(eager.eval(), (h,))
    torch.testing.assert_close(program.module()(h), eager(h))


def test_printing_a_large_head_measures_no_coherence(monkeypatch):
    head = ETFHead(BIG_D, 3000)
    head.adopt_frame(ClassMeansFrame(3000, BIG_D, vectors=unit(3000, BIG_D)))
    monkeypatch.setattr(ClassMeansFrame, "matrix", lambda self: pytest.fail("copied"))
    assert "frame=class_means(num_classes=3000, in_features=64), normalize" in repr(head)
