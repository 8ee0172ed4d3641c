"""The frame of regression targets: its Gram matrix, its optimality, and the protocol of frames, n = 1 too."""

import json

import pytest
import torch

from etfhead.frames import RegressionFrame, make_frame, ufm_gram

EXACT = {"dtype": torch.float64}


def covariance(n, seed=0):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), **EXACT)
    return root @ root.T / n


def gram(frame):
    return frame.matrix() @ frame.matrix().T


@pytest.mark.parametrize("basis", ["haar", "hadamard", "identity"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 7), (3, 8), (4, 4)])
def test_the_gram_matrix_is_the_root_of_the_covariance(n, d, basis):
    frame = RegressionFrame(n, d, covariance=covariance(n), basis=basis)
    torch.testing.assert_close(gram(frame) @ gram(frame), covariance(n))
    torch.testing.assert_close(frame.directions() @ frame.directions().T, torch.eye(n, **EXACT))


def test_exponents_and_decays():
    sigma = covariance(3)
    white = RegressionFrame(3, 6, covariance=sigma, exponent=0.5)
    torch.testing.assert_close(gram(white), sigma)
    plain = RegressionFrame(3, 6, covariance=sigma, exponent=0)
    torch.testing.assert_close(gram(plain), torch.eye(3, **EXACT))
    decays = {"weight_decay": 0.3, "feature_decay": 0.2}
    explicit = RegressionFrame(3, 6, covariance=sigma, **decays)
    torch.testing.assert_close(gram(explicit), ufm_gram(sigma, **decays))
    weak = gram(RegressionFrame(3, 6, covariance=sigma, weight_decay=1.0, feature_decay=1e-12))
    limit = gram(RegressionFrame(3, 6, covariance=sigma))
    torch.testing.assert_close(weak / weak.trace(), limit / limit.trace(), rtol=1e-4, atol=1e-5)


def test_no_other_weight_of_its_norm_fits_with_less_feature_energy():
    sigma = covariance(3, seed=4)
    frame = gram(RegressionFrame(3, 5, covariance=sigma))
    least = (sigma @ torch.linalg.inv(frame)).trace()
    assert least * frame.trace() == pytest.approx(frame.trace().item() ** 2)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-2, 0.3, 3.0):
        for _ in range(100):
            root = frame + size * torch.randn(3, 3, generator=generator, **EXACT)
            other = root @ root.T
            other *= frame.trace() / other.trace()
            assert (sigma @ torch.linalg.inv(other)).trace() > least


@pytest.mark.parametrize("n", [1, 3])
def test_spec_and_state_build_it_again(n):
    frame = make_frame(
        "regression",
        num_classes=n,
        in_features=8,
        covariance=covariance(n),
        weight_decay=0.01,
        feature_decay=0.02,
        basis="hadamard",
        seed=3,
    )
    spec = json.loads(json.dumps(frame.spec()))
    again = make_frame(**spec, **frame.state())
    assert again == frame
    assert hash(again) == hash(frame)
    assert torch.equal(again.matrix(), frame.matrix())
    assert not frame.free_of_data
    assert make_frame(**spec, covariance=2 * covariance(n)) != frame
    assert frame.logits(torch.ones(2, 8)).shape == (2, n)


def test_coherence_is_that_of_the_targets():
    frame = RegressionFrame(2, 6, covariance=torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    cosine = gram(frame)[0, 1] / gram(frame)[0, 0]
    assert frame.coherence().max_cosine == pytest.approx(cosine.item())
    assert RegressionFrame(1, 6, covariance=torch.eye(1)).coherence() == (0.0, 0.0, 0.0)
    assert frame.max_norm == pytest.approx(gram(frame)[0, 0].sqrt().item())


def test_only_targets_may_be_alone():
    with pytest.raises(ValueError, match="num_classes=1: expected an integer >= 2"):
        make_frame("simplex", num_classes=1, in_features=4)
    with pytest.raises(ValueError, match="num_classes=0"):
        RegressionFrame(0, 4, covariance=torch.eye(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "covariance: frame='regression' is made from data"),
        ({"covariance": torch.eye(2)}, r"covariance: .*shape \(3, 3\)"),
        ({"covariance": torch.eye(3), "weight_decay": 0.1}, "expected both or neither"),
        ({"covariance": torch.eye(3), "weight_decay": -1.0, "feature_decay": 0.1}, "weight_decay=-1"),
        (
            {"covariance": torch.eye(3), "exponent": 0.5, "weight_decay": 0.1, "feature_decay": 0.1},
            "leave it at 0.25",
        ),
        ({"covariance": torch.eye(3), "exponent": -0.5}, "exponent=-0.5"),
        ({"covariance": torch.eye(3), "basis": "dct"}, "basis='dct'"),
        ({"covariance": torch.eye(3), "seed": -1}, "seed=-1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_frame("regression", num_classes=3, in_features=8, **options)


def test_more_targets_than_features_are_refused():
    with pytest.raises(ValueError, match="num_classes=3 targets with in_features=2"):
        RegressionFrame(3, 2, covariance=torch.eye(3))


def test_the_form_is_a_symmetric_matrix_times_its_own_directions():
    frame = RegressionFrame(3, 8, covariance=covariance(3))
    other = RegressionFrame(3, 8, covariance=9 * covariance(3, seed=5))
    assert frame.has_form(other.matrix(), 1e-12)
    assert frame.has_form(other.matrix().bfloat16().double(), 1e-2)
    turned = RegressionFrame(3, 8, covariance=covariance(3), seed=1).matrix()
    skew = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], **EXACT) @ frame.directions()
    for weight in (turned, skew, -frame.matrix(), frame.matrix() * torch.nan):
        assert not frame.has_form(weight, 1e-2)
