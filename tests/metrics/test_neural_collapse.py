import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.functional import normalize
from torchmetrics import MetricCollection

from etfhead.frames import make_frame
from etfhead.metrics import (
    NeuralCollapse,
    class_distance_variance,
    neural_collapse,
    product_distance,
    simplex_distance,
    within_over_between,
)

PUBLIC = json.loads((Path(__file__).parent / "public_library.json").read_text())


def clusters(num_classes, width, spread, *, samples=40, offset=0.0, seed=0, dtype=torch.float32):
    """Features about random centres of unit norm, all shifted by a common mean of norm ``offset``."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(num_classes, width, generator=generator, dtype=torch.float64), dim=1)
    common = offset * normalize(torch.ones(width, dtype=torch.float64), dim=0)
    labels = torch.randint(num_classes, (samples * num_classes,), generator=generator)
    noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    return (common + centres[labels] + spread * noise).to(dtype), labels


def reference(features, labels, weight=None, bias=None):
    """Two passes in NumPy, float64, from the definitions; the pseudo-inverse through the rank K - 1."""
    h, y = features.double().numpy(), labels.numpy()
    seen = np.unique(y)
    means = np.stack([h[y == k].mean(0) for k in seen])
    deviation = h - means[np.searchsorted(seen, y)]
    centred = means - means.mean(0)
    classes, within = len(seen), deviation.T @ deviation / len(y)
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    rank = min(classes - 1, h.shape[1])
    trace = sum(v[i] @ within @ v[i] / (s[i] ** 2 / classes) for i in range(rank))
    variance = np.array([(deviation[y == k] ** 2).sum(1).mean() for k in seen])
    pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j]
    target = (np.eye(classes) - 1 / classes) / np.sqrt(classes - 1)

    def simplex(vectors):
        size = np.linalg.norm(vectors, axis=1)
        cosine = [vectors[i] @ vectors[j] / size[i] / size[j] for i, j in pairs]
        gram = vectors @ vectors.T
        return {
            "equinorm": size.std(ddof=1) / size.mean(),
            "equiangular": np.mean(np.abs(np.array(cosine) + 1 / (classes - 1))),
            "etf": np.linalg.norm(gram / np.linalg.norm(gram) - target),
        }

    figures = {
        "nc1": trace / classes,
        "nc1_trace": trace,
        "nc1_quotient": np.trace(within) / ((centred**2).sum() / classes),
        "cdnv": np.mean(
            [(variance[i] + variance[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i, j in pairs]
        ),
        **{f"nc2_{key}": value for key, value in simplex(centred).items()},
    }
    if weight is not None:
        w = weight.double().numpy()
        figures |= {f"nc2w_{key}": value for key, value in simplex(w).items()}
        product = w @ centred.T
        figures["nc3"] = ((w / np.linalg.norm(w) - centred / np.linalg.norm(centred)) ** 2).sum()
        figures["nc3_product"] = np.linalg.norm(product / np.linalg.norm(product) - target)
        logits = h @ w.T + (0.0 if bias is None else bias.double().numpy())
        nearest = ((h[:, None] - means[None]) ** 2).sum(2).argmin(1)
        figures["nc4"] = np.mean(logits.argmax(1) != nearest)
    return figures


def streamed(features, labels, num_classes, sizes=(17,), **options):
    metric = NeuralCollapse(num_classes, **options)
    at, turn = 0, 0
    while at < len(labels):
        size = sizes[turn % len(sizes)]
        metric.update(features[at : at + size], labels[at : at + size])
        at, turn = at + size, turn + 1
    return metric


def assert_figures(found, expected, rtol=1e-9, atol=1e-13):
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(float(value), rel=rtol, abs=atol), key


@pytest.mark.parametrize(("num_classes", "width"), [(2, 1), (2, 5), (3, 2), (7, 5), (6, 20), (12, 12)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_every_figure_is_that_of_the_definitions(num_classes, width, offset):
    features, labels = clusters(num_classes, width, 0.2, offset=offset)
    weight = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(1))
    bias = torch.linspace(-1, 1, num_classes)
    expected = reference(features, labels, weight, bias)
    assert_figures(neural_collapse(features, labels, num_classes, weight=weight, bias=bias), expected)
    metric = streamed(features, labels, num_classes, (5, 1, 64), weight=weight, bias=bias)
    assert_figures(metric.compute(), expected)


@pytest.mark.parametrize("nc1", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_nc1_keeps_its_digits_where_the_mean_is_three_times_the_spread(nc1):
    # The classes lie at distance 1 from their mean, so all features have a spread of 1 and a mean of 3.
    spread = (nc1 / 64) ** 0.5
    features, labels = clusters(10, 64, spread, offset=3.0, samples=60)
    expected = reference(features, labels)["nc1"]
    assert 0.05 * nc1 < expected < 20 * nc1
    found = float(streamed(features, labels, 10, (50, 13)).compute()["nc1"])
    assert abs(found / expected - 1) <= 1e-6

    wide = features.double()
    naive = (features.T @ features).double()  # the usual one-pass second moment, float32 products
    means = torch.stack([wide[labels == k].mean(0) for k in range(10)])
    counts = labels.bincount().double()
    within = (naive - (means.T * counts) @ means) / len(labels)
    centred = means - means.mean(0)
    lost = torch.trace(within @ torch.linalg.pinv(centred.T @ centred / 10, rtol=1e-9)) / 10
    if nc1 <= 1e-8:
        assert abs(lost / expected - 1) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 5.0, 300.0])
def test_exact_collapse_reads_zero(dtype, offset):
    labels = torch.arange(90) % 6
    vectors = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    points = vectors + torch.full((9,), offset).to(dtype)
    metric = streamed(points[labels], labels, 6, (7, 32, 3))
    figures = metric.compute()
    for key in ("nc1", "nc1_trace", "nc1_quotient", "cdnv"):
        assert 0.0 <= float(figures[key]) < 1e-24


@pytest.mark.parametrize("num_classes", [2, 3, 10, 65])
def test_a_simplex_with_a_relu_like_mean_is_collapsed_in_every_figure(num_classes):
    vectors = make_frame("simplex", num_classes=num_classes, in_features=64, basis="haar", seed=3).matrix()
    labels = torch.arange(5 * num_classes) % num_classes
    features = 0.7 * vectors[labels] + 2.0
    # A common mean moves the logits; the bias of a trained layer takes it out again.
    bias = -3.0 * vectors @ torch.full((64,), 2.0, dtype=torch.float64)
    figures = streamed(features, labels, num_classes, weight=3.0 * vectors, bias=bias).compute()
    assert float(figures.pop("nc4")) == 0.0
    assert {key: float(value) for key, value in figures.items() if float(value) > 1e-12} == {}


def test_nearly_merged_classes_are_right_where_the_public_library_loses_them():
    case = PUBLIC["cases"][-1]
    features = torch.tensor(case["features"], dtype=torch.float64)
    labels = torch.tensor(case["labels"])
    found = streamed(features, labels, 6).compute()
    truth, lost = case["truth"], case["library_float32"]
    assert abs(lost["covariance_ratio_pinv"] / truth["covariance_ratio_pinv"] - 1) > 0.9
    assert_figures(
        found,
        {
            "nc1": truth["covariance_ratio_pinv"],
            "nc1_quotient": truth["covariance_ratio_quotient"],
            "cdnv": truth["variability_cdnv"],
        },
        rtol=1e-6,
    )


def test_nearly_merged_classes_keep_their_digits_down_to_a_condition_number_of_1e5():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    centres[1] = centres[0] + 1e-5 * torch.randn(16, generator=generator, dtype=torch.float64)
    labels = torch.arange(400) % 5
    noise = 1e-7 * torch.randn(400, 16, generator=generator, dtype=torch.float64)
    features = centres[labels] + noise
    expected = reference(features, labels)
    found = streamed(features, labels, 5).compute()
    # The condition number of the class means is 1e5, that of their squares 1e10.
    assert_figures(found, {key: expected[key] for key in ("nc1", "cdnv")}, rtol=1e-6)


def test_merged_classes_have_no_direction_between_them():
    centres = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    labels = torch.arange(300) % 3
    features = centres[labels] + 0.1 * torch.randn(300, 3)
    features -= torch.stack([features[labels == k].mean(0) for k in range(3)])[labels] - centres[labels]
    figures = neural_collapse(features.double().round(decimals=6), labels, 3)
    assert torch.isfinite(figures["nc1"])
    exact = neural_collapse(centres[labels], labels, 3)
    assert float(exact["nc1"]) == 0.0
    assert float(exact["cdnv"]) == torch.inf  # two means at one point


@pytest.mark.parametrize("case", [c for c in PUBLIC["cases"] if "dtype" in c], ids=lambda c: c["name"])
def test_the_public_library_gives_the_same_where_it_is_well_conditioned(case):
    features = torch.tensor(case["features"], dtype=torch.float64)
    labels = torch.tensor(case["labels"])
    weight = torch.tensor(case["weight"], dtype=torch.float64)
    found = streamed(features, labels, len(weight), weight=weight).compute()
    library = case["library"]
    pairs = {
        "nc1": library["covariance_ratio_pinv"],
        "nc1_quotient": library["covariance_ratio_quotient"],
        "cdnv": library["variability_cdnv"],
        "nc2_equinorm": library["mean_norms_std_over_mean"],
        "nc2w_equinorm": library["weight_norms_std_over_mean"],
        "nc2_etf": library["simplex_etf_error"],
        "nc3_product": library["self_duality_error"],
        "nc4": 1 - library["clf_ncc_agreement"],
    }
    assert_figures(found, pairs, rtol=1e-6, atol=1e-12)


def test_batches_order_and_shares_do_not_matter():
    features, labels = clusters(9, 6, 0.3, offset=2.0)
    weight = torch.randn(9, 6)
    whole = streamed(features, labels, 9, (len(labels),), weight=weight).compute()
    order = torch.randperm(len(labels))
    ones = streamed(features[order], labels[order], 9, (1,), weight=weight).compute()
    assert_figures(ones, whole, rtol=1e-12)
    first = streamed(features[:50], labels[:50], 9, weight=weight)
    second = streamed(features[50:], labels[50:], 9, weight=weight)
    empty = NeuralCollapse(9, weight=weight)
    empty.merge_state(first)
    empty.merge_state(second)
    assert_figures(empty.compute(), whole, rtol=1e-12)
    first.merge_state({name: getattr(second, name) for name in first._defaults})
    first.merge_state(NeuralCollapse(9))
    assert_figures(first.compute(), whole, rtol=1e-12)
    other, narrow = NeuralCollapse(8), NeuralCollapse(9, nc4=None)
    other.update(features[labels < 8], labels[labels < 8])
    narrow.update(features[:, :5], labels)
    for stranger in (other, narrow):
        with pytest.raises(ValueError, match=r"incoming_state: expected sums \(9, 6\)"):
            first.merge_state(stranger)
    with pytest.raises(ValueError, match=r"incoming_state: expected sums \(9, 6\) and scatter \(2, 2\)"):
        NeuralCollapse(9, projection=torch.eye(6, 2)).merge_state(first)
    assert_figures(first.compute(), whole, rtol=1e-12)


def test_rotation_scale_and_shift_leave_every_figure():
    features, labels = clusters(5, 8, 0.3, dtype=torch.float64)
    weight = torch.randn(5, 8, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    plain = neural_collapse(features, labels, 5, weight=weight)
    moved = neural_collapse(
        2.5 * features @ rotation + 4.0,
        labels,
        5,
        weight=weight @ rotation / 3,
        predictions=(features @ weight.T).argmax(1),
    )
    assert_figures(moved, plain, rtol=1e-10)


def test_reset_forward_copies_and_pickles():
    features, labels = clusters(4, 5, 0.2)
    metric = streamed(features, labels, 4, weight=torch.eye(4, 5))
    expected = metric.compute()
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert_figures(other.compute(), expected)
    buffer = io.BytesIO()
    metric.persistent(True)
    torch.save(metric.state_dict(), buffer)
    buffer.seek(0)
    resumed = NeuralCollapse(4, weight=torch.eye(4, 5))
    resumed.persistent(True)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert_figures(resumed.compute(), expected)
    metric.reset()
    assert metric.in_features == 0
    batch = metric(features[:40], labels[:40])
    assert_figures(batch, neural_collapse(features[:40], labels[:40], 4, weight=torch.eye(4, 5)))
    metric(features[40:], labels[40:])
    assert_figures(metric.compute(), expected, rtol=1e-12)


def test_class_vectors_that_train_in_place_are_followed_and_can_be_set():
    features, labels = clusters(4, 5, 0.2)
    layer = torch.nn.Linear(5, 4, bias=False)
    metric = streamed(features, labels, 4, weight=layer.weight, nc4=None)
    metric.compute()
    torch.nn.init.eye_(layer.weight)
    expected = neural_collapse(features, labels, 4, weight=torch.eye(4, 5))
    assert float(metric.compute()["nc3"]) == pytest.approx(float(expected["nc3"]))
    assert "nc4" not in metric.compute()
    other = torch.eye(4, 5) * 2 + 1
    metric.set_class_vectors(other)
    assert_figures(metric.compute(), {"nc3": neural_collapse(features, labels, 4, weight=other)["nc3"]})


def test_class_vectors_that_are_all_zero_have_no_figures():
    features, labels = clusters(3, 4, 0.2)
    figures = neural_collapse(features, labels, 3, weight=torch.zeros(3, 4))
    assert "nc3" not in figures
    assert torch.isfinite(torch.stack([value.double() for value in figures.values()])).all()


def test_class_vectors_that_point_nowhere_near_the_means_have_defined_figures():
    features = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.0, 0.0], [-1.0, 0.0, 0.0], [-0.9, 0.0, 0.0]])
    across = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    figures = neural_collapse(features, torch.tensor([0, 0, 1, 1]), 3, weight=across)
    assert float(figures["nc3"]) == pytest.approx(2.0)
    assert float(figures["nc3_product"]) == 1.0
    unseen = torch.zeros(3, 3).index_fill(0, torch.tensor([2]), 1.0)
    assert float(
        neural_collapse(features, torch.tensor([0, 0, 1, 1]), 3, weight=unseen)["nc3"]
    ) == pytest.approx(1.0)


def test_missing_and_single_classes_are_counted_and_left_out():
    features, labels = clusters(5, 6, 0.2)
    keep = (labels != 2) & (labels != 4)
    few = torch.cat([features[keep], features[labels == 4][:1]])
    names = torch.cat([labels[keep], torch.tensor([4])])
    figures = neural_collapse(few, names, 5, weight=torch.randn(5, 6))
    assert (int(figures["missing_classes"]), int(figures["single_sample_classes"])) == (1, 1)
    compact = torch.tensor([0, 1, -1, 2, 3])[names]
    expected = neural_collapse(few, compact, 4)
    assert_figures(
        figures, {key: value for key, value in expected.items() if key.startswith(("nc1", "nc2_", "cd"))}
    )


@pytest.mark.parametrize("nc4", ["exact", "running"])
def test_nc4_never_names_a_class_without_a_centre(nc4):
    features = torch.tensor([[1.0], [0.2], [-1.0], [-0.2]])  # two are closer to zero than to their means
    labels = torch.tensor([0, 0, 1, 1])
    metric = NeuralCollapse(3, nc4=nc4)
    metric.update(features, labels, labels)
    assert float(metric.compute()["nc4"]) == 0.0


def test_running_nc4_judges_by_the_means_so_far_and_keeps_nothing():
    features, labels = clusters(4, 5, 0.6)
    weight = torch.randn(4, 5)
    metric = streamed(features, labels, 4, (len(labels),), weight=weight, nc4="running")
    exact = neural_collapse(features, labels, 4, weight=weight)["nc4"]
    assert metric.compute()["nc4"] == exact  # one batch: its own means are all there are
    assert not metric.kept_features
    first = streamed(features, labels, 4, (20,), weight=weight, nc4="running")
    wrong, seen = 0, 0
    for stop in range(20, len(labels) + 1, 20):
        means = torch.stack([features[:stop][labels[:stop] == k].double().mean(0) for k in range(4)])
        batch = features[stop - 20 : stop].double()
        nearest = torch.cdist(batch, means).argmin(1)
        wrong += int((nearest != (batch @ weight.double().T).argmax(1)).sum())
        seen += 20
    assert float(first.compute()["nc4"]) == pytest.approx(wrong / seen)


def test_given_predictions_replace_those_of_the_weight():
    features, labels = clusters(4, 5, 0.1)
    metric = NeuralCollapse(4)
    metric.update(features, labels, predictions=(labels + 1) % 4)
    assert float(metric.compute()["nc4"]) == 1.0
    assert "nc3" not in metric.compute()


def test_a_projection_on_the_class_means_keeps_nc1_with_fewer_numbers():
    features, labels = clusters(4, 50, 0.2, offset=1.0)
    first = streamed(features, labels, 4, nc4=None)
    projected = streamed(features, labels, 4, projection=first.mean_directions())
    assert projected.scatter.shape == (3, 3)
    expected = first.compute()
    assert_figures(projected.compute(), expected, rtol=1e-10)
    assert float(projected.compute()["between_in_projection"]) == pytest.approx(1.0, abs=1e-12)
    half = streamed(features, labels, 4, projection=torch.eye(50, 3)).compute()
    assert_figures(
        half,
        reference(features, labels)
        | {
            "nc1": reference(features[:, :3], labels)["nc1"],
            "nc1_trace": reference(features[:, :3], labels)["nc1_trace"],
        },
    )
    assert 0 < float(half["between_in_projection"]) < 0.5


def test_class_values_are_those_of_a_loop():
    features, labels = clusters(4, 5, 0.2)
    weight = torch.randn(4, 5)
    values = streamed(features, labels, 4, weight=weight).class_values()
    wide = features.double()
    means = torch.stack([wide[labels == k].mean(0) for k in range(4)])
    centred = means - means.mean(0)
    for k in range(4):
        mine = wide[labels == k]
        assert int(values["counts"][k]) == len(mine)
        torch.testing.assert_close(values["variance"][k], (mine - means[k]).square().sum(1).mean())
        torch.testing.assert_close(values["norm"][k], centred[k].norm())
        cosines = [torch.cosine_similarity(centred[k], centred[j], dim=0) for j in range(4) if j != k]
        torch.testing.assert_close(values["max_cosine"][k], max(cosines))
        torch.testing.assert_close(
            values["alignment"][k], torch.cosine_similarity(weight[k].double(), centred[k], dim=0)
        )


def test_plot_draws_one_result_or_a_history():
    features, labels = clusters(3, 4, 0.2)
    metric = streamed(features, labels, 3)
    _, axis = metric.plot()
    assert [text.get_text() for text in axis.get_xticklabels()][:2] == ["nc1", "cdnv"]
    figure, axis = metric.plot([metric.compute(), metric.compute() | {"nc1": torch.tensor(0.0)}])
    assert len(axis.lines) == 4
    figure.canvas.draw()
    with pytest.raises(ValueError, match="val: expected"):
        metric.plot([])


GOOD = (torch.randn(6, 4), torch.arange(6) % 3)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.randn(6, 4, 2), GOOD[1], r"features: expected floats of shape \(B, d\).*pool or flatten"),
        (torch.ones(6, 4, dtype=torch.long), GOOD[1], "features: expected floats"),
        (torch.randn(6, 5), GOOD[1], "features: expected 4 features.*got 5"),
        (GOOD[0], torch.tensor([0, 1, 2, 3, 0, 1]), "labels: expected classes from 0 to 2, got 0 to 3"),
        (GOOD[0], torch.tensor([0, 1, -1, 2, 0, 1]), "got -1 to 2"),
        (GOOD[0], torch.zeros(6), "labels: expected 6 integer classes"),
        (GOOD[0], torch.zeros(5, dtype=torch.long), r"labels: expected 6 integer classes, shape \(6,\)"),
        (GOOD[0].index_fill(0, torch.tensor([2]), torch.nan), GOOD[1], "1 of 6 samples hold NaN"),
        (GOOD[0].index_fill(0, torch.tensor([2]), torch.inf), GOOD[1], "NaN or infinity; nothing was added"),
    ],
)
def test_bad_batches_are_refused_and_add_nothing(features, labels, message):
    metric = NeuralCollapse(3)
    metric.update(*GOOD)
    before = metric.compute()
    with pytest.raises(ValueError, match=message):
        metric.update(features, labels)
    metric._computed = None
    assert_figures(metric.compute(), before)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.randn(4, 3), torch.ones(4, dtype=torch.long), "1 of 3 classes have a sample"),
        (torch.randn(3, 3), torch.arange(3), "every class seen has a single sample"),
        (torch.ones(6, 3), torch.arange(6) % 3, "all class means coincide"),
        (torch.full((6, 3), 0.1), torch.arange(6) % 3, "all class means coincide"),
        (torch.empty(0, 3), torch.empty(0, dtype=torch.long), "0 of 3 classes have a sample"),
    ],
)
def test_what_cannot_be_measured_is_said(features, labels, message):
    with pytest.raises(ValueError, match=message):
        neural_collapse(features, labels, 3)
    metric = NeuralCollapse(3)
    metric.update(features, labels)
    with pytest.raises(ValueError, match=message):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_a_metric_that_saw_nothing_says_so():
    with pytest.raises(ValueError, match="0 of 3 classes have a sample"):
        NeuralCollapse(3).compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes=1: expected an integer >= 2"),
        ({"nc4": "always"}, "nc4='always': expected"),
        ({"weight": torch.ones(4, 3)}, r"weight: expected shape \(3, d\)"),
        ({"weight": torch.full((3, 3), torch.nan)}, "weight: holds NaN"),
        ({"weight": torch.ones(3, 3), "bias": torch.ones(2)}, r"bias: expected shape \(3,\)"),
        ({"weight": torch.ones(3, 3), "bias": torch.full((3,), torch.nan)}, "bias: holds NaN"),
        ({"projection": torch.ones(3)}, r"projection: expected shape \(d, m\)"),
        ({"projection": torch.ones(3, 2)}, "depend on each other"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(**{"num_classes": 3} | options)


def test_a_weight_or_projection_of_another_width_is_refused_with_the_first_batch():
    for nc4 in ("exact", "running", None):
        metric = NeuralCollapse(3, weight=torch.eye(3), nc4=nc4)
        with pytest.raises(ValueError, match=r"weight: expected shape \(3, 4\)"):
            metric.update(*GOOD)
        assert not metric.in_features
        with pytest.raises(ValueError, match="0 of 3 classes have a sample"):
            metric.compute()
    with pytest.raises(ValueError, match="projection: expected 4 rows"):
        NeuralCollapse(3, projection=torch.eye(5, 2)).update(*GOOD)
    for bad in (torch.zeros(3, dtype=torch.int64), torch.zeros(6), torch.eye(6, 3), [0] * 6):
        with pytest.raises(ValueError, match=r"predictions: expected 6 integer classes"):
            NeuralCollapse(3).update(*GOOD, predictions=bad)
        with pytest.raises(ValueError, match=r"predictions: expected 6 integer classes"):
            neural_collapse(*GOOD, 3, predictions=bad)
    for bad, message in (
        (torch.ones(1), r"expected shape \(3,\)"),
        (torch.full((3,), torch.inf), "infinity"),
    ):
        with pytest.raises(ValueError, match=f"bias: .*{message}"):
            neural_collapse(*GOOD, 3, weight=torch.eye(3, 4), bias=bad)


@pytest.mark.parametrize("nc4", ["exact", "running"])
def test_updates_inside_and_outside_of_inference_mode(nc4):
    features, labels = clusters(4, 5, 0.6)
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    expected = streamed(features, labels, 4, (80,), weight=weight, nc4=nc4).compute()
    metric = NeuralCollapse(4, weight=weight, nc4=nc4)
    with torch.inference_mode():
        metric.update(features[:80], labels[:80])
        merged = NeuralCollapse(4, weight=weight, nc4=nc4)
        merged.merge_state(metric)
    for half in (metric, merged):
        half.update(features[80:], labels[80:])
        assert_figures(half.compute(), expected, rtol=1e-12)


@pytest.mark.parametrize("cast", ["half", "to", "set_dtype"])
def test_casting_the_module_around_it_leaves_the_sums(cast):
    features, labels = clusters(4, 5, 0.2)
    layer = torch.nn.Linear(5, 4)
    metric = NeuralCollapse(4, weight=layer.weight)
    metric.update(features[:80], labels[:80])
    if cast == "set_dtype":
        metric.set_dtype(torch.float16)
    elif cast == "half":
        torch.nn.ModuleList([metric]).half()
    else:
        torch.nn.ModuleList([metric]).to(torch.bfloat16)
    metric.update(features[80:], labels[80:])
    torch.nn.init.eye_(layer.weight)  # still followed
    expected = neural_collapse(features, labels, 4, weight=torch.eye(4, 5))
    assert_figures(metric.compute(), {"nc1": expected["nc1"], "nc3": expected["nc3"]}, rtol=1e-12)


def test_a_batch_without_figures_of_its_own_is_added_all_the_same():
    features, labels = clusters(4, 5, 0.2)
    metric = NeuralCollapse(4, weight=torch.eye(4, 5))
    for start, sample in enumerate(features):
        with pytest.raises(ValueError, match="1 of 4 classes"):
            metric(sample[None], labels[start : start + 1])
    assert_figures(metric.compute(), neural_collapse(features, labels, 4, weight=torch.eye(4, 5)), rtol=1e-12)


def test_a_process_goes_on_after_a_result_that_all_processes_lack():
    features, labels = clusters(4, 5, 0.2)
    metric = NeuralCollapse(
        4, distributed_available_fn=lambda: True, dist_sync_fn=lambda tensor, group=None: [tensor, tensor]
    )
    metric.update(features[:1], labels[:1])
    with pytest.raises(ValueError, match="1 of 4 classes"):
        metric.compute()
    metric.update(features[1:], labels[1:])
    assert_figures(metric.compute(), {"nc1": neural_collapse(features, labels, 4)["nc1"]})  # twice the same
    assert int(metric.counts.sum()) == len(labels)


def test_metrics_of_a_collection_have_their_own_nc4():
    features, labels = clusters(4, 5, 0.6)
    first = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    features[0] = first[2]  # both name the same class at first
    weights = {"one": first, "other": first.clone().index_fill(0, torch.tensor([0]), 3.0)}
    weights["other"][2] = 5 * first[2]
    collection = MetricCollection(
        {"none": NeuralCollapse(4, nc4=None)} | {k: NeuralCollapse(4, weight=w) for k, w in weights.items()}
    )
    for batch in (slice(0, 1), slice(1, None)):
        collection.update(features[batch], labels[batch])
    found = collection.compute()
    expected = {key: neural_collapse(features, labels, 4, weight=w)["nc4"] for key, w in weights.items()}
    assert expected["one"] != expected["other"]
    assert "none_nc4" not in found
    assert {key: found[f"{key}_nc4"] for key in weights} == expected


@pytest.mark.parametrize(("dtype", "scale", "offset"), [(torch.float16, 3e3, 0.0), (torch.float32, 1.0, 1e6)])
def test_nc4_compares_in_float64_whatever_the_features(dtype, scale, offset):
    features, labels = clusters(4, 8, 0.6, samples=200)
    features = (scale * features.double() + offset).to(dtype)
    weight = 30 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    metric = NeuralCollapse(4, weight=weight)
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(features, labels)
        found = metric.compute()["nc4"]
    assert float(found) == pytest.approx(reference(features, labels, weight)["nc4"])


def test_nc1_is_not_negative_where_the_classes_spread_across_their_distance_alone():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        across, between = torch.linalg.qr(torch.randn(9, 2, generator=generator, dtype=torch.float64)).Q.T
        value = within_over_between(1e8 * torch.outer(across, across), 10, torch.stack([between, -between]))
        assert 0.0 <= float(value) < 1e-6


def test_tiny_features_have_the_figures_of_large_ones():
    features, labels = clusters(5, 8, 0.3, dtype=torch.float64)
    weight = torch.randn(5, 8, dtype=torch.float64)
    plain = neural_collapse(features, labels, 5, weight=weight)
    assert_figures(neural_collapse(1e-15 * features, labels, 5, weight=1e-15 * weight), plain, rtol=1e-10)
    cosines = [
        streamed(scale * features, labels, 5, weight=scale * weight).class_values()["max_cosine"]
        for scale in (1.0, 1e-15)
    ]
    torch.testing.assert_close(*cosines)


def test_constant_features_are_refused_though_their_means_round_differently():
    labels = torch.arange(1000).remainder(7).clamp(max=3)
    with pytest.raises(ValueError, match="all class means coincide"):
        neural_collapse(torch.full((1000, 8), 0.1, dtype=torch.float64), labels, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: simplex_distance(torch.ones(1, 3)),
        lambda: product_distance(torch.ones(1, 3), torch.ones(1, 3)),
        lambda: class_distance_variance(torch.ones(1, 3), torch.ones(1)),
    ],
)
def test_one_class_cannot_be_compared(call):
    with pytest.raises(ValueError, match="at least two"):
        call()


OPTIONS = ({}, {"projection": torch.eye(6, 5)})


def _process(rank, folder, features, labels, weight, splits):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    results = []
    for shares in splits:
        for options in OPTIONS:
            metric = NeuralCollapse(9, weight=weight, **options)
            for index in shares[rank].split(11) if len(shares[rank]) else ():
                metric.update(features[index], labels[index])
            results.append(metric.compute())
            assert int(metric.counts.sum()) == len(shares[rank])  # its own samples are back
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    features, labels = clusters(9, 6, 0.3, offset=2.0)
    weight = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    everything = torch.arange(len(labels))
    by_class = [everything[labels < 4], everything[labels >= 4]]
    splits = [list(everything.chunk(2)), by_class, [everything[:0], everything]]
    mp.spawn(_process, (tmp_path, features, labels, weight, splits), nprocs=2)
    expected = [streamed(features, labels, 9, weight=weight, **options).compute() for options in OPTIONS]
    for rank in range(2):
        for turn, found in enumerate(torch.load(tmp_path / f"{rank}.pt", weights_only=True)):
            assert found.keys() == expected[turn % 2].keys()
            assert_figures(found, expected[turn % 2], rtol=1e-12, atol=1e-15)
