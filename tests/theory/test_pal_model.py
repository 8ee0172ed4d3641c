"""The pick-all-label model against loops, and its measures on points whose geometry is known."""

import itertools
import math

import pytest
import torch

from etfhead.theory.minimise import Minimum
from etfhead.theory.pal_model import PalModel, PalSolution, balanced

LABEL_SETS = ((0,), (0,), (2,), (0, 1), (1, 2, 3), (), (0, 1, 2, 3))


def naive_loss(model, variables):
    """Cross-entropy label by label, in Python floats."""
    features = variables["features"].tolist()
    weight = model.weight(variables).tolist()
    bias = variables["bias"].tolist() if "bias" in variables else [0.0] * model.num_classes
    total = 0.0
    for feature, labels in zip(features, model.label_sets, strict=True):
        logits = [
            sum(w * h for w, h in zip(row, feature, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        log_sum = math.log(sum(math.exp(z) for z in logits))
        loss = sum(log_sum - logits[k] for k in labels)
        total += loss / len(labels) if model.normalize and labels else loss
    total /= len(features)
    total += model.lambda_h * sum(x * x for row in features for x in row)
    if model.lambda_w is not None:
        total += model.lambda_w * sum(x * x for row in weight for x in row)
    if model.lambda_b is not None:
        total += model.lambda_b * sum(x * x for x in bias)
    return total


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("lambda_b", [None, 0.3])
@pytest.mark.parametrize("lambda_w", [None, 0.2])
def test_the_loss_is_the_sum_over_labels_written_out(lambda_w, lambda_b, normalize):
    model = PalModel(4, LABEL_SETS, 3, lambda_w, 0.1, lambda_b, normalize)
    generator = torch.Generator().manual_seed(0)
    point = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in model.shapes.items()
    }
    assert set(point) == {"features"} | ({"weight"} if lambda_w else set()) | (
        {"bias"} if lambda_b else set()
    )
    assert model.loss(point).item() == pytest.approx(naive_loss(model, point), rel=1e-13)


def test_balanced_has_every_subset_as_often_as_asked():
    sets = balanced(5, {0: 2, 1: 3, 2: 1, 5: 1})
    assert len(sets) == 2 + 15 + 10 + 1
    assert all(sets.count(pair) == 1 for pair in itertools.combinations(range(5), 2))
    assert sets.count(()) == 2
    assert sets.count((4,)) == 3


def solution_at(model, **point):
    return PalSolution(model, Minimum(point, 0.0, 0.0, 1, 1, 1))


def test_measures_at_a_point_built_by_hand():
    etf = torch.eye(4, dtype=torch.float64) - 1 / 4
    model = PalModel(4, ((0,), (1,), (2,), (3,), (0, 1), (0, 1), (2, 3)), 4, 0.1, 0.1)
    features = torch.stack([*etf, 0.5 * (etf[0] + etf[1]), 0.7 * (etf[0] + etf[1]), 0.9 * (etf[2] + etf[3])])
    solution = solution_at(model, features=features, weight=3 * etf)
    assert solution.sizes == [1, 2]
    assert solution.of_size(2) == [(0, 1), (2, 3)]
    assert solution.etf_distance() == pytest.approx(0, abs=1e-15)
    assert solution.constants(2).tolist() == pytest.approx([0.6, 0.9])
    assert solution.gaps(1).tolist() == pytest.approx([3.0] * 12)
    assert sorted(set(solution.gaps(2).round(decimals=9).tolist())) == pytest.approx([1.5, 2.1, 2.7])
    # |e_0 + e_1 - 1/2| = 1 is the largest length per unit of C, and the copies lie 0.1 off their mean.
    assert solution.spread_within_sets() == pytest.approx(0.1 / 0.9)
    assert solution.largest_angle(2) == pytest.approx(0, abs=1e-12)
    assert solution.decoded() == 1


def test_measures_see_what_is_off():
    etf = torch.eye(3, dtype=torch.float64) - 1 / 3
    turned = (etf[0] + etf[1]) + math.tan(math.radians(30)) * math.sqrt(1 / 3) * (etf[0] - etf[1])
    model = PalModel(3, ((0,), (1,), (2,), (0, 1)), 3, 0.1, 0.1)
    features = torch.stack([etf[0], etf[1], -etf[2], turned])
    weight = etf.clone()
    weight[0] *= 2
    solution = solution_at(model, features=features, weight=weight)
    # |e_0 + e_1 - 2/3| = sqrt(2/3), |e_0 - e_1| = sqrt(2).
    assert solution.largest_angle(2) == pytest.approx(30, abs=1e-9)
    # Class 2 is upside down, and the turned pair has logits 4/3, 0, -2/3: only one above their mean.
    assert solution.decoded() == 0.5
    gram = weight @ weight.T
    expected = torch.linalg.norm(gram / torch.linalg.norm(gram) - etf / math.sqrt(2)).item()
    assert solution.etf_distance() == pytest.approx(expected)
    assert expected > 0.1
