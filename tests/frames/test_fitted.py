import json

import pytest
import torch

from etfhead.frames import Frame, SimplexFrame, make_frame
from etfhead.frames.fitted import ClassMeansFrame, OrientedSimplexFrame
from etfhead.frames.orient import class_means_code, orient_simplex


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frames():
    return [
        ClassMeansFrame(40, 8, vectors=class_means_code(gaussian(40, 12), 8)),
        OrientedSimplexFrame(7, 16, vectors=orient_simplex(gaussian(7, 16))),
        OrientedSimplexFrame(17, 16, vectors=orient_simplex(gaussian(17, 16))),
    ]


@pytest.mark.parametrize("frame", frames(), ids=repr)
def test_logits_and_gradients_are_those_of_the_vectors(frame):
    vectors = frame.state()["vectors"]
    features = gaussian(3, 5, frame.in_features, seed=1).requires_grad_()
    torch.testing.assert_close(frame.logits(features), features @ vectors.T, rtol=0, atol=1e-12)
    weights = gaussian(3, 5, frame.num_classes, seed=2)
    (frame.logits(features) * weights).sum().backward()
    torch.testing.assert_close(features.grad, weights @ vectors, rtol=0, atol=1e-12)
    assert torch.equal(frame.matrix(), vectors)
    assert not frame.structured
    assert not frame.free_of_data
    assert frame.max_norm == pytest.approx(vectors.norm(dim=1).max().item(), abs=1e-6)


@pytest.mark.parametrize("frame", frames(), ids=repr)
def test_spec_and_state_build_the_same_frame_again(frame):
    spec = json.loads(json.dumps(frame.spec()))
    assert set(spec) == {"name", "num_classes", "in_features"}
    with torch.device("meta"):
        again = make_frame(**spec, **frame.state())
    assert again == frame
    assert torch.equal(again.matrix(), frame.matrix())
    rounded = make_frame(**spec, vectors=frame.state()["vectors"].float())  # as a head's buffer has them
    torch.testing.assert_close(rounded.matrix(), frame.matrix(), rtol=0, atol=1e-7)
    assert rounded != frame


@pytest.mark.parametrize("frame", frames(), ids=repr)
def test_what_a_frame_holds_is_its_own(frame):
    before = frame.matrix()
    frame.matrix().zero_()
    frame.state()["vectors"].zero_()
    assert torch.equal(frame.matrix(), before)
    given = before.clone()
    copy = type(frame)(frame.num_classes, frame.in_features, vectors=given)
    given.zero_()
    assert torch.equal(copy.matrix(), before)


@pytest.mark.parametrize("frame", frames()[1:], ids=repr)
def test_coherence_of_the_oriented_simplex_equals_the_measured_one(frame):
    measured, exact = Frame.coherence(frame), frame.coherence()
    assert measured.max_cosine == pytest.approx(exact.max_cosine, abs=1e-12)
    assert measured.max_abs_cosine == pytest.approx(exact.max_abs_cosine, abs=1e-12)
    assert measured.welch == exact.welch


def test_every_closed_form_simplex_is_accepted():
    for K, d in ((2, 1), (10, 64), (65, 64), (1500, 1600)):
        OrientedSimplexFrame(K, d, vectors=SimplexFrame(K, d).matrix().float())


@pytest.mark.parametrize("kind", [ClassMeansFrame, OrientedSimplexFrame])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda M: M[:-1], r"vectors: expected shape \(5, 8\), got \(4, 8\)"),
        (lambda M: M.index_fill(0, torch.tensor([2]), float("nan")), "vectors: not all finite"),
        (lambda M: M * 1.01, "unit rows, got norms up to 0.01 from 1"),
        (lambda M: M.index_fill(0, torch.tensor([2]), 0), "unit rows"),
    ],
)
def test_bad_vectors_are_named(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(5, 8, vectors=change(SimplexFrame(5, 8).matrix()))


def test_unit_vectors_that_are_no_simplex():
    vectors = torch.nn.functional.normalize(SimplexFrame(5, 8).matrix() + 1e-4 * gaussian(5, 8), dim=1)
    ClassMeansFrame(5, 8, vectors=vectors)
    with pytest.raises(ValueError, match=r"cosines up to .* from -1/\(K - 1\)"):
        OrientedSimplexFrame(5, 8, vectors=vectors)
    OrientedSimplexFrame(5, 8, vectors=orient_simplex(vectors))  # what the message says
    with pytest.raises(ValueError, match=r"num_classes=10 with in_features=8: .*frame='class_means'"):
        OrientedSimplexFrame(10, 8, vectors=torch.nn.functional.normalize(gaussian(10, 8), dim=1))
