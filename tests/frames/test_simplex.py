import json
import math

import pytest
import torch

from etfhead.frames import Frame, SimplexFrame, make_frame
from etfhead.frames.coherence import welch_bound

REAL_WIDTHS = [192, 320, 384, 512, 768, 1000, 1280, 1536, 2048]
ODD_WIDTHS = [1, 2, 3, 36, 97, 257, 1018]  # primes and 2p: no balanced factors
BASES = ["identity", "hadamard", "haar"]


def sizes(width):
    return sorted({K for K in (2, 3, 10, width - 1, width, width + 1) if 2 <= K <= min(width + 1, 400)})


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("width", REAL_WIDTHS + ODD_WIDTHS)
def test_gram_is_the_simplex(width, basis):
    for K in sizes(width):
        M = make_frame("simplex", num_classes=K, in_features=width, basis=basis, seed=1).matrix()
        expected = torch.full((K, K), -1 / (K - 1), dtype=torch.float64).fill_diagonal_(1)
        assert M.shape == (K, width)
        assert M.dtype == torch.float64
        torch.testing.assert_close(M @ M.T, expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(M.sum(0), torch.zeros(width, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(10, 512), (512, 512), (100, 1000), (11, 10), (300, 1000), (5, 97)])
def test_fast_logits_equal_the_matrix_product(K, d, basis):
    frame = SimplexFrame(K, d, basis=basis, seed=3)
    features = torch.randn(4, 3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame.logits(features), features @ frame.matrix().T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_keep_the_features_type(dtype):
    frame = SimplexFrame(160, 512, basis="hadamard")
    features = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    out = frame.logits(features.to(dtype))
    assert out.dtype == dtype
    exact = features.double() @ frame.matrix().T
    assert (out.double() - exact).abs().max() <= 40 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("width", REAL_WIDTHS)
def test_hadamard_never_stores_a_large_matrix_at_real_widths(width):
    frame = SimplexFrame(width, width, basis="hadamard")
    stored = sum(f.numel() for f in frame.factors().values())
    assert stored <= max(2**16, width * width / 16)
    assert frame.structured == (width > 256)


def test_which_frames_are_structured():
    assert SimplexFrame(10, 64, basis="identity").factors() == {}
    assert not SimplexFrame(10, 64, basis="hadamard").structured  # small: one product is faster
    assert SimplexFrame(200, 512, basis="hadamard").structured
    assert not SimplexFrame(1009, 1009, basis="hadamard").structured  # a prime has no factors
    assert not SimplexFrame(513, 512, basis="hadamard").structured  # K = d + 1
    assert not SimplexFrame(200, 512, basis="haar").structured


def test_identity_vectors_are_the_centred_axes():
    M = SimplexFrame(3, 5, basis="identity").matrix()
    expected = math.sqrt(1.5) * (torch.eye(3, 5) - torch.tensor([1, 1, 1, 0, 0]) / 3)
    torch.testing.assert_close(M, expected.double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(10, 64), (65, 64), (7, 97), (160, 512)])
def test_spec_rebuilds_the_same_bits_after_json(basis, K, d):
    frame = make_frame("auto", num_classes=K, in_features=d, basis=basis, seed=7)
    again = make_frame(**json.loads(json.dumps(frame.spec())))
    assert again == frame
    assert hash(again) == hash(frame)
    assert torch.equal(again.matrix(), frame.matrix())


@pytest.mark.parametrize("basis", ["hadamard", "haar"])
def test_seeds_give_different_frames_and_leave_the_global_generator_alone(basis):
    before = torch.get_rng_state()
    a, b = (SimplexFrame(10, 64, basis=basis, seed=s).matrix() for s in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (a - b).abs().max() > 0.1


def test_hadamard_bits_do_not_depend_on_floating_point_libraries():
    frame = SimplexFrame(16, 256, basis="hadamard")  # both factors are Hadamard / 4
    directions = frame._basis.matrix() * 16
    assert torch.equal(directions, directions.round())
    signs = "".join("+" if s > 0 else "-" for s in frame._basis.factors()["signs"][:16].tolist())
    # Pinned: the integer stream of torch.Generator must never change under a published spec.
    assert signs == "-++-+++++++--+--"


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(10, 64), (65, 64), (7, 97), (160, 512)])
def test_a_default_device_does_not_reach_the_frame(basis, K, d):
    expected = SimplexFrame(K, d, basis=basis).matrix()
    with torch.device("meta"):
        frame = SimplexFrame(K, d, basis=basis)
        matrix, factors = frame.matrix(), frame.factors()
    assert torch.equal(matrix, expected)
    assert all(factor.device.type == "cpu" for factor in factors.values())


