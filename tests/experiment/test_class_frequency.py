import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from etfhead.experiment.class_frequency import ClassFrequency, frequency_groups, is_long_tailed
from etfhead.experiment.data.long_tail import long_tail_counts


def test_cifar_100_lt_has_the_fields_groups():
    counts = long_tail_counts(100, 500, 100)
    groups, rule = frequency_groups(counts)
    assert rule == "limits"
    assert groups["many"] == tuple(k for k in range(100) if counts[k] > 100)
    assert groups["few"] == tuple(k for k in range(100) if counts[k] < 20)
    assert sum(map(len, groups.values())) == 100


def test_without_rare_enough_classes_thirds_decide():
    groups, rule = frequency_groups(long_tail_counts(10, 3000, 100))  # the rarest class has 30
    assert rule == "thirds"
    assert groups == {"many": (0, 1, 2), "medium": (3, 4, 5, 6), "few": (7, 8, 9)}


def test_equal_counts_stay_together():
    assert frequency_groups(long_tail_counts(10, 3000, 100, "step"))[0] == {
        "many": (0, 1, 2, 3, 4),
        "few": (5, 6, 7, 8, 9),
    }
    assert frequency_groups([50, 30, 30, 30, 30, 10])[0] == {
        "many": (0,),
        "medium": (1, 2, 3, 4),
        "few": (5,),
    }
    assert frequency_groups([50, 30, 30, 30, 30, 30])[0] == {"many": (0,), "medium": (1, 2, 3, 4, 5)}


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_a_division_in_order_of_counts(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 300, size=rng.integers(3, 40)).tolist()
    groups, _ = frequency_groups(counts)
    assert sorted(k for members in groups.values() for k in members) == list(range(len(counts)))
    ranges = [(min(counts[k] for k in g), max(counts[k] for k in g)) for g in groups.values()]
    assert all(above[0] > below[1] for above, below in itertools.pairwise(ranges))


def test_balanced_sets_have_no_groups_to_speak_of():
    assert not is_long_tailed([100] * 10)
    assert not is_long_tailed([100, 51, 70])
    assert not is_long_tailed([100, 1])
    assert is_long_tailed([100, 50, 70])


def test_figures_are_the_mean_recalls_of_scikit_learn():
    rng = np.random.default_rng(3)
    counts = [400, 15, 90, 250, 30, 8]
    target, predicted = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    frequency = ClassFrequency(counts, torch.device("cpu"), torch.float64)
    for part in np.array_split(np.arange(500), 7):
        frequency.update(torch.from_numpy(predicted[part]), torch.from_numpy(target[part]))
    recall = 100 * recall_score(target, predicted, average=None)
    found = frequency.figures(frequency.sums)
    assert found == pytest.approx(
        {
            "top1_many": recall[[0, 3]].mean(),
            "top1_medium": recall[[2, 4]].mean(),
            "top1_few": recall[[1, 5]].mean(),
        }
    )
    assert frequency.by_rank(frequency.sums) == pytest.approx(recall[[0, 3, 2, 4, 1, 5]].tolist())


def test_a_class_that_the_split_lacks_is_left_out():
    frequency = ClassFrequency([400, 90, 80, 5], torch.device("cpu"), torch.float64)
    frequency.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert frequency.figures(frequency.sums) == {"top1_many": 100.0, "top1_medium": 100.0}
    assert frequency.by_rank(frequency.sums) == [100.0, 100.0, None, None]
