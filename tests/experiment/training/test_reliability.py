import json
from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from etfhead.experiment.training.reliability import RELIABILITY_BINS, ReliabilityBins


def diagram(probabilities, target, parts=1):
    bins = ReliabilityBins(torch.device("cpu"), torch.float64)
    for p, t in zip(probabilities.chunk(parts), target.chunk(parts), strict=True):
        bins.update(p, t)
    return bins.diagram(bins.sums)


def ece(found):
    whole = sum(found["count"])
    rows = zip(found["count"], found["confidence"], found["accuracy"], strict=True)
    return sum(n * abs(c - a) for n, c, a in rows if n) / whole


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_the_calibration_error_of_the_bins_is_torchmetrics(classes, sharpness):
    generator = torch.Generator().manual_seed(classes)
    logits = sharpness * torch.randn(500, classes, generator=generator)
    target = torch.randint(classes, (500,), generator=generator)
    probabilities = logits.softmax(1).clamp(max=1 - 1e-6)
    found = diagram(probabilities, target, parts=7)
    expected = multiclass_calibration_error(probabilities, target, classes, n_bins=15, norm="l1")
    assert ece(found) == pytest.approx(100 * float(expected), rel=1e-4, abs=1e-4)
    assert sum(found["count"]) == 500


def test_bins_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(1)
    probabilities = (3 * torch.randn(200, 4, generator=generator)).softmax(1)
    target = torch.randint(4, (200,), generator=generator)
    rows = [[] for _ in range(RELIABILITY_BINS)]
    for p, t in zip(probabilities.tolist(), target.tolist(), strict=True):
        rows[min(int(max(p) * 15), 14)].append((max(p), p.index(max(p)) == t))
    found = diagram(probabilities, target)
    assert found["count"] == [len(row) for row in rows]
    for at, row in enumerate(rows):
        if not row:
            assert found["confidence"][at] is None
            assert found["accuracy"][at] is None
            continue
        assert found["confidence"][at] == pytest.approx(100 * sum(c for c, _ in row) / len(row), rel=1e-5)
        assert found["accuracy"][at] == pytest.approx(100 * sum(r for _, r in row) / len(row))


def test_confidence_one_is_in_the_last_bin():
    found = diagram(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.98, 0.02]]), torch.tensor([0, 0, 0]))
    assert found["count"] == [0] * 14 + [3]
    assert found["accuracy"][-1] == pytest.approx(200 / 3)
    assert found["confidence"][-1] == pytest.approx(100 * 2.98 / 3)


def test_a_run_leaves_the_bins_of_the_test_images_alone(run, recipe, tmp_path):
    out = run(replace(recipe, epochs=1, warmup_epochs=0, mixup=0.0, cutmix=0.0), tmp_path / "out")
    result = json.loads((out / "arms/etf/seed0/result.json").read_text())
    rows = [json.loads(line) for line in (out / "arms/etf/seed0/metrics.jsonl").read_text().splitlines()]
    for when in ("best", "last"):
        found = result[when]["test_reliability"]
        assert sum(found["count"]) == 12
        assert ece(found) == pytest.approx(result[when]["test_ece"], abs=1e-3)
        right = sum(n * a for n, a in zip(found["count"], found["accuracy"], strict=True) if n) / 12
        assert right == pytest.approx(result[when]["test_top1"])
    assert not any("reliability" in key for row in (*rows, result["initial"]) for key in row)