def test_coherence_closed_form_equals_the_measured_one():
    for K, d in ((2, 1), (10, 64), (65, 64)):
        frame = SimplexFrame(K, d)
        measured, exact = Frame.coherence(frame), frame.coherence()
        assert measured.max_cosine == pytest.approx(exact.max_cosine, abs=1e-12)
        assert measured.max_abs_cosine == pytest.approx(exact.max_abs_cosine, abs=1e-12)
        assert exact.max_abs_cosine >= exact.welch == welch_bound(K, d)
    assert SimplexFrame(65, 64).coherence().welch == pytest.approx(1 / 64)


def test_random_bases_reach_a_cosine_of_071_with_relu_features_and_identity_more():
    # max over h >= 0 of cos(h, m) is |m_+| / |m|, attained at h = m_+.
    reach = {}
    for basis in BASES:
        M = SimplexFrame(10, 512, basis=basis).matrix()
        reach[basis] = M.clamp(min=0).norm(dim=1)
    assert reach["haar"].mean() == pytest.approx(math.sqrt(0.5), abs=0.03)
    assert reach["hadamard"].mean() == pytest.approx(math.sqrt(0.5), abs=0.03)
    torch.testing.assert_close(reach["identity"], torch.full((10,), math.sqrt(0.9), dtype=torch.float64))


@pytest.mark.parametrize("basis", ["hadamard", "haar"])
@pytest.mark.parametrize(("K", "d"), [(10, 64), (10, 96), (10, 256), (100, 512), (20, 97)])
def test_random_bases_reach_every_feature(basis, K, d):
    energy = SimplexFrame(K, d, basis=basis).matrix().square().sum(0) * d / K  # mean 1
    assert energy.min() > 0.05


def test_haar_directions_do_not_lean_to_the_all_ones_vector():
    lean = [
        (SimplexFrame(10, 256, seed=s).matrix().sum(1).abs() / 16).max().item() for s in range(20)
    ]  # |cos| of 10 random directions: about 1/16 each, the known bad construction gives 0.86
    assert max(lean) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "simplex", "num_classes": 1000, "in_features": 512},
            r"1000.*512.*<= in_features \+ 1 = 513.*frame=\"auto\".*orthoplex.*union.*class_means",
        ),
        ({"num_classes": 1, "in_features": 8}, "num_classes=1: expected an integer >= 2"),
        ({"num_classes": True, "in_features": 8}, "num_classes=True"),
        ({"num_classes": 3, "in_features": 0}, "in_features=0"),
        ({"num_classes": 3, "in_features": 8.0}, "in_features=8.0"),
        ({"num_classes": 3, "in_features": 8, "basis": "fourier"}, "basis='fourier'.*'haar'"),
        ({"num_classes": 3, "in_features": 8, "seed": -1}, "seed=-1"),
        ({"num_classes": 3, "in_features": 8, "rotation": 1}, "rotation: not an option of frame='simplex'"),
        ({"name": "simplx", "num_classes": 3, "in_features": 8}, "did you mean 'simplex'"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        make_frame(**options)


def test_the_projection_neck_of_the_error_message_works():
    from torch import nn

    from etfhead import ETFHead

    head = nn.Sequential(nn.Linear(512, 999), ETFHead(999, 1000))
    assert head(torch.randn(2, 512)).shape == (2, 1000)


def test_logits_refuses_another_width():
    with pytest.raises(ValueError, match="last dimension of 8, got 9"):
        SimplexFrame(3, 8, basis="identity").logits(torch.randn(2, 9))


def test_a_range_of_classes_is_refused_where_all_come_at_once():
    frame = SimplexFrame(300, 512)
    with pytest.raises(ValueError, match=r"start=0, stop=10: .*block_size=300"):
        frame.block_logits(torch.ones(1, 512, dtype=torch.float64), frame.factors(), 0, 10)
    with pytest.raises(ValueError, match="block_size"):
        frame.block_adjoint(torch.ones(1, 10, dtype=torch.float64), frame.factors(), 0, 10)
