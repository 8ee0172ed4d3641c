import json
import math

import pytest
import torch

from etfhead.frames import CodeFrame, UnionFrame, make_frame
from etfhead.frames.code import softmax_code


@pytest.mark.parametrize(("K", "d"), [(4, 3), (9, 8), (33, 32)])
def test_one_more_class_than_features_gives_the_simplex(K, d):
    code = softmax_code(K, d)
    gram = (code @ code.T).fill_diagonal_(-1 / (K - 1))
    assert gram.max().item() == pytest.approx(-1 / (K - 1), abs=1e-3)
    torch.testing.assert_close(gram, torch.full_like(gram, -1 / (K - 1)), rtol=0, atol=3e-3)


@pytest.mark.parametrize(("K", "d"), [(6, 3), (20, 10), (40, 24)])
def test_up_to_twice_the_features_reach_a_largest_cosine_of_0(K, d):
    assert CodeFrame(K, d).coherence().max_cosine < 3e-3


@pytest.mark.parametrize(
    ("K", "d", "cosine"),
    [(12, 3, 1 / math.sqrt(5)), (24, 3, 0.7234), (8, 3, 0.2612)],  # icosahedron, snub cube, antiprism
)
def test_known_optima_in_three_dimensions(K, d, cosine):
    assert CodeFrame(K, d).coherence().max_cosine == pytest.approx(cosine, abs=2e-3)


def test_it_is_better_than_random_signs_and_no_better_than_possible():
    found = CodeFrame(100, 16).coherence()
    assert found.max_cosine < 0.5 * UnionFrame(100, 16, signs="random").coherence().max_cosine
    assert found.max_abs_cosine >= found.welch


def test_vectors_are_unit_deterministic_and_differ_by_seed():
    a, b, c = (CodeFrame(20, 6, seed=s).matrix() for s in (0, 0, 1))
    torch.testing.assert_close(a.norm(dim=1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
    assert a.dtype == torch.float64
    assert torch.equal(a, b)
    assert (a - c).abs().max() > 0.1
    before = torch.get_rng_state()
    softmax_code(5, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_spec_and_state_rebuild_it_without_a_search(monkeypatch):
    frame = CodeFrame(20, 6, seed=3)
    spec, state = json.loads(json.dumps(frame.spec())), frame.state()
    assert not frame.free_of_data
    monkeypatch.setattr("etfhead.frames.code.softmax_code", None)  # calling it would fail
    again = make_frame(**spec, **state)
    assert torch.equal(again.matrix(), frame.matrix())
    assert again == frame
    assert again != CodeFrame(20, 6, seed=3, vectors=state["vectors"].flip(0))
    assert hash(again) == hash(frame)


def test_logits_are_those_of_the_vectors():
    frame = CodeFrame(20, 6)
    features = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame.logits(features), features @ frame.matrix().T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 5001, "in_features": 4}, r'num_classes=5001.*<= 5000.*"union"'),
        ({"num_classes": 2000, "in_features": 300}, r"num_classes\^2 in_features"),
        ({"num_classes": 4, "in_features": 3, "vectors": torch.eye(3)}, r"vectors: expected shape \(4, 3\)"),
        ({"num_classes": 3, "in_features": 3, "vectors": 2 * torch.eye(3)}, "vectors: expected unit rows"),
        ({"num_classes": 3, "in_features": 3, "vectors": torch.eye(3) / 0}, "vectors: not all finite"),
        ({"num_classes": 3, "in_features": 3, "seed": 1.5}, "seed=1.5"),
    ],
)
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        make_frame("code", **options)


def test_given_vectors_have_no_limit():
    vectors = torch.nn.functional.normalize(torch.ones(6000, 2), dim=1)
    assert CodeFrame(6000, 2, vectors=vectors).matrix().shape == (6000, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 3), "num_classes=1"), ((5, 0), "in_features=0"), ((2.5, 3), "num_classes=2.5")],
)
def test_the_search_itself_refuses_sizes_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        softmax_code(*arguments)
