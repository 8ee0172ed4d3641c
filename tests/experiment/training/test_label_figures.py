"""Label sets and scores of a split: against the head's own decoding, scikit-learn and plain loops."""

import pytest
import torch
from sklearn import metrics as sk

from etfhead.experiment.recipe import Arm
from etfhead.experiment.training.label_figures import decide, decodings, fit_readout, label_figures
from etfhead.heads import MultiLabelETFHead

K = 6
PAL = Arm(head="multilabel_etf", loss="pick_all_label", decode="nearest")
BCE = Arm(loss="binary_cross_entropy")


def noisy(seed, n=300, offset=0.0):
    """Logits of collapsed features with noise; under pick-all-label each sample may have its own offset."""
    generator = torch.Generator().manual_seed(seed)
    hot = torch.rand(n, K, generator=generator) < 0.3
    hot[~hot.any(1), 0] = True
    logits = 5.0 * hot.float() - 2.0 + 1.5 * torch.randn(n, K, generator=generator)
    return logits + offset * torch.randn(n, 1, generator=generator), hot


@pytest.fixture
def val():
    return noisy(0)


@pytest.fixture
def test():
    return noisy(1)


def test_the_threshold_is_the_best_of_all_on_validation(val):
    logits, hot = val
    readout = fit_readout(BCE, logits, hot, "exact_match")
    found = (decide(BCE, logits, readout, "threshold") == hot).all(1).sum()
    edges = logits.flatten().unique()
    assert found == max(((logits > bound) == hot).all(1).sum() for bound in edges)


def test_figures_are_those_of_scikit_learn(val, test):
    readout = fit_readout(BCE, *val, "exact_match")
    logits, hot = test
    figures = label_figures(BCE, logits, hot, readout, None)
    named = logits > readout["threshold"]
    assert named.sum(1).max() <= readout["most_labels"]
    named = named.numpy()
    truth = hot.numpy()
    probabilities = (logits.double() - readout["threshold"]).sigmoid().numpy()
    wanted = {
        "map": sk.average_precision_score(truth, probabilities, average="macro"),
        "exact_match": sk.accuracy_score(truth, named),
        "cf1_mean": sk.f1_score(truth, named, average="macro"),
        "of1": sk.f1_score(truth, named, average="micro"),
        "cp": sk.precision_score(truth, named, average="macro"),
        "cr": sk.recall_score(truth, named, average="macro"),
        "op": sk.precision_score(truth, named, average="micro"),
        "or": sk.recall_score(truth, named, average="micro"),
        "jaccard": sk.jaccard_score(truth, named, average="samples"),
        "hamming": sk.hamming_loss(truth, named),
    }
    for key, value in wanted.items():
        assert figures[key] == pytest.approx(100 * value, abs=1e-4), key
    assert figures["loss"] == pytest.approx(sk.log_loss(truth.ravel(), probabilities.ravel()), rel=1e-6)
    assert figures["exact_match"] == figures["exact_match_by_threshold"]
    parts = [
        figures[f"exact_match_m{m}"] * (hot.sum(1) == m).sum().item() for m in hot.sum(1).unique().tolist()
    ]
    assert sum(parts) / len(hot) == pytest.approx(figures["exact_match"])


def test_pick_all_label_scores_do_not_see_the_mean_of_a_samples_logits():
    (val, hot), (test, truth) = noisy(0), noisy(1)
    shift = 10 * torch.randn(len(test), 1, generator=torch.Generator().manual_seed(2))
    readout = fit_readout(PAL, val, hot, "exact_match")
    plain = label_figures(PAL, test, truth, readout, None)
    moved = label_figures(PAL, test + shift, truth, readout, None)
    assert moved == pytest.approx(plain, abs=1e-3)


def test_decisions_are_those_of_the_calibrated_head(val, test):
    head = MultiLabelETFHead(8, K).eval()
    head.calibrate(*val, objective="exact_match")
    readout = fit_readout(PAL, *val, "exact_match")
    assert decodings(PAL) == ("threshold", "class_thresholds", "nearest", "nearest_cosine", "posterior")
    for how in decodings(PAL):
        own = decide(PAL, test[0], readout, how)
        agree = (head.decode(test[0], how, max_labels=int(val[1].sum(1).max())) == own).all(1).float().mean()
        assert agree > 0.99, how  # the head keeps its calibration in float32


def test_the_arms_decision_is_the_one_it_asks_for(val, test):
    readout = fit_readout(PAL, *val, "exact_match")
    for how in ("nearest", "nearest_cosine", "posterior", "threshold"):
        arm = Arm(head="multilabel_etf", loss="pick_all_label", decode=how)
        figures = label_figures(arm, *test, readout, None)
        assert figures["exact_match"] == figures[f"exact_match_by_{how}"]


def test_untrained_logits_are_decided_by_angle(val):
    _, hot = val
    upside_down = -5.0 * hot.float()
    readout = fit_readout(PAL, upside_down, hot, "exact_match")
    assert readout["gaps"] is None
    same = decide(PAL, upside_down, readout, "nearest") == decide(PAL, upside_down, readout, "nearest_cosine")
    assert same.all()
    assert "map_marginal" not in label_figures(PAL, upside_down, hot, readout, None)


def test_no_decision_names_more_labels_than_validation_has(val):
    logits, hot = val
    few = hot.sum(1) <= 2
    arm = Arm(head="multilabel_etf", loss="pick_all_label")
    readout = fit_readout(arm, logits[few], hot[few], "exact_match")
    for how in decodings(arm):
        named = decide(arm, logits, readout, how)
        assert named.sum(1).max() == 2, how
        largest = logits.masked_fill(~named, torch.inf).amin(1) >= logits.masked_fill(named, -torch.inf).amax(
            1
        )
        assert largest.all() or how == "class_thresholds"


def test_head_and_tail_only_where_labels_differ_in_frequency(val, test):
    readout = fit_readout(BCE, *val, "micro_f1")
    for counts in (None, [7] * K):
        assert "map_head" not in label_figures(BCE, *test, readout, counts)
    figures = label_figures(BCE, *test, readout, [90, 80, 30, 20, 5, 4])
    truth, scores = test[1].numpy(), test[0].numpy()
    tail = [sk.average_precision_score(truth[:, k], scores[:, k]) for k in (4, 5)]
    assert figures["map_tail"] == pytest.approx(100 * sum(tail) / 2, abs=1e-3)


def test_large_logits_keep_their_ranking():
    logits = torch.tensor([[40.0, -40.0], [30.0, -30.0], [50.0, 10.0]])
    hot = torch.tensor([[False, True], [True, False], [True, True]])
    readout = fit_readout(BCE, logits, hot, "micro_f1")
    wanted = [sk.average_precision_score(hot[:, k].numpy(), logits[:, k].numpy()) for k in range(2)]
    assert label_figures(BCE, logits, hot, readout, None)["map"] == pytest.approx(50 * sum(wanted), abs=1e-4)
