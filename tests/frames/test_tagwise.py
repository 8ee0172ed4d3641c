"""Closed forms of several labels against the problem they solve, minimised in float64."""

import itertools
import math

import pytest
import torch

from etfhead.frames.simplex import SimplexFrame
from etfhead.frames.tagwise import filled_gaps, tagwise_constants, tagwise_gaps
from etfhead.frames.tagwise_strength import collapse_threshold, fixed_frame_kappa, tagwise_kappa

COUNTS = {1: 4, 2: 2, 3: 1}


def problem(K, counts):
    """Every label set of m labels counts[m] times, as rows."""
    sets = [s for m, n in counts.items() for s in itertools.combinations(range(K), m) for _ in range(n)]
    hot = torch.zeros(len(sets), K, dtype=torch.float64)
    for row, labels in zip(hot, sets, strict=True):
        row[list(labels)] = 1.0
    return hot


def minimise(K, counts, lw, lh, *, normalize=False, weight=None, steps=1500):
    """Class vectors and features that minimise the regularised pick-all-label loss, by L-BFGS."""
    hot = problem(K, counts)
    generator = torch.Generator().manual_seed(0)
    H = torch.randn(len(hot), K, generator=generator, dtype=torch.float64, requires_grad=True)
    W = torch.randn(K, K, generator=generator, dtype=torch.float64) if weight is None else weight.clone()
    W.requires_grad_(weight is None)
    optimizer = torch.optim.LBFGS(
        [H] if weight is not None else [H, W],
        max_iter=steps,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(hot, W, H, lw, lh, normalize=normalize)
        loss.backward()
        return loss

    optimizer.step(closure)
    return hot, W.detach(), H.detach()


def gaps_of(hot, logits):
    """Mean gap for each number of labels."""
    m, K = hot.sum(1), hot.shape[1]
    gap = (logits * hot).sum(1) / m - (logits * (1 - hot)).sum(1) / (K - m)
    return torch.stack([gap[m == size].mean() for size in m.unique()])


def objective(hot, W, H, lw, lh, *, normalize):
    z, m = H @ W.T, hot.sum(1)
    loss = m * z.logsumexp(1) - (hot * z).sum(1)
    return (loss / m if normalize else loss).mean() + lh * H.square().sum() + lw * W.square().sum()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("K", "counts", "lw", "lh"),
    [(5, COUNTS, 5e-3, 1e-4), (6, {2: 2, 3: 1}, 2e-3, 5e-4), (4, {1: 1, 2: 5, 3: 2}, 1e-2, 1e-3)],
)
def test_learned_class_vectors(K, counts, lw, lh, normalize):
    hot = problem(K, counts)
    N, m = len(hot), hot.sum(1)
    kappa = tagwise_kappa(K, counts, weight_decay=lw, feature_decay=lh, normalize=normalize)
    rho = 2 * N * lh * kappa / K  # W W^T = rho (I - 11^T / K)
    W = (SimplexFrame(K, K).matrix() * math.sqrt(rho * (K - 1) / K)).requires_grad_()
    gaps = tagwise_gaps(K, kappa, range(1, K), normalize=normalize)
    H = (gaps[m.long() - 1][:, None] / rho * (hot @ W)).detach().requires_grad_()
    torch.testing.assert_close(gaps_of(hot, H @ W.T), gaps[m.unique().long() - 1])
    predicted = objective(hot, W, H, lw, lh, normalize=normalize)
    predicted.backward()
    assert W.grad.abs().max() < 1e-12
    assert H.grad.abs().max() < 1e-12
    # A stationary point, and a descent from anywhere else comes near its value but never below.
    _, W_found, H_found = minimise(K, counts, lw, lh, normalize=normalize, steps=150)
    found = objective(hot, W_found, H_found, lw, lh, normalize=normalize).item()
    assert predicted.item() - 1e-12 <= found <= 1.02 * predicted.item()


def test_features_of_several_labels_are_scaled_sums_and_as_long_as_said():
    K, kappa = 6, 300.0
    W = SimplexFrame(K, K).matrix()
    hot = problem(K, {2: 1, 4: 1})
    C = tagwise_constants(K, kappa, [2, 4])[(hot.sum(1) > 2).long()]
    m = hot.sum(1)
    length = C * (m * (K - m) / (K - 1)).sqrt()
    torch.testing.assert_close((C[:, None] * (hot @ W)).norm(dim=1), length)


