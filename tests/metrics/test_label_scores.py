from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from sklearn import metrics as sk
from torchmetrics.classification import MultilabelF1Score, MultilabelHammingDistance, MultilabelPrecision

from etfhead.metrics.average_precision import average_precision
from etfhead.metrics.label_scores import MultiLabelScores
from etfhead.metrics.multilabel_counts import count_decisions, label_groups
from etfhead.metrics.multilabel_functional import multilabel_scores

K, N = 7, 60


@pytest.fixture
def sample():
    return draw()


def draw(seed=0, empty=()):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(N, K, generator=generator) < 0.3).int()
    for k in empty:
        target[:, k] = 0
    probabilities = (
        (0.4 * target + 0.6 * torch.rand(N, K, generator=generator)).mul(20).round().div(20)
    )  # ties
    return probabilities, (probabilities > 0.45).int(), target


def test_every_score_is_scikit_learns(sample):
    probabilities, predictions, target = sample
    scores = {name: float(value) for name, value in multilabel_scores(*sample).items()}
    p, y, t = probabilities.numpy(), predictions.numpy(), target.numpy()
    options = {"zero_division": 0.0}
    cp = sk.precision_score(t, y, average="macro", **options)
    cr = sk.recall_score(t, y, average="macro", **options)
    expected = {
        "map": sk.average_precision_score(t, p, average="macro"),
        "cp": cp,
        "cr": cr,
        "cf1": 2 * cp * cr / (cp + cr),
        "cf1_mean": sk.f1_score(t, y, average="macro", **options),
        "op": sk.precision_score(t, y, average="micro"),
        "or": sk.recall_score(t, y, average="micro"),
        "of1": sk.f1_score(t, y, average="micro"),
        "exact_match": sk.accuracy_score(t, y),
        "jaccard": sk.jaccard_score(t, y, average="samples", zero_division=1.0),
        "hamming": sk.hamming_loss(t, y),
        "labels_without_positive": 0,
    }
    assert scores == pytest.approx(expected, rel=1e-6)
    assert (t.sum(1) == 0).any()
    assert abs(scores["cf1"] - scores["cf1_mean"]) > 1e-4  # two conventions, not one


def test_average_precision_is_the_naive_loop_over_thresholds(sample):
    probabilities, _, target = sample
    for k, value in enumerate(average_precision(probabilities, target.bool()).tolist()):
        p, t = probabilities[:, k].numpy(), target[:, k].numpy()
        expected, recall = 0.0, 0.0
        for threshold in sorted(set(p), reverse=True):
            named = p >= threshold
            new = t[named].sum() / t.sum()
            expected += (new - recall) * t[named].mean()
            recall = new
        assert value == pytest.approx(expected, rel=1e-6)


def test_a_label_without_a_positive_is_left_out_and_counted():
    probabilities, predictions, target = draw(empty=(2, 5))
    rest = [0, 1, 3, 4, 6]
    metric = MultiLabelScores(K)
    metric.update(probabilities, predictions, target)
    scores = metric.compute()
    fewer = multilabel_scores(probabilities[:, rest], predictions[:, rest], target[:, rest])
    assert scores["labels_without_positive"] == 2
    for name in ("map", "cp", "cr", "cf1", "cf1_mean", "or"):
        assert scores[name] == pytest.approx(float(fewer[name]), rel=1e-6)
    assert scores["op"] < fewer["op"]  # false positives count wherever they are
    values = metric.label_values()
    for name in ("average_precision", "precision", "recall", "f1"):
        assert values[name].isnan().nonzero().flatten().tolist() == [2, 5]
    assert torch.equal(values["positives"], target.sum(0))
    alone = average_precision(probabilities, target.bool())
    assert alone.isnan().nonzero().flatten().tolist() == [2, 5]
    nothing = multilabel_scores(probabilities, predictions, torch.zeros_like(target))
    assert math.isnan(nothing["map"])
    assert nothing["labels_without_positive"] == K


@pytest.mark.parametrize("step", [1, 7, N])
def test_batches_do_not_matter(sample, step):
    whole = multilabel_scores(*sample, class_counts=range(K))
    metric = MultiLabelScores(K, class_counts=range(K))
    for batch in zip(*(part.split(step) for part in sample), strict=True):
        metric.update(*batch)
    assert all(torch.equal(value, whole[name]) for name, value in metric.compute().items())


