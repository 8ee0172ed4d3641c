import pytest
import torch

from etfhead.experiment.training.finite import FiniteWatch, first_non_finite, optimizer_tensors

GOOD = torch.zeros(3)
BAD = torch.tensor([1.0, float("nan"), 2.0])


def watch_steps(bad_steps, kind="loss", steps=60):
    watch = FiniteWatch(torch.device("cpu"))
    for step in range(steps):
        tensors = dict.fromkeys(FiniteWatch.KINDS, GOOD)
        if step in bad_steps:
            tensors[kind] = BAD
        watch.see(step, **tensors)
    return watch.first()


def test_first_bad_step_of_many():
    assert watch_steps(()) is None
    assert watch_steps((0,)) == (0, "loss")
    assert watch_steps((41, 17, 59)) == (17, "loss")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", FiniteWatch.KINDS)
def test_each_kind_and_value(kind, value):
    watch = FiniteWatch(torch.device("cpu"))
    watch.see(3, **{**dict.fromkeys(FiniteWatch.KINDS, GOOD), kind: torch.tensor([0.0, value])})
    assert watch.first() == (3, kind)


def test_cause_is_named_before_its_consequences():
    watch = FiniteWatch(torch.device("cpu"))
    watch.see(5, BAD, BAD, BAD)
    assert watch.first() == (5, "images")


def test_asked_at_every_step_on_the_cpu_and_in_windows_elsewhere():
    assert all(FiniteWatch(torch.device("cpu")).due(done) for done in range(1, 100))
    elsewhere = FiniteWatch(torch.device("meta"))
    assert [done for done in range(1, 60) if elsewhere.due(done)] == [25, 50]


def test_tensor_is_named():
    tensors = {"a": GOOD, "count": torch.tensor(3), "b": BAD, "c": BAD}
    assert first_non_finite(tensors.items()) == "b"
    assert first_non_finite([("a", GOOD), ("count", torch.tensor(3))]) is None
    assert first_non_finite([]) is None


def test_tensors_of_two_devices():
    """On a GPU, AdamW's moments are there and its count of steps is on the CPU."""
    elsewhere = torch.zeros(2, device="meta")
    assert first_non_finite([("step", BAD), ("exp_avg", elsewhere)]) == "step"


def test_tensors_of_an_optimizer():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights)
    assert list(optimizer_tensors(optimizer.state_dict())) == []
    for value, expected in (
        (1.0, None),
        (1e30, "exp_avg_sq of parameter 1"),
        (float("nan"), "exp_avg of parameter 1"),
    ):
        weights[0].grad, weights[1].grad = torch.ones(3), torch.full((3,), value)
        optimizer.step()
        found = first_non_finite(optimizer_tensors(optimizer.state_dict()))
        assert found == expected, "infinite squares freeze a weight without a trace in it"