@pytest.mark.parametrize("product", [1e-12, 1e-60, 1e-300])
def test_weak_decays_leave_no_rounding(product):
    kappa = tagwise_kappa(5, {1: 2}, weight_decay=product, feature_decay=product)
    # One label: 4 N lw lh (K - 1) / K = (K - 1) (delta / kappa)^2, in logarithms.
    gap = tagwise_gaps(5, kappa, [1]).item()
    left = math.log(4 * 10 / 5) + 2 * math.log(product)
    assert 2 * (math.log(gap) - math.log(kappa)) == pytest.approx(left, abs=1e-9)


def test_figures_of_the_worked_example():
    kappa = tagwise_kappa(5, COUNTS, weight_decay=5e-3, feature_decay=1e-4)
    gaps = tagwise_gaps(5, kappa, COUNTS).tolist()
    assert gaps == pytest.approx([5.434744, 4.859256, 4.528649], abs=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_fixed_class_vectors(normalize):
    K, lh, scale = 5, 1e-3, 2.0
    weight = scale * SimplexFrame(K, K).matrix()
    hot, W, H = minimise(K, COUNTS, 0.0, lh, normalize=normalize, weight=weight)
    kappa = fixed_frame_kappa(K, len(hot), feature_decay=lh, scale=scale)
    expected = tagwise_gaps(K, kappa, COUNTS, normalize=normalize)
    torch.testing.assert_close(gaps_of(hot, H @ W.T), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_collapse_to_zero_at_the_threshold(normalize):
    critical = collapse_threshold(5, COUNTS, normalize=normalize)
    for factor in (0.9, 1.1):
        product = factor * critical
        options = {"weight_decay": product / 1e-2, "feature_decay": 1e-2, "normalize": normalize}
        kappa = tagwise_kappa(5, COUNTS, **options)
        hot, W, H = minimise(5, COUNTS, product / 1e-2, 1e-2, normalize=normalize)
        measured = gaps_of(hot, H @ W.T)
        expected = tagwise_gaps(5, kappa, COUNTS, normalize=normalize)
        torch.testing.assert_close(measured, expected, rtol=0, atol=1e-5)
        assert (kappa > 0) == (factor < 1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kappa", [1e-300, 1e-3, 1.0, 1e2, 1e6, 1e300])
@pytest.mark.parametrize("K", [2, 3, 10, 1000])
def test_gaps_solve_their_equation(K, kappa, normalize):
    m = range(1, K)
    gaps = tagwise_gaps(K, kappa, m, normalize=normalize)
    sizes = torch.arange(1, K, dtype=torch.float64)
    left = gaps * (sizes * gaps.exp() + K - sizes) * (sizes if normalize else 1.0)
    torch.testing.assert_close(left / kappa, torch.ones_like(left), rtol=1e-10, atol=0)
    assert (gaps.diff() < 0).all() or (kappa < 1e-9 and not normalize)


@pytest.mark.parametrize(
    ("kappa", "plain", "normalized"),
    [
        (1e2, [0.857, 0.776, 0.679], [0.664, 0.499, 0.333]),
        (1e3, [0.891, 0.829, 0.751], [0.778, 0.655, 0.508]),
        (1e6, [0.944, 0.912, 0.871], [0.889, 0.824, 0.743]),
    ],
)
def test_constants_of_ten_classes(kappa, plain, normalized):
    for normalize, expected in ((False, plain), (True, normalized)):
        assert tagwise_constants(10, kappa, [2, 3, 5], normalize=normalize).tolist() == pytest.approx(
            expected, abs=6e-4
        )


def test_limits_of_the_constants():
    m = torch.arange(1, 6, dtype=torch.float64)
    for normalize, limit in ((False, torch.ones(5, dtype=torch.float64)), (True, 1 / m)):
        assert torch.equal(tagwise_constants(7, 0.0, range(1, 6), normalize=normalize), limit)
        near = tagwise_constants(7, 1e-9, range(1, 6), normalize=normalize)
        torch.testing.assert_close(near, limit, rtol=1e-6, atol=0)
    # Vanishing regularisation: delta_1 - delta_m tends to log m, twice that for the normalised loss.
    for normalize, times in ((False, 1), (True, 2)):
        gaps = tagwise_gaps(7, 1e250, range(1, 6), normalize=normalize)
        torch.testing.assert_close(gaps[0] - gaps, times * m.log(), rtol=0.01, atol=0)
    assert tagwise_constants(7, 10.0, [3])[0] == tagwise_constants(7, 10.0, [1, 3])[1]


def test_single_labels_are_cross_entropy_of_the_simplex():
    # One label: delta (e^delta + K - 1) = kappa, and the gap is that of plain cross-entropy with both losses.
    for normalize in (False, True):
        gap = tagwise_gaps(10, 50.0, [1], normalize=normalize).item()
        assert gap * (math.exp(gap) + 9) == pytest.approx(50.0)


def test_counts_by_label_set_and_in_all_agree_and_empty_and_full_sets_only_dilute():
    options = {"weight_decay": 5e-3, "feature_decay": 1e-4}
    kappa = tagwise_kappa(5, COUNTS, **options)
    in_all = {m: n * math.comb(5, m) for m, n in COUNTS.items()}
    assert tagwise_kappa(5, in_all, per_label_set=False, **options) == pytest.approx(kappa, rel=1e-12)
    assert collapse_threshold(5, in_all, per_label_set=False) == collapse_threshold(5, COUNTS)
    diluted = tagwise_kappa(5, {**in_all, 0: 25, 5: 25}, per_label_set=False, **options)
    # N doubles with the same pull: as if both decays were twice as strong.
    stronger = tagwise_kappa(5, COUNTS, weight_decay=2 * 5e-3, feature_decay=2 * 1e-4)
    assert diluted == pytest.approx(stronger, rel=1e-12)
    assert tagwise_kappa(5, {0: 3, 5: 2}, **options) == 0.0


@pytest.mark.parametrize("normalize", [False, True])
def test_filled_gaps_keep_what_is_known_and_follow_the_theory(normalize):
    curve = tagwise_gaps(9, 200.0, range(1, 9), normalize=normalize)
    for known in ([1], [3], [8], [2, 5, 7], range(1, 9)):
        filled = filled_gaps(9, {m: curve[m - 1].item() for m in known}, normalize=normalize)
        torch.testing.assert_close(filled, curve, rtol=1e-10, atol=0)
    uneven = filled_gaps(9, {2: 5.0, 4: 1.0}, normalize=normalize)
    assert uneven[1] == 5.0
    assert uneven[3] == 1.0
    assert 1.0 < uneven[2] < 5.0
    assert filled_gaps(4, {1: 5000.0}).isfinite().all()  # kappa itself would overflow


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tagwise_gaps(1, 1.0, [1]), "num_classes=1"),
        (lambda: tagwise_gaps(5, -1.0, [1]), "kappa=-1.0"),
        (lambda: tagwise_gaps(5, math.inf, [1]), "kappa=inf"),
        (lambda: tagwise_gaps(5, 1.0, [5]), "from 1 to num_classes - 1 = 4"),
        (lambda: tagwise_gaps(5, 1.0, [0]), "multiplicities=0"),
        (lambda: tagwise_constants(5, 1.0, [1.5]), "multiplicities=1.5"),
        (lambda: tagwise_kappa(5, {}, weight_decay=1.0, feature_decay=1.0), "at least one sample"),
        (lambda: tagwise_kappa(5, {6: 1}, weight_decay=1.0, feature_decay=1.0), "6 labels out of"),
        (
            lambda: tagwise_kappa(5, {1: -1}, weight_decay=1.0, feature_decay=1.0),
            r"multiplicity_counts\[1\]=-1",
        ),
        (lambda: tagwise_kappa(5, {1: 1}, weight_decay=0.0, feature_decay=1.0), "weight_decay=0.0"),
        (lambda: tagwise_kappa(5, {1: 1}, weight_decay=1e-320, feature_decay=1e-320), "too small"),
        (lambda: fixed_frame_kappa(5, 0, feature_decay=1.0), "num_samples=0"),
        (lambda: filled_gaps(5, {}), "known: expected the gap of at least one"),
        (lambda: filled_gaps(5, {1: 0.0}), r"known\[1\]=0.0"),
        (lambda: filled_gaps(5, {5: 1.0}), "from 1 to num_classes - 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
