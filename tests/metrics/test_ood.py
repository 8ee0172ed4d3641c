import math

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torchmetrics.functional import auroc

from etfhead.frames import make_frame
from etfhead.metrics.class_moments import add_batch, empty_moments, merge_moments
from etfhead.metrics.ood import nci_score, neco_score, principal_directions


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def features_of(samples, width, seed=0, offset=1.0):
    """Correlated features of unequal spread, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    spread = torch.logspace(0, -2, width, dtype=torch.float64)
    noise = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return noise * spread @ mixing + offset


def rotation(width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def collapsed(classes=5, width=20, per_class=40, spread=0.05, seed=0):
    """Features about the vectors of a simplex, and outliers that are orthogonal to all of them."""
    generator = torch.Generator().manual_seed(seed)
    frame = make_frame("simplex", num_classes=classes, in_features=width, seed=seed, basis="haar")
    weight = frame.matrix().double()
    labels = torch.arange(classes).repeat(per_class)
    noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    known = 3.0 * weight[labels] + spread * noise
    null = torch.linalg.svd(weight).Vh[classes:]
    codes = torch.randn(150, len(null), generator=generator, dtype=torch.float64)
    return weight, known, codes @ null


def separation(known, outliers):
    target = torch.cat([torch.ones(len(known)), torch.zeros(len(outliers))]).long()
    return auroc(torch.cat([known, outliers]), target, task="binary").item()


def naive_neco(features, mean, scale, components, logits=None):
    scores = []
    for i, row in enumerate(features.tolist()):
        unit = [(h - m) / s for h, m, s in zip(row, mean.tolist(), scale.tolist(), strict=True)]
        inside = sum(sum(v * u for v, u in zip(axis, unit, strict=True)) ** 2 for axis in components.tolist())
        score = math.sqrt(inside) / math.sqrt(sum(u * u for u in unit))
        scores.append(score if logits is None else score * max(logits[i].tolist()))
    return torch.tensor(scores, dtype=torch.float64)


def naive_nci(features, weight, bias, mean, alpha):
    scores = []
    for row in features.tolist():
        logits = [
            sum(w * h for w, h in zip(vector, row, strict=True)) + b
            for vector, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        vector = weight[logits.index(max(logits))].tolist()
        centred = [h - m for h, m in zip(row, mean.tolist(), strict=True)]
        along = sum(w * c for w, c in zip(vector, centred, strict=True))
        length = math.sqrt(sum(c * c for c in centred))
        scores.append(along / length + alpha * sum(abs(h) for h in row))
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("samples", "width", "n"), [(200, 8, 3), (12, 30, 5), (9000, 6, 6), (7, 7, 1)])
def test_directions_and_ratio_are_those_of_scikit_learn(samples, width, n, standardize):
    train, test = features_of(samples, width), features_of(9, width, seed=1)
    prepare = StandardScaler(with_mean=True, with_std=standardize).fit(train.numpy())
    pca = PCA(n, svd_solver="full").fit(prepare.transform(train.numpy()))
    directions = principal_directions(train, n, standardize=standardize)
    torch.testing.assert_close(directions.mean, torch.from_numpy(prepare.mean_))
    expected = torch.from_numpy(prepare.scale_) if standardize else torch.ones(width, dtype=torch.float64)
    torch.testing.assert_close(directions.scale, expected)
    torch.testing.assert_close(directions.explained, torch.from_numpy(pca.explained_variance_ratio_))
    projector = directions.components.T @ directions.components
    theirs = torch.from_numpy(pca.components_)
    torch.testing.assert_close(projector, theirs.T @ theirs, atol=1e-6, rtol=0)

    reference = prepare.transform(test.numpy())
    ratio = torch.from_numpy(pca.transform(reference)).norm(dim=1) / torch.from_numpy(reference).norm(dim=1)
    torch.testing.assert_close(neco_score(test, directions), ratio, atol=1e-6, rtol=0)


def test_a_share_of_the_variance_takes_as_many_components_as_scikit_learn():
    train = features_of(300, 12)
    for share in (0.2, 0.5, 0.9, 0.99):
        chosen = len(principal_directions(train, share, standardize=False).components)
        assert chosen == PCA(share, svd_solver="full").fit(train.numpy()).n_components_
    assert len(principal_directions(train, 1.0).components) == 12
    assert len(principal_directions(train[:5], 1.0).components) == 4  # what five samples span


def test_ninety_percent_is_the_default_and_finds_the_span_of_collapsed_classes():
    weight, known, _ = collapsed()
    directions = principal_directions(known, standardize=False)
    assert len(directions.components) == len(weight) - 1
    assert directions.explained.sum() >= 0.9
    inside = weight - weight.mean(0)
    torch.testing.assert_close(
        inside @ directions.components.T @ directions.components, inside, atol=0.05, rtol=0
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_moments_of_a_stream_give_the_directions_of_the_matrix(standardize):
    train, labels = features_of(500, 10, offset=100.0), torch.arange(500) % 7
    halves = []
    for part, classes in ((train[:260], labels[:260]), (train[260:], labels[260:])):
        moments = empty_moments(8, 10)  # the eighth class has no sample
        for rows, batch in zip(part.split(33), classes.split(33), strict=True):
            add_batch(moments, rows, batch)
        halves.append(moments)
    streamed = principal_directions(merge_moments(*halves), 4, standardize=standardize)
    whole = principal_directions(train, 4, standardize=standardize)
    for one, other in zip(streamed[:2] + streamed[3:], whole[:2] + whole[3:], strict=True):
        torch.testing.assert_close(one, other)
    test = features_of(20, 10, seed=3, offset=100.0)
    torch.testing.assert_close(neco_score(test, streamed), neco_score(test, whole))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("with_logits", [False, True])
def test_neco_equals_the_loop_over_samples(with_logits, center):
    train, test = features_of(100, 7), features_of(15, 7, seed=1)
    directions = principal_directions(train, 3)
    logits = torch.randn(15, 4, dtype=torch.float64) if with_logits else None
    mean = directions.mean if center else torch.zeros(7)
    expected = naive_neco(test, mean, directions.scale, directions.components, logits)
    torch.testing.assert_close(neco_score(test, directions, logits, center=center), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_nci_equals_the_loop_over_samples(alpha):
    train, test = features_of(100, 7), features_of(30, 7, seed=1, offset=0.2)
    weight, bias = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    mean = train.mean(0)
    scores = nci_score(test, weight, mean, bias=bias, alpha=alpha)
    torch.testing.assert_close(scores, naive_nci(test, weight, bias, mean, alpha))
    predictions = (test @ weight.T + bias).argmax(1)
    assert len(predictions.unique()) > 2
    torch.testing.assert_close(nci_score(test, weight, mean, predictions=predictions, alpha=alpha), scores)


def test_nci_is_a_cosine_times_the_norm_of_the_class_vector():
    test, weight = features_of(15, 7), torch.randn(4, 7, dtype=torch.float64)
    mean, predictions = torch.randn(7, dtype=torch.float64), torch.arange(15) % 4
    scores = nci_score(test, weight, mean, predictions=predictions, alpha=0.0)
    cosine = torch.nn.functional.cosine_similarity(weight[predictions], test - mean)
    torch.testing.assert_close(scores, cosine * weight[predictions].norm(dim=1))


def test_logits_multiply_with_their_largest():
    train, logits = features_of(50, 6), torch.randn(50, 3, dtype=torch.float64)
    directions = principal_directions(train, 2)
    scores = neco_score(train, directions, logits)
    torch.testing.assert_close(scores, neco_score(train, directions) * logits.max(1).values)
    torch.testing.assert_close(neco_score(train, directions, 5.0 * logits), 5.0 * scores)


def test_neco_is_invariant_to_rotation_without_standardising():
    train, test, turn = features_of(100, 9), features_of(20, 9, seed=1), rotation(9)
    plain = neco_score(test, principal_directions(train, 3, standardize=False))
    turned = neco_score(test @ turn, principal_directions(train @ turn, 3, standardize=False))
    torch.testing.assert_close(turned, plain)
    scaled = neco_score(test, principal_directions(train, 3))
    scaled_turned = neco_score(test @ turn, principal_directions(train @ turn, 3))
    assert (scaled - scaled_turned).abs().max() > 0.01


def test_standardised_neco_is_invariant_to_units_and_origin_of_every_feature():
    train, test = features_of(100, 9), features_of(20, 9, seed=1)
    units, origin = torch.logspace(-3, 3, 9, dtype=torch.float64), torch.arange(9.0, dtype=torch.float64)
    plain = neco_score(test, principal_directions(train, 3))
    other = neco_score(test * units + origin, principal_directions(train * units + origin, 3))
    torch.testing.assert_close(other, plain)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_scale_of_all_features_leaves_neco_and_the_direction_of_nci(factor):
    train, test = features_of(100, 9), features_of(20, 9, seed=1)
    weight, mean = torch.randn(4, 9, dtype=torch.float64), train.mean(0)
    for standardize in (True, False):
        plain = neco_score(test, principal_directions(train, 3, standardize=standardize))
        scaled = neco_score(factor * test, principal_directions(factor * train, 3, standardize=standardize))
        torch.testing.assert_close(scaled, plain)
    plain = nci_score(test, weight, mean, alpha=0.0)
    torch.testing.assert_close(nci_score(factor * test, weight, factor * mean, alpha=0.0), plain)
    torch.testing.assert_close(nci_score(test, factor * weight, mean, alpha=0.0), factor * plain)
    filtered = nci_score(factor * test, weight, factor * mean, alpha=0.1) - plain
    torch.testing.assert_close(filtered, 0.1 * factor * test.abs().sum(1))


def test_the_direction_of_nci_is_invariant_to_rotation_and_its_filter_is_not():
    test, turn = features_of(20, 9), rotation(9)
    weight, mean = torch.randn(4, 9, dtype=torch.float64), test.mean(0)
    plain, turned = (test, weight, mean), (test @ turn, weight @ turn, mean @ turn)
    torch.testing.assert_close(nci_score(*turned, alpha=0.0), nci_score(*plain, alpha=0.0))
    assert (nci_score(*turned, alpha=1.0) - nci_score(*plain, alpha=1.0)).abs().max() > 0.1


def test_neco_limits():
    weight, known, outliers = collapsed(spread=0.0)
    directions = principal_directions(known, len(weight) - 1, standardize=False)
    torch.testing.assert_close(neco_score(known, directions), torch.ones(len(known), dtype=torch.float64))
    assert neco_score(outliers, directions).max() < 1e-12
    everything = principal_directions(features_of(50, 6), 6)
    torch.testing.assert_close(neco_score(features_of(4, 6, seed=2), everything), torch.ones(4).double())


def test_nci_limits():
    weight, known, outliers = collapsed(spread=0.0)
    mean = known.mean(0)
    torch.testing.assert_close(nci_score(known, weight, mean, alpha=0.0), torch.ones(len(known)).double())
    assert nci_score(outliers, weight, mean, alpha=0.0).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_outliers_off_the_class_span_are_told_apart(seed):
    weight, known, outliers = collapsed(seed=seed)
    train, test = known[::2], known[1::2]
    directions = principal_directions(train, standardize=False)
    assert separation(neco_score(test, directions), neco_score(outliers, directions)) > 0.99
    scores = [nci_score(rows, weight, directions.mean) for rows in (test, outliers)]
    assert separation(*scores) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_type_is_scored_as_the_numbers_it_holds(dtype):
    train, test = features_of(200, 8).to(dtype), features_of(9, 8, seed=1).to(dtype)
    weight, logits = torch.randn(3, 8).to(dtype), torch.randn(9, 3).to(dtype)
    directions = principal_directions(train, 3)
    exact = principal_directions(train.double(), 3)
    scores = neco_score(test, directions, logits)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, neco_score(test.double(), exact, logits.double()))
    torch.testing.assert_close(
        nci_score(test, weight, train.double().mean(0)),
        nci_score(test.double(), weight.double(), train.double().mean(0)),
    )


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e4, 1e30])
def test_extreme_and_zero_features_are_finite(magnitude):
    directions = principal_directions(features_of(50, 6, offset=0.0), 2)
    test = magnitude * torch.randn(5, 6)
    for center in (True, False):
        ratio = neco_score(test, directions, center=center)
        assert ratio.isfinite().all()
        assert (ratio >= 0).all()
        assert (ratio <= 1).all()
    assert nci_score(test, torch.randn(3, 6), torch.zeros(6)).isfinite().all()


def test_a_feature_at_the_mean_has_no_direction():
    train = features_of(50, 6)
    directions = principal_directions(train, 2)
    middle = directions.mean[None]
    assert neco_score(middle, directions).item() == 0.0
    score = nci_score(middle, torch.randn(3, 6), directions.mean, alpha=0.1)
    torch.testing.assert_close(score, 0.1 * middle.abs().sum(1))


def test_a_feature_that_never_varies_does_not_divide():
    train = features_of(50, 6)
    train[:, 2] = 0.1
    directions = principal_directions(train, 3)
    assert directions.scale[2] == 1.0
    torch.testing.assert_close(directions.components[:, 2], torch.zeros(3).double())
    assert neco_score(train, directions).isfinite().all()


def test_no_sample_has_no_score():
    directions = principal_directions(features_of(50, 6), 2)
    assert neco_score(torch.empty(0, 6), directions).shape == (0,)
    assert nci_score(torch.empty(0, 6), torch.randn(3, 6), torch.zeros(6)).shape == (0,)


def test_scores_keep_no_graph():
    features = torch.randn(20, 6, requires_grad=True)
    directions = principal_directions(features, 2)
    assert not neco_score(features, directions).requires_grad
    assert not nci_score(features, torch.randn(3, 6, requires_grad=True), directions.mean).requires_grad


@pytest.mark.parametrize(
    ("features", "n", "message"),
    [
        (torch.randn(5), 1, "features: expected a matrix"),
        ([[1.0, 2.0]], 1, "got list"),
        (torch.randn(1, 5), 1, "at least 2 training samples"),
        (torch.ones(9, 5), 1, "are the same"),
        (torch.full((9, 5), 0.1), 1, "are the same"),
        (torch.randn(9, 5) / 0, 1, "NaN or infinity"),
        (torch.randn(9, 5), 0, "n=0: expected 1 to 5"),
        (torch.randn(9, 5), 6, "n=6: expected 1 to 5"),
        (torch.randn(4, 5), 4, "n=4: expected 1 to 3"),
        (torch.randn(9, 5), 0.0, "a float in"),
        (torch.randn(9, 5), 1.5, "a float in"),
        (torch.randn(9, 5), True, "n=True"),
        (empty_moments(3, 5), 1, "at least 2 training samples"),
        (empty_moments(3, 5, 2), 1, "without a projection"),
    ],
)
def test_bad_training_features_are_named(features, n, message):
    with pytest.raises(ValueError, match=message):
        principal_directions(features, n)


@pytest.mark.parametrize(
    ("features", "logits", "message"),
    [
        (torch.randn(3, 4), None, "features: expected shape"),
        (torch.randn(2, 3, 5), None, "features: expected a matrix"),
        (torch.full((3, 5), torch.nan), None, "features: holds NaN"),
        (torch.randn(3, 5), torch.randn(3), "logits: expected a matrix"),
        (torch.randn(3, 5), torch.randn(4, 2), "logits: expected 3 rows"),
        (torch.randn(3, 5), torch.full((3, 2), torch.inf), "logits: holds NaN or infinity"),
    ],
)
def test_bad_input_to_neco_is_named(features, logits, message):
    directions = principal_directions(torch.randn(20, 5), 2)
    with pytest.raises(ValueError, match=message):
        neco_score(features, directions, logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.randn(5)}, "features: expected a matrix"),
        ({"weight": torch.randn(3, 4)}, "weight: expected shape"),
        ({"feature_mean": torch.randn(4)}, "feature_mean: expected shape"),
        ({"feature_mean": torch.full((5,), torch.nan)}, "feature_mean: holds NaN"),
        ({"bias": torch.randn(2)}, "bias: expected shape"),
        ({"bias": torch.randn(3), "predictions": torch.zeros(6).long()}, "leave it out"),
        ({"predictions": torch.zeros(6)}, "integer classes"),
        ({"predictions": torch.zeros(5).long()}, "expected 6 integer classes"),
        ({"predictions": torch.full((6,), 3)}, "classes from 0 to 2"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
    ],
)
def test_bad_input_to_nci_is_named(changes, message):
    given = {"features": torch.randn(6, 5), "weight": torch.randn(3, 5), "feature_mean": torch.zeros(5)}
    with pytest.raises(ValueError, match=message):
        nci_score(**{**given, **changes})
