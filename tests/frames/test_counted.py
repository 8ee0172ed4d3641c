"""Frames that follow class counts: the closed forms they must equal, their limits, and the fast path."""

import json
import math

import pytest
import torch

from etfhead import ETFHead, swap_head
from etfhead.frames import Frame, ImbalancedCEFrame, OrthogonalFrame, SeliFrame, SimplexFrame, make_frame
from etfhead.frames.assign import assign_classes
from etfhead.frames.imbalanced import imbalanced_ce_geometry, orthogonal_geometry, seli_geometry

COUNTS = [60, 25, 12, 4, 4]
LARGE = [5000 - 12 * k for k in range(400)]
DECAYS = {"weight_decay": 4e-4, "feature_decay": 1e-4}
BASES = ["identity", "hadamard", "haar"]


def gram(frame):
    return frame.matrix() @ frame.matrix().T


def direction(matrix):
    return matrix / matrix.norm()


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


ALL = [
    OrthogonalFrame(5, 8),
    OrthogonalFrame(5, 5, class_counts=COUNTS, **DECAYS),
    OrthogonalFrame(5, 4, class_counts=COUNTS, bias=True),
    OrthogonalFrame(5, 4, class_counts=[3] * 5, bias=True),
    OrthogonalFrame(5, 8, class_counts=[3] * 5, bias=True, basis="identity"),
    OrthogonalFrame(400, 512, class_counts=LARGE),
    ImbalancedCEFrame(5, 9, class_counts=COUNTS, **DECAYS),
    ImbalancedCEFrame(5, 9, class_counts=COUNTS, basis="identity"),
    ImbalancedCEFrame(400, 512, class_counts=LARGE),
    SeliFrame(5, 4, class_counts=COUNTS),
    SeliFrame(5, 9, class_counts=COUNTS, basis="haar"),
    SeliFrame(400, 512, class_counts=[7] * 400),
]


@pytest.mark.parametrize("basis", BASES)
def test_at_the_scale_of_the_optimum_they_are_the_closed_forms(basis):
    plain = OrthogonalFrame(5, 7, class_counts=COUNTS, basis=basis, **DECAYS)
    biased = OrthogonalFrame(5, 7, class_counts=COUNTS, bias=True, basis=basis, **DECAYS)
    ce = ImbalancedCEFrame(5, 7, class_counts=COUNTS, basis=basis, **DECAYS)
    seli = SeliFrame(5, 7, class_counts=COUNTS, basis=basis)
    for frame, geometry in (
        (plain, orthogonal_geometry(COUNTS, **DECAYS)),
        (biased, orthogonal_geometry(COUNTS, bias=True, **DECAYS)),
        (ce, imbalanced_ce_geometry(COUNTS, **DECAYS)),
        (seli, seli_geometry(COUNTS)),
    ):
        close(gram(frame) * frame.optimal_scale**2, geometry.weight_gram, 1e-11)


@pytest.mark.parametrize("frame", ALL, ids=repr)
def test_mean_square_length_is_one_and_the_longest_is_known(frame):
    norms = frame.matrix().norm(dim=1)
    assert norms.square().mean().item() == pytest.approx(1.0, abs=1e-12)
    assert frame.max_norm == pytest.approx(norms.max().item(), abs=1e-12)
    assert frame.free_of_data


@pytest.mark.parametrize("frame", ALL, ids=repr)
def test_fast_logits_blocks_and_adjoints_equal_the_matrix(frame):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 3, frame.in_features, dtype=torch.float64, generator=generator)
    c = torch.randn(2, 3, frame.num_classes, dtype=torch.float64, generator=generator)
    M, factors, K = frame.matrix(), frame.factors(), frame.num_classes
    close(frame.logits(h), h @ M.T, 1e-11)
    values, gain = frame.shifted_logits(h, factors)
    close((gain * values).softmax(-1), (h @ M.T).softmax(-1), 1e-11)
    close(frame.leave(frame.block_adjoint(c, factors, 0, K), factors), c @ M, 1e-11)
    if frame.structured:
        assert sum(f.numel() for f in factors.values()) < M.numel() / 4
        with pytest.raises(ValueError, match="block_size"):
            frame.block_logits(h, factors, 0, 1)


def test_which_frames_are_structured():
    assert OrthogonalFrame(400, 512, class_counts=LARGE).structured
    assert ImbalancedCEFrame(400, 512, class_counts=LARGE).structured
    assert SeliFrame(400, 512, class_counts=[7] * 400).structured
    assert OrthogonalFrame(5, 8, basis="identity").structured
    assert not SeliFrame(400, 512, class_counts=LARGE).structured
    assert not OrthogonalFrame(400, 512, class_counts=LARGE, bias=True).structured
    assert not OrthogonalFrame(400, 512, class_counts=LARGE, basis="haar").structured
    assert not OrthogonalFrame(5, 8).structured  # small: one product is faster


