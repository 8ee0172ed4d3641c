import pytest
import torch

from etfhead.experiment.training.finite import (
    FiniteWatch,
    first_non_finite,
    non_finite_state,
    optimizer_tensors,
)

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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_number_anywhere_in_the_images(layout, dtype):
    images = torch.randn(3, 3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    images = images.contiguous(memory_format=layout)
    images[0, 0, 0, 0] = torch.finfo(dtype).max
    for place in ((0, 0, 0, 0), (1, 2, 3, 1), (2, 2, 4, 3)):
        for value in (float("nan"), float("inf"), -float("inf")):
            watch = FiniteWatch(torch.device("cpu"))
            watch.see(1, images, GOOD, GOOD.double()[0])
            assert watch.first() is None
            bad = images.clone()
            bad[place] = value
            watch.see(2, bad, GOOD, GOOD.double()[0])
            assert watch.first() == (2, "images")
    assert first_non_finite([("none", images[:0]), ("images", images)]) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeing_a_step_on_a_gpu_waits_for_nothing():
    device = torch.device("cuda")
    images = torch.zeros(4, 3, 8, 8, device=device).contiguous(memory_format=torch.channels_last)
    good, bad = torch.zeros(4, 5, device=device), torch.full((4, 5), float("nan"), device=device)
    watch = FiniteWatch(device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6):
            watch.see(step, images, bad if step > 2 else good, good[0, 0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.first() == (3, "logits")


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


def test_a_state_is_finite_in_weights_average_and_optimizer():
    def state(weight=GOOD, average=None, moment=GOOD):
        optimizer = {"state": {0: {"exp_avg": moment, "step": 3}}}
        return {
            "model": {"w": weight},
            "ema": None if average is None else {"w": average},
            "optimizer": optimizer,
        }

    assert non_finite_state(state(average=GOOD)) is None
    assert non_finite_state(state()) is None
    assert non_finite_state(state(weight=BAD, moment=BAD)) == "the weights (w) are not finite"
    assert non_finite_state(state(average=BAD)) == "the weights (w) are not finite"
    found = non_finite_state(state(moment=BAD))
    assert found == "the optimizer's state (exp_avg of parameter 0) is not finite"
