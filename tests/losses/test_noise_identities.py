"""Limits of one loss that are another one, and sums over all labels that do not depend on the logits."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from etfhead import losses as L
from etfhead.frames import make_frame
from etfhead.losses import _tempered
from etfhead.losses._tempered import power, tail_power

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    logits = 2.0 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return logits, torch.randint(6, (40,), generator=generator)


def ce(batch):
    return cross_entropy(*batch, reduction="none")


def p_y(batch):
    logits, target = batch
    return logits.softmax(1).gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize(
    ("function", "options", "tolerance"),
    [
        (L.label_smoothing_cross_entropy, {"label_smoothing": 0.0}, 1e-12),
        (L.label_relaxation, {"alpha": 0.0}, 1e-12),
        (L.label_relaxation, {"alpha": 1e-12}, 1e-9),
        (L.generalized_cross_entropy, {"q": 0.0}, 1e-12),
        (L.generalized_cross_entropy, {"q": 1e-10}, 1e-8),
        (L.symmetric_cross_entropy, {"alpha": 1.0, "beta": 0.0}, 1e-12),
        (L.bootstrapping, {"mode": "soft", "beta": 1.0}, 1e-12),
        (L.bootstrapping, {"mode": "hard", "beta": 1.0}, 1e-12),
        (L.taylor_cross_entropy, {"order": 20_000}, 1e-8),
        (L.huberized_cross_entropy, {"tau": 1e9}, 1e-12),
        (L.poly_cross_entropy, {"epsilon": 0.0}, 1e-12),
        (L.bi_tempered, {"t1": 1.0, "t2": 1.0}, 1e-12),
        (L.bi_tempered, {"t1": 1.0 - 1e-9, "t2": 1.0 + 1e-7}, 1e-5),
        (L.jensen_shannon, {"weights": (1e-7, 1 - 1e-7)}, 1e-5),
    ],
)
def test_limits_that_are_cross_entropy(batch, function, options, tolerance):
    value = function(*batch, reduction="none", **options)
    torch.testing.assert_close(value, ce(batch), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("function", "options", "share"),
    [
        (L.generalized_cross_entropy, {"q": 1.0}, 0.5),
        (L.taylor_cross_entropy, {"order": 1}, 0.5),
        (L.asymmetric_generalized_cross_entropy, {"a": 3.0, "q": 1.0}, 0.5),
        (L.asymmetric_unhinged, {"a": 7.0, "q": 1.0}, 0.5),
        (L.reverse_cross_entropy, {"log_zero": -2.0}, 1.0),
        (L.symmetric_cross_entropy, {"alpha": 0.0, "beta": 1.0, "log_zero": -2.0}, 1.0),
    ],
)
def test_limits_that_are_the_mean_absolute_error(batch, function, options, share):
    value = function(*batch, reduction="none", **options)
    torch.testing.assert_close(value, share * L.mean_absolute_error(*batch, reduction="none"), **EXACT)


def test_other_limits(batch):
    logits, target = batch
    p = p_y(batch)
    torch.testing.assert_close(
        L.asymmetric_generalized_cross_entropy(*batch, a=1e-12, q=0.7, reduction="none"),
        L.generalized_cross_entropy(*batch, q=0.7, reduction="none"),
    )
    # Far from its bend, the exponential is a line.
    a = 1e6
    torch.testing.assert_close(
        a * (1 - L.asymmetric_exponential(*batch, a=a, reduction="none")), p, rtol=1e-5, atol=1e-8
    )
    hot = torch.nn.functional.one_hot(target, 6).double()
    torch.testing.assert_close(
        L.asymmetric_mean_square(*batch, a=1.0), torch.nn.functional.mse_loss(logits.softmax(1), hot)
    )
    torch.testing.assert_close(
        L.label_smoothing_cross_entropy(*batch, label_smoothing=0.3),
        cross_entropy(*batch, label_smoothing=0.3),
    )
    # Jensen-Shannon with nearly all weight on the label goes to half the mean absolute error, at rate 1/log.
    gaps = [
        (L.jensen_shannon(*batch, weights=(1 - w, w), reduction="none") - (1 - p)).abs().max()
        for w in (1e-2, 1e-4, 1e-8)
    ]
    assert gaps[0] > 1.8 * gaps[1] > 3.4 * gaps[2]


def over_labels(function, logits, **options):
    """The losses of all labels of each sample, (K, B)."""
    K = logits.shape[1]
    return torch.stack(
        [function(logits, torch.full((len(logits),), k), reduction="none", **options) for k in range(K)]
    )


SYMMETRIC = [
    (L.mean_absolute_error, {}, lambda K: 2 * (K - 1)),
    (L.reverse_cross_entropy, {}, lambda K: -math.log(1e-4) * (K - 1)),
    (L.normalized_cross_entropy, {}, lambda K: 1),
    (L.normalized_cross_entropy, {"gamma": 0.5}, lambda K: 1),
    (L.normalized_negative_loss, {}, lambda K: K - 1),
    (L.normalized_negative_loss, {"gamma": 0.5}, lambda K: K - 1),
    (L.generalized_cross_entropy, {"q": 1.0}, lambda K: K - 1),
    (L.active_passive, {"alpha": 10.0, "beta": 0.1}, lambda K: 10 - 0.1 * math.log(1e-4) * (K - 1)),
    (L.active_negative, {}, lambda K: 5 + 5 * (K - 1)),
]


@pytest.mark.parametrize(("function", "options", "constant"), SYMMETRIC)
@pytest.mark.parametrize("K", [2, 7])
def test_symmetric_losses_sum_to_a_constant(function, options, constant, K):
    logits = 5 * torch.randn(30, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = over_labels(function, logits, **options).sum(0)
    torch.testing.assert_close(total, torch.full_like(total, constant(K)), **EXACT)


@pytest.mark.parametrize(
    "function", [L.generalized_cross_entropy, L.symmetric_cross_entropy, L.jensen_shannon]
)
def test_losses_that_are_not_symmetric_do_not(function):
    logits = 5 * torch.randn(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert over_labels(function, logits).sum(0).std() > 0.01


@pytest.mark.parametrize(
    ("K", "d", "basis"), [(2, 1, "identity"), (5, 4, "haar"), (10, 32, "hadamard"), (7, 7, "haar")]
)
def test_losses_of_a_simplex_head_are_symmetric_by_geometry(K, d, basis):
    generator = torch.Generator().manual_seed(K)
    W = make_frame("simplex", num_classes=K, in_features=d, basis=basis, seed=0).matrix()
    scale = 7.0
    h = normalize(torch.randn(50, d, generator=generator, dtype=torch.float64), dim=1)
    logits = scale * h @ W.T
    dot = over_labels(L.etf_dot, logits, target_logit=scale)
    torch.testing.assert_close(dot.sum(0), torch.zeros(50, dtype=torch.float64), **EXACT)
    assert dot.min() >= -1 - 1e-12
    at_vertex = L.etf_dot(scale * W @ W.T, torch.arange(K), target_logit=scale, reduction="none")
    torch.testing.assert_close(at_vertex, -torch.ones(K, dtype=torch.float64), **EXACT)

    # Squared dot-regression: for unit features in the span of the frame; outside it is not constant.
    inside = normalize(torch.randn(50, K, generator=generator, dtype=torch.float64) @ W, dim=1)
    squared = over_labels(L.dot_regression, scale * inside @ W.T, target_logit=scale).sum(0)
    torch.testing.assert_close(squared, torch.full_like(squared, (K / (K - 1) + K) / 2), **EXACT)
    if d > K - 1:
        assert over_labels(L.dot_regression, logits, target_logit=scale).sum(0).std() > 1e-3


def test_uniform_noise_leaves_the_minimiser_of_the_dot_loss_at_the_class_vector():
    K, rate = 6, 0.7
    W = make_frame("simplex", num_classes=K, in_features=5, basis="haar", seed=0).matrix()
    seen = torch.full((K,), rate / (K - 1), dtype=torch.float64)
    seen[2] = 1 - rate
    # The loss is linear: over unit features it is least along the labels' mean class vector.
    mean = seen @ W
    torch.testing.assert_close(mean, (1 - rate * K / (K - 1)) * W[2], **EXACT)


def test_smoothed_labels_are_met_at_the_vertices_at_the_matched_scale():
    for K, a in ((2, 0.1), (10, 0.1), (100, 0.2)):
        W = make_frame(
            "simplex", num_classes=K, in_features=K - 1 if K > 2 else 1, basis="haar", seed=0
        ).matrix()
        s = L.label_smoothing_scale(K, a)
        logits = (s * W @ W.T).requires_grad_()
        target = torch.arange(K)
        L.label_smoothing_cross_entropy(logits, target, label_smoothing=a, reduction="sum").backward()
        torch.testing.assert_close(logits.grad, torch.zeros_like(logits), **EXACT)
    assert round(L.label_smoothing_scale(10, 0.1), 2) == 4.06
    assert round(L.label_smoothing_scale(100, 0.2), 2) == 5.93
    for K, a in ((1, 0.1), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="num_classes" if K == 1 else "label_smoothing"):
            L.label_smoothing_scale(K, a)


def test_label_relaxation_asks_nothing_within_its_set():
    logits = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = L.label_relaxation(logits, torch.tensor([0, 0]), alpha=0.1, reduction="none")
    loss.sum().backward()
    assert loss[0] == 0
    assert (logits.grad[0] == 0).all()
    assert loss[1] > 0
    assert L.label_relaxation(logits * math.nan, torch.tensor([0, 0])).isnan()
    # Continuous at the edge of the set.
    p = torch.tensor([0.9 - 1e-9, 0.9 + 1e-9], dtype=torch.float64)
    edge = torch.stack([p.log(), (1 - p).log()], 1)
    assert (L.label_relaxation(edge, torch.tensor([0, 0]), alpha=0.1, reduction="none") < 1e-12).all()


@pytest.mark.parametrize(
    ("function", "options", "edge"),
    [
        (L.huberized_cross_entropy, {"tau": 4.0}, 0.25),
        (L.generalized_cross_entropy, {"truncation": 0.3}, 0.3),
    ],
)
def test_pieces_meet(function, options, edge):
    p = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1).requires_grad_()
    loss = function(logits, torch.tensor([0, 0]), reduction="none", **options)
    assert (loss[0] - loss[1]).abs() < 1e-7
    loss.sum().backward()
    if function is L.huberized_cross_entropy:
        torch.testing.assert_close(logits.grad[0], logits.grad[1], rtol=1e-6, atol=1e-6)
    else:
        assert (logits.grad[0] == 0).all()
        assert (logits.grad[1] != 0).all()


def test_truncation_can_begin_late(batch):
    module = L.GeneralizedCrossEntropyLoss()
    before = module(*batch)
    module.truncation = 0.5
    torch.testing.assert_close(module(*batch), L.generalized_cross_entropy(*batch, truncation=0.5))
    assert module(*batch) < before


def test_a_mean_of_the_batch_keeps_predictions_balanced(batch):
    logits, target = batch
    mean = logits.softmax(1).mean(0)
    term = math.log(6) + (mean * mean.log()).sum()
    plain, balanced = (L.active_negative(*batch, entropy=x, reduction="none") for x in (0.0, 3.0))
    torch.testing.assert_close(balanced - plain, (3 * term).expand(40), **EXACT)
    assert torch.autograd.gradcheck(
        lambda z: L.active_negative(z, target[:4], entropy=2.0), (logits[:4].clone().requires_grad_(),)
    )


def test_l1_norm_is_of_what_trains():
    layer = torch.nn.Linear(2, 3)
    layer.bias.requires_grad_(False)
    norm = L.l1_norm(layer.parameters())
    torch.testing.assert_close(norm, layer.weight.abs().sum())
    norm.backward()
    torch.testing.assert_close(layer.weight.grad, layer.weight.sign())
    with pytest.raises(ValueError, match="none of them trains"):
        L.l1_norm([layer.bias])


def test_active_and_passive_parts_can_be_any_probability_losses(batch):
    pair = L.ActivePassiveLoss(
        L.NormalizedCrossEntropyLoss(gamma=0.5),
        L.AsymmetricGeneralizedCrossEntropyLoss(a=6.0, q=1.5),
        alpha=2.0,
        beta=4.0,
    )
    expected = 2 * L.normalized_cross_entropy(*batch, gamma=0.5) + 4 * L.asymmetric_generalized_cross_entropy(
        *batch, a=6.0, q=1.5
    )
    torch.testing.assert_close(pair(*batch), expected, **EXACT)
    assert "gamma=0.5" in repr(pair)
    nested = L.ActivePassiveLoss(pair, L.MeanAbsoluteErrorLoss())
    torch.testing.assert_close(nested(*batch), expected + L.mean_absolute_error(*batch), **EXACT)


def test_views_of_jensen_shannon(batch):
    logits, target = batch
    generator = torch.Generator().manual_seed(1)
    views = torch.stack([logits, logits + torch.randn(40, 6, generator=generator, dtype=torch.float64)])
    pi = (0.3, 0.35, 0.35)
    hot = torch.nn.functional.one_hot(target, 6).double()
    for labels, y in ((target, hot), (0.8 * hot + 0.2 / 6, 0.8 * hot + 0.2 / 6)):
        p = views.softmax(2)
        m = pi[0] * y + pi[1] * p[0] + pi[2] * p[1]

        def kl(a, m=m):
            return torch.where(a > 0, a * (a / m).log(), 0.0).sum(1)

        expected = pi[0] * kl(y) + pi[1] * kl(p[0]) + pi[2] * kl(p[1])
        expected = expected / (-(1 - pi[0]) * math.log(1 - pi[0]))
        value = L.jensen_shannon(views, labels, weights=pi, reduction="none")
        torch.testing.assert_close(value, expected, **EXACT)
        # Equal views ask nothing of each other.
        twice = L.jensen_shannon(torch.stack([logits, logits]), labels, weights=pi)
        torch.testing.assert_close(twice, L.jensen_shannon(logits, labels, weights=(0.3, 0.7)), **EXACT)
    small = views[:, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: L.jensen_shannon(z, target[:3], weights=pi), (small,))
    module = L.JensenShannonLoss(pi)
    torch.testing.assert_close(module(views, target), L.jensen_shannon(views, target, weights=pi))
    huge = (1e4 * views.sign()).bfloat16().requires_grad_()
    module(huge, target).backward()
    assert huge.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"V = 2"):
        module(logits, target)
    with pytest.raises(ValueError, match="expected two, as there is one view"):
        L.ActivePassiveLoss(module)


def test_the_largest_jensen_shannon_loss_is_what_its_docstring_says():
    pi = 0.7
    bound = math.log(pi) * pi / ((1 - pi) * math.log(1 - pi)) + 1
    value = L.jensen_shannon(torch.tensor([[-800.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
    assert value.item() == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("t", [1.0, 1.05, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tempered_softmax_sums_to_one(t, dtype):
    generator = torch.Generator().manual_seed(0)
    for K, size in ((2, 1.0), (1000, 1.0), (1000, 0.0), (10, 1e4)):
        logits = (size * torch.randn(5, K, generator=generator)).to(dtype)
        p = L.tempered_log_softmax(logits, t).exp()
        torch.testing.assert_close(
            p.sum(1), torch.ones(5, dtype=dtype), rtol=0, atol=20 * torch.finfo(dtype).eps
        )
        if dtype == torch.float64:  # with heavy tails and many classes float32 cannot tell them apart
            assert (p.argmax(1) == logits.argmax(1)).all()


def test_tempered_powers():
    x = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.01
    for exponent in (1.0, 2.0, 3.0, 5.0, 6.0, 13.0, 20.0, 32.0, 0.0, 0.3, 1 / 3, 4.99999, 33.0):
        torch.testing.assert_close(power(x, exponent), x**exponent, rtol=1e-13, atol=0)
    assert power(x, 1.0) is not x
    assert _tempered.snapped(5 * (1 - 0.8)) == 1.0
    assert _tempered.snapped(1.0001) == 1.0001
    # 1.2 - 1 is not quite 0.2.
    assert [tail_power(t) for t in (1.2, 1.1, 1.05, 1 + 1 / 3, 1.5, 2.0)] == [5, 10, 20, 3, 2, 1]
    assert tail_power(4.0) == pytest.approx(1 / 3)
    assert tail_power(1.37) == pytest.approx(1 / 0.37)


def of_gpu(logits, n):
    return _tempered._stepped(logits.amax(1, keepdim=True) - logits, n)


ways = pytest.mark.parametrize("solve", [_tempered.tempered_factors, of_gpu], ids=["cpu", "gpu"])


@ways
@pytest.mark.parametrize("n", [0.4, 1.0, 5.0, 20.0])
def test_tempered_factors_find_the_root_whatever_the_first_guess(n, solve):
    generator = torch.Generator().manual_seed(0)
    K = 1000
    rows = torch.randn(4, K, generator=generator, dtype=torch.float64)
    rows[1] *= 100
    rows[2, 5] += 50  # a class that the part for the first guess has not
    rows[3, ::16] += 50  # classes that only the part has
    f = solve(rows, n)
    torch.testing.assert_close((f**-n).sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-13)
    gaps = n * (f - f.amin(1, keepdim=True))
    torch.testing.assert_close(gaps, rows.amax(1, keepdim=True) - rows, rtol=1e-9, atol=1e-9)


@ways
@pytest.mark.parametrize("n", [0.2, 1 / 3, 0.5, 1.0, 2.0, 4.0, 5.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tempered_factors_of_groups_of_equal_logits(n, dtype, solve):
    # Few classes near the top, many at some distance: where steps are shortest.
    sizes = torch.tensor([1, 9, 190, 1800])
    distances = torch.logspace(-1, 4, 6, dtype=torch.float64)
    groups = torch.cartesian_prod(torch.zeros(1, dtype=torch.float64), distances, distances, distances)
    f = solve(-groups.repeat_interleave(sizes, 1).to(dtype), n)
    # A plain sum of that many terms has some hundred roundings.
    tolerance = 1000 * torch.finfo(dtype).eps * max(1.0, n)
    totals = (f.double() ** -n).sum(1)
    torch.testing.assert_close(totals, torch.ones_like(totals), rtol=0, atol=tolerance)


def test_tempered_loss_is_least_at_the_label_and_bounded():
    far = torch.tensor([[-1e8, 0.0]], dtype=torch.float64)
    assert L.bi_tempered(far, torch.tensor([0]), t1=0.5, t2=1.0) <= 2.0  # 1/(1 - t1)
    assert L.bi_tempered(-far, torch.tensor([0]), t1=0.5, t2=1.0).abs() < 1e-12


def test_logit_clip():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    clipped = L.logit_clip(logits, max_norm=1.5)
    norms = logits.norm(dim=1)
    torch.testing.assert_close(clipped.norm(dim=1), norms.clamp(max=1.5), **EXACT)
    torch.testing.assert_close(normalize(clipped, dim=1), normalize(logits, dim=1), **EXACT)
    short = norms < 1.5
    assert short.any()
    assert (~short).any()
    assert torch.equal(clipped[short], logits[short])
    assert torch.autograd.gradcheck(
        lambda z: L.logit_clip(z, max_norm=1.5), (logits.clone().requires_grad_(),)
    )
    assert torch.autograd.gradgradcheck(
        lambda z: L.logit_clip(z, max_norm=1.5) ** 2, (logits[:6].clone().requires_grad_(),)
    )
    # Continuous at the threshold.
    edge = normalize(logits[:1], dim=1) * torch.tensor([[1.5 - 1e-9], [1.5 + 1e-9]], dtype=torch.float64)
    pair = L.logit_clip(edge, max_norm=1.5)
    assert (pair[0] - pair[1]).abs().max() < 1e-8
    zero = torch.zeros(2, 3, requires_grad=True)
    L.logit_clip(zero).sum().backward()
    assert zero.grad.isfinite().all()
    huge = torch.full((2, 3), -1e4).bfloat16()
    assert L.logit_clip(huge).dtype == torch.float32
    with pytest.raises(ValueError, match="max_norm"):
        L.LogitClipLoss(torch.nn.CrossEntropyLoss(), max_norm=0.0)


def test_logit_clip_goes_before_any_loss(batch):
    for inner in (torch.nn.CrossEntropyLoss(), L.GeneralizedCrossEntropyLoss(reduction="none")):
        clipped = L.LogitClipLoss(inner, max_norm=2.0)
        torch.testing.assert_close(clipped(*batch), inner(L.logit_clip(batch[0], max_norm=2.0), batch[1]))
    # A unit feature on a unit simplex is within s sqrt(K/(K-1)) already.
    W = make_frame("simplex", num_classes=5, in_features=8, basis="haar", seed=0).matrix()
    h = normalize(torch.randn(30, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    logits = 3.0 * h @ W.T
    torch.testing.assert_close(L.logit_clip(logits, max_norm=3.0 * math.sqrt(5 / 4)), logits, **EXACT)
