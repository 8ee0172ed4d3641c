import json
import math

import pytest
import torch

from etfhead.frames import Frame, UnionFrame, make_frame
from etfhead.frames.sign_sets import random_coherence

# (K, d): one factor and two, odd parts on either side, a prime width, ragged last blocks, one block.
SIZES = [(2000, 64), (700, 128), (1025, 512), (900, 320), (800, 96), (1000, 97), (3000, 36), (300, 1000)]
SIGNS = ["auto", "random"]


def features_and_upstream(K, d):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, d, dtype=torch.float64, generator=generator, requires_grad=True)
    return features, torch.randn(2, 3, K, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("antipodal", [False, True])
@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("K", "d"), SIZES)
def test_fast_logits_and_gradients_equal_the_matrix_product(K, d, signs, antipodal):
    frame = UnionFrame(K, d, signs=signs, antipodal=antipodal, seed=3)
    assert frame.structured
    features, upstream = features_and_upstream(K, d)
    M = frame.matrix()
    assert M.shape == (K, d)
    torch.testing.assert_close(M.norm(dim=1), torch.ones(K, dtype=torch.float64), rtol=0, atol=1e-12)
    logits = frame.logits(features)
    torch.testing.assert_close(logits, features @ M.T, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(logits, features, upstream)
    torch.testing.assert_close(gradient, upstream @ M, rtol=0, atol=1e-11)
    single = frame.logits(features.detach().float())
    torch.testing.assert_close(single.double(), features.detach() @ M.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("K", "d"), [(2000, 64), (900, 320), (1000, 97), (33, 12)])
def test_every_block_is_an_orthonormal_basis(K, d, signs):
    for block in UnionFrame(K, d, signs=signs).matrix().split(d):
        eye = torch.eye(len(block), dtype=torch.float64)
        torch.testing.assert_close(block @ block.T, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("K", "d"), [(300, 64), (90, 12), (31, 5)])
def test_antipodal_blocks_are_a_basis_and_its_negatives(K, d):
    M = UnionFrame(K, d, antipodal=True).matrix()
    assert torch.equal(M[:d], UnionFrame(K, d).matrix()[:d])
    for block in M.split(2 * d):
        positive, negative = block[:d], block[d:]
        assert torch.equal(negative, -positive[: len(negative)])


@pytest.mark.parametrize(
    ("K", "d", "antipodal", "expected"),
    [
        (8, 4, False, 1 / 2),
        (128, 16, False, 1 / 4),
        (130, 16, False, 1 / 2),  # a ninth basis
        (256, 16, True, 1 / 4),
        (257, 16, True, 1 / 2),
        (65, 64, False, 1 / 8),  # one vector of the second basis
        (2000, 64, False, 1 / 8),
        (1024, 32, False, 1 / 4),
        (1025, 32, False, 1 / 2),
        (700, 128, False, 1 / 8),
        (500, 96, False, 1 / 4),  # 3 x 32
        (900, 320, False, 1 / 8),  # 5 x 64
        (2000, 256, False, 1 / 16),
        (40, 64, False, 0),
        (100, 64, True, 0),
        (2, 1, True, -1),
    ],
)
def test_coherence_closed_form_equals_the_measured_one(K, d, antipodal, expected):
    frame = UnionFrame(K, d, signs="quadratic", antipodal=antipodal)
    measured, exact = Frame.coherence(frame), frame.coherence()
    assert exact.max_cosine == pytest.approx(expected, abs=1e-12)
    assert exact.max_cosine == pytest.approx(measured.max_cosine, abs=1e-12)
    assert exact.max_abs_cosine == pytest.approx(measured.max_abs_cosine, abs=1e-12)
    assert exact.welch == measured.welch


def test_random_coherence_is_measured_and_beyond_that_estimated():
    frame = UnionFrame(500, 64, signs="random")
    M = frame.matrix()
    cosines = (M @ M.T).fill_diagonal_(0)
    assert frame.coherence().max_abs_cosine == pytest.approx(cosines.abs().max().item())
    large = UnionFrame(1_000_000, 1000, signs="random")
    assert large.coherence().max_cosine == random_coherence(1000, 1000)


def test_auto_takes_quadratic_signs_where_they_are_enough_and_better():
    kerdock = UnionFrame(2000, 64)
    assert kerdock.signs == "quadratic"
    assert kerdock.coherence().max_cosine < UnionFrame(2000, 64, signs="random").coherence().max_cosine / 3
    assert UnionFrame(500, 100).signs == "random"  # 4 divides 100: two bases
    assert UnionFrame(2500, 1000).signs == "random"  # 8: enough, but a cosine of 1/2
    assert UnionFrame(1000, 97).signs == "random"
    assert UnionFrame(5000, 96).signs == "random"  # beyond 32 bases: 1/2, random signs have 0.46
    assert UnionFrame(3000, 96).signs == "quadratic"
    assert UnionFrame(1_000_000, 64).signs == "quadratic"


def test_a_million_classes_cost_a_megabyte_and_no_matrix():
    frame = UnionFrame(1_000_000, 1024, antipodal=True)
    factors = frame.factors()
    assert sum(f.numel() * f.element_size() for f in factors.values()) < 2e6
    assert frame.coherence().max_cosine == 1 / 32
    assert frame.logits(torch.ones(1, 1024)).shape == (1, 1_000_000)
    huge = UnionFrame(3_000_000, 1024)
    with pytest.raises(ValueError, match=r"matrix: 3000000 x 1024 numbers are 25 GB.*block_logits"):
        huge.matrix()


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("K", "d"), [(2000, 64), (100, 12)])
def test_spec_holds_the_choice_and_rebuilds_the_same_bits(K, d, signs):
    frame = make_frame("union", num_classes=K, in_features=d, signs=signs, antipodal=True, seed=7)
    again = make_frame(**json.loads(json.dumps(frame.spec())))
    assert frame.spec()["signs"] in ("quadratic", "random")
    assert again == frame
    assert hash(again) == hash(frame)
    assert torch.equal(again.matrix(), frame.matrix())
    assert not torch.equal(make_frame(**{**frame.spec(), "seed": 8}).matrix(), frame.matrix())


