import json

import pytest
import torch

from etfhead.frames import Frame, OrthoplexFrame, make_frame
from etfhead.frames.coherence import welch_bound

BASES = ["identity", "hadamard", "haar"]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(2, 1), (3, 2), (5, 3), (20, 10), (19, 10), (7, 97), (700, 512)])
def test_vectors_are_orthonormal_directions_and_their_negatives(K, d, basis):
    M = OrthoplexFrame(K, d, basis=basis, seed=1).matrix()
    n = (K + 1) // 2
    expected = torch.eye(K, dtype=torch.float64)
    for k in range(n, K):
        expected[k, k - n] = expected[k - n, k] = -1
    assert M.shape == (K, d)
    assert M.dtype == torch.float64
    torch.testing.assert_close(M @ M.T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(10, 512), (1024, 512), (701, 512), (5, 97), (2000, 1000)])
def test_fast_logits_and_gradients_equal_the_matrix_product(K, d, basis):
    frame = OrthoplexFrame(K, d, basis=basis, seed=3)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, d, dtype=torch.float64, generator=generator, requires_grad=True)
    upstream = torch.randn(4, 3, K, dtype=torch.float64, generator=generator)
    M = frame.matrix()
    torch.testing.assert_close(frame.logits(features), features @ M.T, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(frame.logits(features), features, upstream)
    torch.testing.assert_close(gradient, upstream @ M, rtol=0, atol=1e-11)
    single = frame.logits(features.detach().float())
    torch.testing.assert_close(single.double(), features.detach() @ M.T, rtol=0, atol=1e-5)


def test_which_frames_are_structured():
    assert OrthoplexFrame(100, 64, basis="identity").factors() == {}
    assert not OrthoplexFrame(100, 64).structured  # small: one product is faster
    assert OrthoplexFrame(600, 512).structured
    assert not OrthoplexFrame(600, 512, basis="haar").structured
    assert OrthoplexFrame(600, 512).max_norm == 1
    assert OrthoplexFrame(7, 64, basis="identity").active_features == 4


@pytest.mark.parametrize("basis", BASES)
def test_coherence_closed_form_equals_the_measured_one(basis):
    for K, d in ((2, 1), (2, 5), (3, 5), (66, 64), (128, 64)):
        frame = OrthoplexFrame(K, d, basis=basis)
        measured, exact = Frame.coherence(frame), frame.coherence()
        assert exact.max_cosine == pytest.approx(measured.max_cosine, abs=1e-12)
        assert exact.max_abs_cosine == pytest.approx(measured.max_abs_cosine, abs=1e-12)
        assert exact.welch == welch_bound(K, d)


@pytest.mark.parametrize("basis", BASES)
def test_spec_rebuilds_the_same_bits_after_json(basis):
    frame = make_frame("orthoplex", num_classes=100, in_features=64, basis=basis, seed=7)
    again = make_frame(**json.loads(json.dumps(frame.spec())))
    assert again == frame
    assert hash(again) == hash(frame)
    assert torch.equal(again.matrix(), frame.matrix())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 21, "in_features": 10}, r'num_classes=21.*<= 2 in_features = 20.*"union"'),
        ({"num_classes": 20, "in_features": 10, "basis": "dft"}, "basis='dft'"),
        ({"num_classes": 20, "in_features": 10, "seed": 2**63}, "seed="),
        ({"num_classes": 20, "in_features": 10, "signs": "random"}, "signs: not an option"),
    ],
)
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        make_frame("orthoplex", **options)


def test_a_range_of_classes_is_refused_where_all_come_at_once():
    frame = OrthoplexFrame(400, 256)
    with pytest.raises(ValueError, match=r"start=0, stop=10: .*block_size=400"):
        frame.block_logits(torch.ones(1, 256, dtype=torch.float64), frame.factors(), 0, 10)
    with pytest.raises(ValueError, match="block_size"):
        frame.block_adjoint(torch.ones(1, 10, dtype=torch.float64), frame.factors(), 0, 10)