@pytest.mark.parametrize("frame", ALL, ids=repr)
def test_spec_rebuilds_the_same_bits_after_json(frame):
    again = make_frame(**json.loads(json.dumps(frame.spec())))
    assert again == frame
    assert hash(again) == hash(frame)
    assert torch.equal(again.matrix(), frame.matrix())
    with torch.device("meta"):
        assert torch.equal(make_frame(**frame.spec()).matrix(), frame.matrix())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("K", "d"), [(5, 8), (5, 4), (200, 400)])
def test_equal_counts_give_the_simplex_of_the_same_basis(basis, K, d):
    simplex = SimplexFrame(K, d, basis=basis, seed=3).matrix()
    options = {"class_counts": [9] * K, "basis": basis, "seed": 3}
    frames = [SeliFrame(K, d, **options), OrthogonalFrame(K, d, bias=True, **options)]
    if d >= K:
        frames.append(ImbalancedCEFrame(K, d, weight_decay=1e-5, feature_decay=1e-5, **options))
    for frame in frames:
        close(frame.matrix(), simplex)


def test_without_counts_orthogonal_vectors_are_orthonormal():
    close(gram(OrthogonalFrame(6, 9, basis="haar")), torch.eye(6, dtype=torch.float64))
    assert OrthogonalFrame(6, 9, class_counts=[4] * 6) != OrthogonalFrame(6, 9)
    close(OrthogonalFrame(6, 9, class_counts=[4] * 6).matrix(), OrthogonalFrame(6, 9).matrix())


@pytest.mark.parametrize("kind", [OrthogonalFrame, ImbalancedCEFrame])
def test_decays_of_zero_are_the_limit_of_small_ones(kind):
    limit = gram(kind(5, 8, class_counts=COUNTS))
    distances = [
        (gram(kind(5, 8, class_counts=COUNTS, weight_decay=x, feature_decay=x)) - limit).norm().item()
        for x in (1e-4, 1e-8, 1e-12)
    ]
    assert distances[0] > distances[1] > distances[2]
    if kind is OrthogonalFrame:
        assert distances[2] < 1e-9
        norms = kind(5, 8, class_counts=COUNTS).matrix().norm(dim=1)
        close(norms / norms[0], (torch.tensor(COUNTS).double() / COUNTS[0]).pow(0.25))


def test_only_the_product_of_the_decays_shapes_a_frame_and_seli_only_the_ratios_of_counts():
    one, other = (
        OrthogonalFrame(5, 8, class_counts=COUNTS, weight_decay=1e-3 * x, feature_decay=1e-3 / x)
        for x in (1, 16)
    )
    close(one.matrix(), other.matrix())
    assert other.optimal_scale == pytest.approx(one.optimal_scale / math.sqrt(16))
    a, b = (SeliFrame(5, 8, class_counts=[x * n for n in COUNTS]) for x in (1, 7))
    close(a.matrix(), b.matrix())


def test_minorities_collapse_at_the_threshold():
    counts = [60, 9, 4]
    at = 4 / 73**2
    for product, collapsed in ((0.999 * at, False), (1.001 * at, True)):
        decays = {"weight_decay": 2 * product**0.5, "feature_decay": product**0.5 / 2}
        frame = OrthogonalFrame(3, 4, class_counts=counts, **decays)
        assert bool((frame.matrix()[2] == 0).all()) is collapsed
        assert frame.matrix()[1].norm() > 0
        decays = {name: x * math.sqrt(2 / 3) for name, x in decays.items()}
        ce = ImbalancedCEFrame(3, 4, class_counts=counts, basis="identity", **decays)
        assert ce.matrix()[2].norm() > 0  # points away from the others
        away = ce.matrix()[2] / ce.matrix()[2].norm()
        assert bool(away[2].abs() < 1e-12) is collapsed


def test_two_collapsed_classes_of_cross_entropy_share_one_vector():
    frame = ImbalancedCEFrame(4, 6, class_counts=[90, 50, 2, 1], weight_decay=0.02, feature_decay=0.02)
    close(frame.matrix()[2], frame.matrix()[3])


def test_rare_classes_of_seli_are_closer_together():
    M = SeliFrame(4, 3, class_counts=[100, 100, 1, 1]).matrix()
    unit = M / M.norm(dim=1, keepdim=True)
    assert unit[0] @ unit[1] < unit.new_tensor(-1 / 3) < unit[2] @ unit[3]
    close(M.sum(0), torch.zeros(3, dtype=torch.float64))


def test_coherence_of_orthogonal_vectors_is_exactly_zero():
    assert OrthogonalFrame(5, 8, class_counts=COUNTS).coherence() == (0.0, 0.0, 0.0)
    measured = Frame.coherence(OrthogonalFrame(5, 8, class_counts=COUNTS, basis="haar"))
    assert measured.max_abs_cosine < 1e-14
    assert OrthogonalFrame(5, 8, class_counts=COUNTS, bias=True).coherence().max_cosine < 0


def test_printing_many_counts_is_short():
    assert "class_counts=5000..212," in repr(OrthogonalFrame(400, 512, class_counts=LARGE))
    assert "class_counts=[60, 25, 12, 4, 4]" in repr(OrthogonalFrame(5, 8, class_counts=COUNTS))


