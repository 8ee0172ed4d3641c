import itertools
import json

import pytest
import torch

from etfhead.frames import Frame, SimplexFrame, make_frame
from etfhead.frames.assigned import AssignedFrame
from etfhead.frames.fitted import ClassMeansFrame


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(size):
    return torch.randperm(size, generator=torch.Generator().manual_seed(2))


def assigned(base, turned=True):
    K, d = base.num_classes, base.in_features
    rotation = torch.linalg.qr(gaussian(d, d))[0] if turned else None
    return AssignedFrame(K, d, base=base, assignment=order(K), rotation=rotation)


def frames():
    bases = [
        SimplexFrame(200, 512),  # structured
        SimplexFrame(9, 12, basis="identity"),  # structured
        SimplexFrame(9, 12, basis="haar"),  # dense
        make_frame("union", num_classes=3000, in_features=64),
        make_frame("orthoplex", num_classes=700, in_features=512),
    ]
    return [assigned(base, turned) for base in bases for turned in (True, False)]


@pytest.fixture(scope="module", params=range(10))
def frame(request):
    return frames()[request.param]


def reference(frame):
    """Row by row: class k has vector assignment[k] of the base, times the rotation."""
    base, state = frame.base.matrix(), frame.state()
    rotation = state.get("rotation", torch.eye(frame.in_features, dtype=torch.float64))
    return torch.stack([base[state["assignment"][k]] @ rotation for k in range(frame.num_classes)])


def test_logits_and_gradients_are_those_of_the_reordered_turned_base(frame):
    M = reference(frame)
    torch.testing.assert_close(frame.matrix(), M, rtol=0, atol=1e-12)
    features = gaussian(2, 3, frame.in_features, seed=1).requires_grad_()
    weights = gaussian(2, 3, frame.num_classes, seed=2)
    logits = frame.logits(features)
    torch.testing.assert_close(logits, features @ M.T, rtol=0, atol=1e-12)
    (logits * weights).sum().backward()
    torch.testing.assert_close(features.grad, weights @ M, rtol=0, atol=1e-10)
    single = frame.logits(features.detach().float())
    torch.testing.assert_close(single, (features @ M.T).float(), rtol=0, atol=1e-5)


def test_streamed_blocks_are_the_logits_and_their_adjoint_in_stored_order(frame):
    M, K = reference(frame), frame.num_classes
    factors, step = frame.factors(), frame.block_size
    features, coefficients = gaussian(4, frame.in_features, seed=1), gaussian(4, K, seed=2)
    stored = frame.stored_index(torch.arange(K), factors)
    assert torch.equal(stored.sort().values, torch.arange(K))
    x = frame.enter(features, factors)
    width = step * max(1, 100 // step)
    cuts = [*range(0, K, width), K]
    blocks = [frame.block_logits(x, factors, a, b) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(blocks, -1)[:, stored], features @ M.T, rtol=0, atol=1e-12)
    in_order = torch.empty_like(coefficients)
    in_order[:, stored] = coefficients
    total = sum(frame.block_adjoint(in_order[:, a:b], factors, a, b) for a, b in itertools.pairwise(cuts))
    torch.testing.assert_close(frame.leave(total, factors), coefficients @ M, rtol=0, atol=1e-10)


def test_spec_and_state_build_the_same_frame_again(frame):
    spec, state = json.loads(json.dumps(frame.spec())), frame.state()
    assert state["assignment"].dtype == torch.int64
    again = make_frame(**spec, **state)
    assert again == frame
    assert torch.equal(again.matrix(), frame.matrix())
    features = gaussian(2, frame.in_features)
    assert torch.equal(again.logits(features), frame.logits(features))
    other = AssignedFrame(
        frame.num_classes, frame.in_features, base=frame.base, assignment=range(frame.num_classes)
    )
    assert other != frame


def test_what_it_says_of_itself_is_measured_on_its_matrix(frame):
    measured, own = Frame.coherence(frame), frame.coherence()
    assert measured.max_cosine == pytest.approx(own.max_cosine, abs=1e-12)
    assert measured.max_abs_cosine == pytest.approx(own.max_abs_cosine, abs=1e-12)
    assert frame.max_norm == pytest.approx(frame.matrix().norm(dim=1).max().item(), abs=1e-12)
    assert frame.structured == frame.base.structured
    read = (frame.matrix().abs().max(0).values > 1e-12).sum().item()
    assert frame.active_features == read


def test_a_structured_base_stays_structured_and_integers_stay_integers():
    frame = assigned(SimplexFrame(200, 512), turned=False)
    factors = frame.factors()
    assert "weight" not in factors
    assert factors["assignment"].dtype == torch.int64
    assert sum(f.numel() for f in factors.values()) < 200 * 512 / 16
    half = frame.logits(gaussian(4, 512).bfloat16())  # 200 classes: bf16 cannot count beyond 256
    assert half.dtype == torch.bfloat16


def test_what_a_frame_holds_is_its_own():
    frame = assigned(SimplexFrame(9, 12))
    before = frame.matrix()
    for tensor in frame.state().values():
        tensor.zero_()
    for tensor in frame.factors().values():
        tensor.zero_()
    assert torch.equal(frame.matrix(), before)


BASE = SimplexFrame(4, 3)
TAKEN = ClassMeansFrame(4, 3, vectors=BASE.matrix())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": SimplexFrame(3, 3)}, "base: expected a frame of 4 classes and 3 features, got 3 and 3"),
        ({"base": TAKEN}, "base='class_means': expected a closed-form frame"),
        ({"base": {"name": "nothing", "num_classes": 4, "in_features": 3}}, "frame='nothing'"),
        ({"assignment": [0, 1, 2]}, r"assignment: expected shape \(4,\), got \(3,\)"),
        ({"assignment": [0, 1, 2, 2]}, r"assignment: expected each of 0\.\.3 exactly once"),
        ({"assignment": [1, 2, 3, 4]}, "assignment: expected each"),
        ({"assignment": torch.arange(4.0)}, "assignment: expected integers, got torch.float32"),
        ({"rotation": torch.eye(4)}, r"rotation: expected shape \(3, 3\), got \(4, 4\)"),
        ({"rotation": torch.eye(3) * 1.01}, "rotation: expected R R.T = I, got entries up to 0.02"),
        ({"rotation": torch.full((3, 3), float("nan"))}, "rotation: .*nan"),
    ],
)
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        AssignedFrame(4, 3, **{"base": BASE, "assignment": [0, 1, 2, 3], **options})