def test_it_agrees_with_torchmetrics_where_no_label_is_empty(sample):
    _, predictions, target = sample
    scores = multilabel_scores(*sample)
    for name, metric in (
        ("cf1_mean", MultilabelF1Score(K, average="macro")),
        ("of1", MultilabelF1Score(K, average="micro")),
        ("cp", MultilabelPrecision(K, average="macro")),
        ("hamming", MultilabelHammingDistance(K, average="micro")),
    ):
        torch.testing.assert_close(scores[name], metric(predictions, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_probabilities_and_multi_hot_rows(sample, dtype):
    probabilities, predictions, target = sample
    coarse = probabilities.to(dtype)
    reference = multilabel_scores(coarse.float(), predictions, target)
    scores = multilabel_scores(coarse, predictions.bool(), target.float())
    for name, value in scores.items():
        torch.testing.assert_close(value, reference[name])


def test_what_leaves_the_unit_interval_is_refused_in_every_batch(sample):
    probabilities, predictions, target = sample
    metric = MultiLabelScores(K)
    metric.update(probabilities, predictions, target)
    with pytest.raises(ValueError, match=r"\[0, 1\], got -3 to 2; apply the sigmoid first"):
        metric.update(torch.tensor([[-3.0, 2.0] + [0.0] * 5]), predictions[:1], target[:1])
    with pytest.raises(ValueError, match="got nan"):
        metric.update(torch.full((1, K), torch.nan), predictions[:1], target[:1])
    assert metric.samples == N  # nothing of a refused batch was added
    assert len(metric.probabilities) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(N, K + 1)}, r"probabilities: expected floats of shape \(B, 7\), got \(60, 8\)"),
        ({0: torch.zeros(N, K, dtype=torch.int64)}, "probabilities: expected floats"),
        ({1: torch.full((N, K), 0.5)}, "predictions: expected 0 and 1, got 0.5"),
        ({1: torch.zeros(N, dtype=torch.int64)}, "predictions: expected multi-hot rows"),
        ({2: torch.full((N, K), -1)}, "target: expected 0 and 1, got -1"),
    ],
)
def test_bad_batches(sample, change, message):
    batch = [change.get(i, part) for i, part in enumerate(sample)]
    with pytest.raises(ValueError, match=message):
        MultiLabelScores(K).update(*batch)


def test_bad_options():
    with pytest.raises(ValueError, match="class_counts: expected 7 numbers"):
        MultiLabelScores(K, class_counts=[1, 2])
    with pytest.raises(ValueError, match="update"):
        MultiLabelScores(K).compute()
    with pytest.raises(ValueError, match="low <= high"):
        label_groups([1, 2, 3], (5, 2))
    with pytest.raises(ValueError, match="3 labels or more"):
        label_groups([1, 2])


def test_groups_by_thirds_and_by_thresholds():
    counts = [5, 100, 20, 101, 19, 7, 900]
    thirds = {name: labels.tolist() for name, labels in label_groups(counts).items()}
    assert thirds == {"head": [3, 6], "medium": [1, 2, 4], "tail": [0, 5]}
    few = {name: labels.tolist() for name, labels in label_groups(counts, (20, 100)).items()}
    assert few == {"head": [3, 6], "medium": [1, 2], "tail": [0, 4, 5]}


def test_group_scores_are_means_over_their_labels_with_a_positive():
    probabilities, predictions, target = draw(empty=(5,))
    counts = [5, 100, 20, 101, 19, 7, 900]
    scores = multilabel_scores(probabilities, predictions, target, class_counts=counts)
    p, y, t = probabilities.numpy(), predictions.numpy(), target.numpy()
    for name, labels in (("head", [3, 6]), ("medium", [1, 2, 4]), ("tail", [0])):
        ap = [sk.average_precision_score(t[:, k], p[:, k]) for k in labels]
        f1 = [sk.f1_score(t[:, k], y[:, k]) for k in labels]
        assert float(scores[f"map_{name}"]) == pytest.approx(np.mean(ap), rel=1e-6)
        assert float(scores[f"f1_{name}"]) == pytest.approx(np.mean(f1), rel=1e-6)
    none = multilabel_scores(probabilities, predictions, target, class_counts=counts, thresholds=(2, 3))
    assert math.isnan(none["map_medium"])
    assert not math.isnan(none["map_head"])


def test_an_empty_batch_counts_nothing_and_two_empty_sets_agree(sample):
    none = torch.zeros(0, K)
    metric = MultiLabelScores(K)
    metric.update(none, none, none)
    assert metric.samples == 0
    counts = count_decisions(torch.zeros(3, K, dtype=torch.bool), torch.zeros(3, K, dtype=torch.bool))
    assert counts.mean_jaccard == 1.0
    assert counts.exact == 3


def test_reset_forward_pickle_and_plot(sample):
    metric = MultiLabelScores(K)
    first = metric(*sample)
    assert float(first["map"]) == float(metric.compute()["map"])
    copy = pickle.loads(pickle.dumps(metric))
    assert float(copy.compute()["of1"]) == float(first["of1"])
    figure, axis = metric.plot()
    assert "labels_without_positive" not in [text.get_text() for text in axis.get_legend().get_texts()]
    metric.plot([first, first])
    figure.clear()
    metric.reset()
    assert metric.samples == 0
    assert metric.probabilities == []


def _score(rank, folder, batches):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    metric = MultiLabelScores(K)
    for batch in batches[rank]:
        metric.update(*batch)
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cuts", [(11, 29), (0, 0)])
def test_processes_together_score_the_whole(tmp_path, sample, cuts):
    """Uneven shares in uneven numbers of batches; with (0, 0) a process that has none."""
    first, second = cuts
    shares = [[slice(0, first), slice(first, second)] if second else [], [slice(second, N)]]
    batches = [[[part[rows] for part in sample] for rows in share] for share in shares]
    mp.start_processes(_score, args=(str(tmp_path), batches), nprocs=2, start_method="fork")
    whole = multilabel_scores(*sample)
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(value, whole[name])