@pytest.mark.parametrize("name", ["orthogonal", "imbalanced_ce", "seli"])
@pytest.mark.parametrize(("K", "d"), [(5, 16), (400, 512)])
def test_heads_take_the_counts(name, K, d):
    counts = COUNTS if K == 5 else LARGE
    head = ETFHead(d, K, frame=name, class_counts=counts, scale=2.0, dtype=torch.float64).eval()
    assert head.frame == make_frame(name, num_classes=K, in_features=d, class_counts=counts)
    h = torch.randn(3, d, dtype=torch.float64)
    expected = 2.0 * h @ head.frame.matrix().T / math.sqrt(d * (1 + 1e-5))
    torch.testing.assert_close(head(h), expected)
    torch.testing.assert_close(head.fuse()(h), expected)
    assert head.topk(h, 2).indices.tolist() == expected.topk(2).indices.tolist()
    twin = ETFHead(d, K, frame=name, class_counts=counts, dtype=torch.float64).eval()
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin(h), head(h))
    other = ETFHead(d, K, frame=name, class_counts=counts[::-1], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="is not"):
        other.load_state_dict(head.state_dict())


@pytest.mark.parametrize("name", ["orthogonal", "imbalanced_ce", "seli"])
def test_swap_head_takes_the_counts(name):
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    swap_head(model, class_counts=torch.tensor(COUNTS), frame=name, classifier="2")
    assert model[2].frame == make_frame(name, num_classes=5, in_features=16, class_counts=COUNTS)
    model(torch.randn(8, 6)).sum().backward()


def test_vectors_made_for_a_count_are_not_handed_out():
    means = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="frame='seli': each of its vectors is made for the class"):
        assign_classes(SeliFrame(5, 8, class_counts=COUNTS), means)
    assert assign_classes(OrthogonalFrame(5, 8), means).base == OrthogonalFrame(5, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("orthogonal", {"in_features": 4}, "orthogonal class vectors need num_classes <= in_features = 4"),
        ("orthogonal", {"in_features": 3, "bias": True}, r"to zero need num_classes <= in_features \+ 1 = 4"),
        ("imbalanced_ce", {"in_features": 4}, "orthogonal class means need num_classes <= in_features = 4"),
        ("seli", {"in_features": 3}, r"num_classes <= in_features \+ 1 = 4"),
        ("orthogonal", {"class_counts": [1, 2, 0, 4, 5]}, "class_counts=.*positive integers"),
        ("imbalanced_ce", {"class_counts": [1, 2, -3, 4, 5]}, "class_counts=.*positive integers"),
        ("seli", {"class_counts": [1, 2, 2.5, 4, 5]}, "class_counts=.*positive integers"),
        ("seli", {"class_counts": [1, 2, 3]}, "class_counts: expected 5 numbers, one per class, got 3"),
        ("orthogonal", {"class_counts": [1] * 6}, "class_counts: expected 5 numbers, one per class, got 6"),
        ("seli", {"class_counts": ...}, "class_counts: frame='seli' follows the training samples.*all 5"),
        ("imbalanced_ce", {"class_counts": ...}, "class_counts: frame='imbalanced_ce' follows"),
        ("orthogonal", {"weight_decay": -1.0, "feature_decay": 1.0}, "weight_decay=-1.0: expected"),
        ("orthogonal", {"weight_decay": 1e-3}, "feature_decay=0.0: expected a positive"),
        ("imbalanced_ce", {"weight_decay": 0.0, "feature_decay": math.nan}, "weight_decay=0.0: expected"),
        ("orthogonal", {"weight_decay": 9.0, "feature_decay": 9.0}, "every class vector vanishes"),
        ("imbalanced_ce", {"weight_decay": 9.0, "feature_decay": 9.0}, "every class vector vanishes"),
        ("orthogonal", {"class_counts": ..., "weight_decay": 1, "feature_decay": 1}, "class_counts: needed"),
        ("orthogonal", {"bias": 1}, "bias=1: expected True or False"),
        ("seli", {"bias": True}, "bias: not an option of frame='seli'"),
        ("seli", {"basis": "fourier"}, "basis='fourier'"),
        ("seli", {"seed": -1}, "seed=-1"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(name, options, message):
    options = {"num_classes": 5, "in_features": 8, "class_counts": COUNTS, **options}
    options = {key: value for key, value in options.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        make_frame(name, **options)


def test_a_head_refuses_counts_that_its_frame_has_no_use_for():
    with pytest.raises(ValueError, match=r"class_counts: frame='auto' does not use them.*'seli'"):
        ETFHead(8, 5, class_counts=COUNTS)
    with pytest.raises(ValueError, match="class_counts: the frame is built already"):
        ETFHead(8, 5, frame=SimplexFrame(5, 8), class_counts=COUNTS)
    with pytest.raises(ValueError, match="expected 5 numbers, one per class, got 2"):
        ETFHead(8, 5, frame="seli", class_counts=[1, 2])