def test_published_specs_keep_their_bits():
    # Pinned: sign sets and the integer stream of torch.Generator must never change under a published spec.
    for frame, expected in (
        (UnionFrame(40, 16, signs="quadratic"), "+-++---+--++-+-+"),
        (UnionFrame(40, 16, signs="random"), "+--++-++++-+-+--"),
    ):
        row = frame.matrix()[33] * 4
        assert "".join("+" if x > 0 else "-" for x in row) == expected
        assert torch.equal(row.abs(), torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize("signs", SIGNS)
def test_neither_the_default_device_nor_the_global_generator_matter(signs):
    before = torch.get_rng_state()
    expected = UnionFrame(2000, 96, signs=signs).matrix()
    with torch.device("meta"):
        frame = UnionFrame(2000, 96, signs=signs)
        assert torch.equal(frame.matrix(), expected)
        assert all(factor.device.type == "cpu" for factor in frame.factors().values())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_keep_the_features_type(dtype):
    frame = UnionFrame(3000, 256)
    features = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    out = frame.logits(features.to(dtype))
    assert out.dtype == dtype
    exact = features.double() @ frame.matrix().T
    assert (out.double() - exact).abs().max() <= 10 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("width", [64, 192, 320, 512])
def test_class_vectors_reach_every_feature(width):
    energy = UnionFrame(3 * width, width).matrix().square().sum(0) * width / (3 * width)  # mean 1
    assert energy.min() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_classes": 201, "in_features": 100, "signs": "quadratic"},
            r"num_classes=201 with in_features=100: there are 2 quadratic.*length 4.*200 classes",
        ),
        ({"num_classes": 9, "in_features": 4, "signs": "gold"}, "signs='gold': expected one of 'auto'"),
        ({"num_classes": 9, "in_features": 4, "antipodal": 1}, "antipodal=1: expected True or False"),
        ({"num_classes": 9, "in_features": 4, "seed": -1}, "seed=-1"),
        ({"num_classes": 9, "in_features": 4, "basis": "haar"}, "basis: not an option of frame='union'"),
    ],
)
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        make_frame("union", **options)


def test_kerdock_reaches_the_figure_of_merit():
    for d in (16, 64, 256):
        assert UnionFrame(d * d // 2, d).coherence().max_abs_cosine == pytest.approx(1 / math.sqrt(d))


@pytest.mark.parametrize("antipodal", [False, True])
@pytest.mark.parametrize(
    ("K", "d"), [(12, 3), (16, 4), (60, 5), (80, 8), (256, 8), (90, 9), (240, 12), (360, 18)]
)
def test_no_class_vector_is_given_to_two_classes(K, d, antipodal):
    frame = UnionFrame(K, d, signs="random", antipodal=antipodal)
    M = frame.matrix()
    assert (M @ M.T).fill_diagonal_(-1).max() < 1 - 1e-6
    assert torch.equal(frame.matrix(), M)


@pytest.mark.parametrize(("K", "d"), [(3, 1), (5, 2), (13, 3), (257, 8), (1_000_000, 16)])
def test_sizes_without_as_many_different_vectors_are_refused(K, d):
    with pytest.raises(ValueError, match=rf'num_classes .* in_features={d}, .*frame="code"'):
        make_frame("auto", num_classes=K, in_features=d)


@pytest.mark.parametrize("antipodal", [False, True])
def test_a_range_that_does_not_fit_the_blocks_is_refused(antipodal):
    frame = UnionFrame(2000, 64, antipodal=antipodal)
    factors, x = frame.factors(), torch.ones(2, 64, dtype=torch.float64)
    for start, stop in ((32, 128), (0, 100), (1920, 2048), (128, 128)):
        with pytest.raises(ValueError, match=rf"start={start}, stop={stop}: .*block_size={frame.block_size}"):
            frame.block_logits(x, factors, start, stop)
        with pytest.raises(ValueError, match="block_size"):
            frame.block_adjoint(torch.ones(2, stop - start, dtype=torch.float64), factors, start, stop)
