"""Benchmarks run, pair their sides and keep their contract; how fast they are is no test's business."""

import functools
import json
import os

import pytest
import torch

from benchmarks import (
    checkpoint_overhead,
    collapse,
    collect,
    common,
    ddp_buffers,
    frame_logits,
    head_plots,
    head_sides,
    head_step,
    label_decoding,
    memory,
    multilabel_step,
    noise_losses,
    readme,
    train_step,
)
from benchmarks.checkpoint_overhead import Span
from benchmarks.head_sides import SIDES, Size
from benchmarks.views import cells, registry
from etfhead.experiment.schema import load_recipe, smoke
from etfhead.experiment.training import engine
from tests.devices import cuda

DEVICES = ["cpu", cuda]
WIDE, TALL = Size(8, 128, 16), Size(8, 16, 128)  # K < d, K > d
HEADS = [
    pytest.param(side, size, id=f"{side}-K={size.num_classes}")
    for side in SIDES
    for size in (WIDE, TALL)
    if side not in ("linear_compiled", "floor", "traffic_floor") and head_sides.fits(side, size)
]


def test_sides_take_turns_and_warm_up_rounds_are_dropped():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = common.take_turns(sides, rounds=3, warmup=1)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_taken_round_by_round():
    assert common.ratio([2.0, 2.0, 8.0], [1.0, 4.0, 2.0])["median"] == pytest.approx(2.0)


@pytest.mark.parametrize("device", DEVICES)
def test_train_step_compares_every_basis_with_the_learnable_head(device):
    rows = train_step.measure("test_resnet", 32, 4, 10, 2, device)
    assert [row["head"] for row in rows] == ["learnable", "identity", "hadamard", "haar"]
    saved = {row["head"]: rows[0]["trainable_parameters"] - row["trainable_parameters"] for row in rows[1:]}
    assert set(saved.values()) == {96 * 10 + 10 - 1}
    assert rows[0]["ratio_to_learnable"]["median"] == 1.0


@pytest.mark.parametrize("device", DEVICES)
def test_train_step_with_more_classes_than_features_takes_unions(device):
    rows = train_step.measure("test_resnet", 32, 4, 200, 2, device, autocast=torch.bfloat16)
    assert [row["head"] for row in rows] == ["learnable", "union", "union_fused"]
    assert all(row["autocast"] == "bfloat16" for row in rows)
    assert rows[0]["trainable_parameters"] - rows[2]["trainable_parameters"] == 97 * 200 - 1
    assert all(("peak_bytes" in row) == (device == "cuda") for row in rows)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_multilabel_step_pairs_every_side_with_binary_cross_entropy(device, autocast):
    rows = multilabel_step.measure("test_resnet", 32, 4, 5, 2, device, autocast=autocast)
    assert [row["side"] for row in rows] == list(multilabel_step.SIDES)
    assert rows[0]["ratio_to_bce"]["median"] == 1.0


def test_a_training_step_under_autocast_is_the_same_step_in_fewer_digits():
    weights = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 10)
        seen = []

        def loss(logits, target, seen=seen):
            seen.append(logits.dtype)
            return torch.nn.functional.cross_entropy(logits, target)

        x, y = torch.randn(16, 64), torch.randint(10, (16,))
        common.training_step(model, loss, x, y, autocast=autocast)()
        assert seen == [autocast or torch.float32]
        assert model.weight.grad is None
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], atol=2.5e-4, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_frame_logits_counts_bytes(device):
    rows = {row["head"]: row for row in frame_logits.measure(4, 512, 200, 2, device)}
    assert rows["linear"]["stored_bytes"] == 4 * (512 * 200 + 200)
    assert rows["haar"]["stored_bytes"] > rows["linear"]["stored_bytes"]
    assert rows["hadamard"]["stored_bytes"] < rows["linear"]["stored_bytes"] / 20
    assert rows["identity"]["stored_bytes"] < 1024


def test_results_are_written_with_their_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    content = json.loads(common.write("x", [{"a": 1}], "cpu").read_text())
    assert content["results"] == [{"a": 1}]
    assert content["metadata"]["torch"]


def test_what_was_measured_survives_a_case_that_fails_and_a_run_that_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def content():
        return json.loads((tmp_path / "x_cpu.json").read_text())

    def second():
        assert content()["results"] == [{"a": 1}]
        assert content()["unfinished"] == ["second", "third"]
        raise RuntimeError("out of memory")

    cases = {"first": lambda: [{"a": 1}], "second": second, "third": lambda: [{"a": 3}]}
    show = lambda rows: f"shown {rows[0]['a']}"  # noqa: E731
    with pytest.raises(SystemExit, match="failed: second"):
        common.case_by_case(cases, show=show, keep=common.keep_in("x", "cpu"))
    assert content()["results"] == [{"a": 1}, {"a": 3}]
    assert content()["unfinished"] == ["second"]
    out, err = capsys.readouterr()
    assert out.splitlines() == ["shown 1", "shown 3"]
    assert "second failed" in err
    assert "out of memory" in err
    del cases["second"]
    rows = common.case_by_case(cases, show=show, keep=common.keep_in("x", "cpu"))
    assert content()["results"] == rows == [{"a": 1}, {"a": 3}]
    assert "unfinished" not in content()
    assert os.listdir(tmp_path) == ["x_cpu.json"]


def test_memory_on_a_gpu_is_what_a_side_takes_beyond_what_was_there(monkeypatch):
    now = {"there": 1000, "most": 5000}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: now["there"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: now["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: now.update(most=now["there"]))

    def build(held, step):
        now["there"] += held
        return lambda: now.update(most=max(now["most"], now["there"] + step))

    sides = {name: functools.partial(build, *sizes) for name, sizes in {"a": (100, 70), "b": (10, 7)}.items()}
    steps, memory = common.built(sides, "cuda")
    assert steps.keys() == {"a", "b"}
    assert memory["a"] == {"peak_bytes": 170, "held_bytes": 100}
    assert memory["b"] == {"peak_bytes": 17, "held_bytes": 10}
    assert common.built(sides, "cpu")[1] == {"a": {}, "b": {}}


@pytest.mark.parametrize(("side", "size"), HEADS)
def test_a_head_step_reaches_the_features(side, size):
    given = head_sides.inputs(size)
    step = SIDES[side](given)
    step()
    first = given.features.grad.clone()
    step()
    assert first.isfinite().all()
    assert (first.norm(dim=1) > 0).all()
    # The update of the first step shows in the second, where there is as much as a scale to learn.
    nothing_learns = side == "frozen_dense" or side.endswith("fixed_scale")
    assert torch.equal(first, given.features.grad) == nothing_learns


@pytest.mark.parametrize("pair", [("union", "union_fused"), ("simplex_hadamard", "simplex_hadamard_fused")])
def test_fused_and_stored_sides_do_the_same_work(pair):
    gradients = []
    for side in pair:
        given = head_sides.inputs(TALL if side.startswith("union") else WIDE)
        SIDES[side](given)()
        gradients.append(given.features.grad)
    torch.testing.assert_close(*gradients)


def test_a_learnable_layer_under_autocast_keeps_float32_weights():
    given = head_sides.inputs(TALL, "cpu", torch.bfloat16)
    SIDES["linear_autocast"](given)()
    assert given.features.grad.dtype == torch.bfloat16
    assert given.features.grad.isfinite().all()
    assert not head_sides.fits("linear_autocast", TALL)
    twice = 2 * head_sides.held_bytes("linear_adamw", TALL, 2)
    assert head_sides.held_bytes("linear_autocast", TALL, 2) == twice


def test_sizes_for_a_gpu_fit_one_of_80_gb():
    for case in head_step.CUDA:
        item = case.dtype.itemsize
        held = sum(head_sides.held_bytes(side, case.size, item) for side in case.sides)
        logits = case.size.batch_size * case.size.num_classes * item
        frozen = case.size.in_features * case.size.num_classes * (item + 4 + 4)  # frozen, two of class means
        assert held + frozen + 12 * logits < 70e9
        there, large = head_step.chosen(case, "cuda")
        assert there
        assert not large


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_steps_on_a_gpu_have_their_memory(dtype):
    size = Size(64, 256, 2**17)
    sides = tuple(side for side in SIDES if "compiled" not in side)
    rows = {row["side"]: row for row in head_step.measure(head_step.Case("x", size, 2, sides, dtype), "cuda")}
    assert not [side for side, row in rows.items() if "not_run" in row]
    learnable = rows["linear_adamw"]
    weight = dtype.itemsize * 257 * 2**17
    assert 3 * weight <= learnable["held_bytes"] <= 3.4 * weight  # the gradient is dropped
    assert learnable["peak_bytes"] >= 4 * weight
    assert rows["union_fused"]["held_bytes"] < weight / 4
    assert rows["floor"].keys().isdisjoint({"peak_bytes", "held_bytes"})


def test_a_side_that_fails_on_a_gpu_leaves_the_others(tmp_path, monkeypatch):
    def fails(given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(SIDES, "union", fails)
    monkeypatch.setattr(
        head_step, "built_on_cuda", lambda side, given: (SIDES[side](given), {"peak_bytes": 7})
    )
    case = head_step.Case("sizes", TALL, 2, ("linear_adamw", "union", "union_fused"))
    with pytest.raises(torch.OutOfMemoryError):
        head_step.measure(case, "cpu")
    given = head_sides.inputs(TALL)
    steps, known = head_step._built(case.sides, given, on_cuda=True)
    assert list(steps) == ["linear_adamw", "union_fused"]
    assert known["union"] == {"not_run": "OutOfMemoryError"}
    assert known["union_fused"] == {"peak_bytes": 7}


def test_learnable_baselines_do_the_same_work():
    gradients = []
    for side in ("linear_adamw", "linear_sgd", "linear_ce"):
        if not head_sides.fits(side, TALL):
            continue
        torch.manual_seed(0)
        given = head_sides.inputs(TALL)
        SIDES[side](given)()
        gradients.append(given.features.grad)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


def test_a_learnable_head_that_is_too_large_is_not_run():
    case = head_step.Case("sizes", Size(32, 1024, 1_000_000), 1, ("linear_adamw", "union_fused"))
    assert head_step.chosen(case, "cpu") == (["union_fused"], ["linear_adamw"])
    # weight, gradient and two moments, float32, with the bias
    assert head_sides.held_bytes("linear_adamw", case.size) == 4 * 4 * 1025 * 1_000_000


def test_head_steps_are_compared_with_the_learnable_head_and_the_floor():
    case = head_step.Case("sizes", WIDE, 4, ("linear_adamw", "simplex_identity", "union", "floor"))
    rows = {row["side"]: row for row in head_step.measure(case, "cpu")}
    assert list(rows) == ["linear_adamw", "simplex_identity", "floor"]  # a union needs K >= d
    assert rows["linear_adamw"]["speedup"]["median"] == rows["floor"]["ratio_to_floor"]["median"] == 1.0
    assert "simplex_identity" in head_step.table(list(rows.values()))


def test_peak_memory_counts_weight_logits_and_state_but_no_features():
    batch, width, classes = size = Size(64, 32, 4096)
    weight, logits = 4 * (width + 1) * classes, 4 * batch * classes
    learnable = memory.measure("linear_adamw", size)
    assert learnable["held_bytes"] == pytest.approx(3 * weight, rel=0.01)  # the gradient is dropped
    assert learnable["peak_bytes"] >= 4 * weight + logits
    frozen = memory.measure("frozen_dense", size)
    assert weight + 2 * logits <= frozen["peak_bytes"] <= weight + 4 * logits


def test_peak_memory_of_the_fused_loss_does_not_grow_with_the_classes():
    small, large = (memory.measure("union_fused", Size(64, 64, classes)) for classes in (2**15, 2**17))
    grown = large["peak_bytes"] - small["peak_bytes"]
    assert grown <= 2 * (2**17 - 2**15)  # a sign byte a class
    assert large["peak_bytes"] < 4 * 64 * 2**17  # all logits


def test_peak_is_the_most_that_was_held_at_once_within_the_step():
    class Event:
        def __init__(self, name, start, size=0, end=0):
            self.name, self.nbytes = (lambda: name), (lambda: size)
            self.start_ns, self.end_ns = (lambda: start), (lambda: end)

    before = [Event("[memory]", 0, 100), Event("[memory]", 1, 900), Event("[memory]", 2, -900)]
    within = [Event("[memory]", 4, 30), Event("[memory]", 5, -30), Event("[memory]", 6, 20)]
    after = [Event("[memory]", 11, 500), Event("aten::mul", 12)]
    step = Event(memory._MARK, 3, end=10)
    assert memory._replayed([*after, step, *within, *before]) == (100, 130)


def test_sweep_is_drawn_with_its_floors():
    size = {"batch_size": 8, "in_features": 16, "dtype": "float32", "group": "sweep"}
    rows = [
        {**size, "num_classes": classes, "side": side, "seconds": {"median": classes * 1e-3}, **more}
        for classes in (64, 256)
        for side, more in (
            ("linear_adamw", {"peak_bytes": 10**6 * classes}),
            ("traffic_floor", {"bytes_to_hold": 10**6}),
        )
    ]
    time, peak = head_plots.figure(rows, "title").axes
    assert [line.get_ydata().tolist() for line in time.lines] == [[64.0, 256.0]] * 2
    assert [line.get_ydata().tolist() for line in peak.lines] == [[64.0, 256.0], [1.0, 1.0]]
    assert time.get_xscale() == time.get_yscale() == peak.get_yscale() == "log"


def _write(folder, name, results):
    (folder / f"{name}.json").write_text(json.dumps({"results": results}))


def test_head_step_table_names_what_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    size = {"batch_size": 32, "in_features": 1024, "num_classes": 10**6, "dtype": "float32", "group": "sizes"}
    fused = {"seconds": {"median": 0.3215}, "peak_bytes": 11_240_000, "speedup": {"median": 12.34}}
    rows = [
        {**size, "side": "linear_adamw", "not_run": "too large", "held_bytes": 16_400_000_000},
        {**size, "side": "union_fused", **fused},
        {**size, "group": "sweep", "side": "union_fused", **fused},
    ]
    _write(tmp_path, "head_step_cpu", rows)
    first, second = readme.written("head_step_cpu").splitlines()[2:]
    assert first == "| B=32, d=1024, K=1,000,000 | `linear_adamw` | not run |  | more than 16,400 |"
    assert second == "|  | `union_fused` | 322 | 12.3x | 11.2 |"


def test_accuracy_by_epoch_shows_the_first_epochs_and_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    apart = {"low": 1.0, "high": 3.0}
    arms = {
        arm: {
            "val_top1_by_epoch": [
                {"epoch": epoch, "mean": 10.0 * epoch, "std": 0.5, "difference": difference}
                for epoch in range(9)
            ]
        }
        for arm, difference in (("learnable", None), ("etf", apart))
    }
    _write(tmp_path, "fine_tune", {"arms": arms})
    lines = readme.written("fine_tune@epochs").splitlines()
    assert lines[0] == "| arm | untrained | epoch 1 | epoch 2 | epoch 3 | epoch 4 | epoch 8 |"
    assert lines[2].endswith("30.0 ± 0.5 | 40.0 ± 0.5 | 80.0 ± 0.5 |")
    assert lines[3].endswith("| 80.0 ± 0.5 [+1.0, +3.0] |")


@pytest.mark.parametrize("device", DEVICES)
def test_collapse_counts_states_and_pairs_its_sides(monkeypatch, device):
    for name, value in {"BATCH": 4, "LARGE_WIDTH": 6, "LARGE_CLASSES": 9}.items():
        monkeypatch.setattr(collapse, name, value)
    rows = {row["side"]: row for row in collapse.update_cost("test_resnet", 32, 8, 3, 2, device)}
    assert rows["test_resnet_forward"]["ratio_to_forward"]["median"] == 1.0
    assert rows.keys() == {"test_resnet_forward", "update", "update_with_nc4"}
    big = collapse.large(device)
    assert big["state_bytes"] == 8 * (9 + 9 * 6 + 9 + 6 * 6)
    assert big["samples"] == 18


@pytest.mark.parametrize("device", DEVICES)
def test_nc1_keeps_its_digits_where_the_usual_sums_lose_them(device):
    rows = collapse.digits(device)
    assert min(row["nc1"] for row in rows) < 1e-12
    assert all(abs(row["relative_error"]["etfhead"]) <= 1e-6 for row in rows)
    assert any(abs(row["relative_error"]["one_pass_float64_sums"]) > 0.5 for row in rows)


def test_label_decoding_times_every_method_and_a_search_of_all_sets():
    methods = [row["method"] for row in label_decoding.measure(4, 5, 2)]
    assert methods[0] == "nearest"
    assert methods[-1] == "enumerated"


@pytest.mark.parametrize("device", DEVICES)
def test_noise_losses_are_compared_with_cross_entropy(device):
    rows = {row["loss"]: row for row in noise_losses.measure(4, 5, 2, device)}
    assert next(iter(rows)) == "cross_entropy"  # in turns with itself, which shows how well this measures
    assert {row["group"] for row in rows.values()} == {"stateless", "stateful"}
    for row in rows.values():
        assert row["ratio_to_cross_entropy"]["q1"] <= row["ratio_to_cross_entropy"]["q3"]
        assert row["ratio_of_fastest"] > 0


def test_noise_losses_table_goes_from_cheap_to_dear(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    rows = [
        {
            "loss": loss,
            "group": group,
            "ratio_to_cross_entropy": {"median": median, "q1": median - 0.1, "q3": median + 0.2},
            "ratio_of_fastest": median + 0.05,
        }
        for loss, group, median in (("slow", "stateful", 4.0), ("quick", "stateless", 1.25))
    ]
    _write(tmp_path, "noise_losses_cpu", rows)
    first, second = readme.written("noise_losses_cpu").splitlines()[2:]
    assert first == "| `quick` | 1.25 [1.15, 1.45] | 1.30 |  |"
    assert second == "| `slow` | 4.00 [3.90, 4.20] | 4.05 | a row for each sample too |"


def test_noise_losses_of_two_sizes_share_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def row(loss, batch, median, group="stateless"):
        quarter = {"median": median, "q1": median - 0.1, "q3": median + 0.2}
        size = {"batch_size": batch, "num_classes": 1000}
        return {
            "loss": loss,
            "group": group,
            "seconds": {"median": batch * 1e-6},
            "ratio_to_cross_entropy": quarter,
            "ratio_of_fastest": 1.0,
        } | size

    rows = [row("slow", 64, 2.0), row("quick", 64, 3.0), row("slow", 2048, 4.0), row("quick", 2048, 1.5)]
    _write(tmp_path, "noise_losses_cuda", [*rows, row("kept", 64, 9.0, "stateful")])
    lines = readme.written("noise_losses_cuda").splitlines()
    head = "| loss | B=64, K=1,000: ms | over cross-entropy | B=2,048, K=1,000: ms | over cross-entropy |  |"
    assert lines[0] == head
    assert lines[2:] == [
        "| `quick` | 0.06 | 3.00 [2.90, 3.20] | 2.05 | 1.50 [1.40, 1.70] |  |",
        "| `slow` | 0.06 | 2.00 [1.90, 2.20] | 2.05 | 4.00 [3.90, 4.20] |  |",
        "| `kept` | 0.06 | 9.00 [8.90, 9.20] |  |  | a row for each sample too |",
    ]


def test_tables_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    half = {"median": 0.5, "q1": 0.25, "q3": 0.75}
    step = {"model": "resnet50", "in_features": 2048, "num_classes": 21_841, "ratio_to_learnable": half}
    arms = {"learnable": 9_000_000_000, "union": 8_500_000_000}
    rows = [
        {**step, "head": arm, "peak_bytes": count, "seconds": {"median": 0.05}} for arm, count in arms.items()
    ]
    _write(tmp_path, "train_step_cuda", rows)
    header, sides, *lines = readme.written("train_step_cuda").splitlines()
    assert header.endswith("| ms | peak MB |")
    assert sides == "| --- | --- | ---: | ---: | ---: |"
    assert lines == [
        "| `resnet50`, d=2,048, K=21,841 | `learnable` |  | 50.0 | 9,000 |",
        "|  | `union` | 0.500 [0.250, 0.750] | 50.0 | 8,500 |",
    ]

    head = {"in_features": 512, "num_classes": 10, "ratio_to_linear": half, "stored_bytes": 1024}
    heads = ("linear", "identity", "hadamard", "haar")
    rows = [
        {**head, "head": name, "batch_size": batch, "seconds": {"median": 0.003}}
        for batch in (256, 16_384)
        for name in heads
    ]
    _write(tmp_path, "frame_logits_cuda", rows)
    assert "| B=16,384, d=512, K=10 | 3.00 | 0.50 |" in readme.written("frame_logits_cuda")

    size = {"batch_size": 4, "in_features": 8, "num_classes": 16, "dtype": "bfloat16", "group": "sizes"}
    _write(tmp_path, "head_step_cuda", [{**size, "side": "union_fused", "not_run": "OutOfMemoryError"}])
    line = readme.written("head_step_cuda").splitlines()[2]
    assert line == "| B=4, d=8, K=16, bfloat16 | `union_fused` | not run |  |  |"

    update = {"measured": "update", "batch_size": 256, "seconds": {"median": 0.002}, "ratio_to_forward": half}
    rows = []
    for model, width, pixels in (("resnet18", 512, 32), ("resnet50", 2048, 224)):
        more = {"in_features": width, "num_classes": 100, "img_size": pixels}
        rows += [{**update, **more, "side": f"{model}_forward"}, {**update, **more, "side": "update"}]
    large = {"measured": "large", "in_features": 2048, "num_classes": 10_000, "state_bytes": 198_000_000}
    rows.append({**large, "update_seconds": {"median": 0.0042}, "compute_seconds": 3.21})
    _write(tmp_path, "collapse_cuda", rows)
    lines = readme.written("collapse_cuda@cost").splitlines()[2:]
    assert lines[1].endswith("| ResNet-50, 224 x 224, 2.0 ms | 2.0 ms | 0.500 [0.250, 0.750] |  |")
    assert lines[2] == "| update, d=2,048, K=10,000 |  | 4.2 ms |  | 198 MB |"
    assert lines[3] == "| result, d=2,048, K=10,000 |  | 3.2 s |  |  |"

    row = {"model": "resnet50", "num_labels": 80, "side": "etf_pal", "seconds": {"median": 0.04}}
    rows = [{**row, "side": side, "ratio_to_bce": half} for side in ("learnable_bce", "etf_pal")]
    _write(tmp_path, "multilabel_step_cuda", rows)
    assert readme.written("multilabel_step_cuda").splitlines()[2:] == [
        "| `resnet50`, K=80 | `learnable_bce` | 40.0 |  |",
        "|  | `etf_pal` | 40.0 | 0.500 [0.250, 0.750] |",
    ]


def _arm(head, neck, loss, *values):
    spread = {"mean": sum(values) / len(values), "values": dict(zip("012", values, strict=False))}
    return {"settings": {"head": head, "neck": neck, "loss": loss}, "figures": {"test_top1_last": spread}}


@pytest.mark.parametrize(
    "name", ["fashion_mnist", "quickstart", "few_classes_photos"]
)  # two without ``kind``
def test_verdicts_of_stored_figures_are_in_todays_words(name):
    summary = cells.load(name)
    words = cells.verdict(summary)
    if len(summary["arms"]) <= 4:  # every contender by itself: the words of the day it ran
        assert words == summary["verdict"]
    else:
        pair = summary["arms"]["cosine"]["differences"][summary["primary"]]
        assert f"to +{pair['high']:.2f})" in words
    assert words == cells.verdict({**summary, "verdict": "of another day"})


def test_columns_of_a_table_of_losses_are_filled_and_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    costs = {"cross_entropy": 1.0, "mean_absolute_error": 1.25}
    rows = [{"loss": name, "ratio_to_cross_entropy": {"median": cost}} for name, cost in costs.items()]
    _write(tmp_path, "noise_losses_cpu", rows)
    table = "| loss | formula |\n|---|---|\n| `CrossEntropyLoss` | -log p |\n"
    table += "| `MeanAbsoluteErrorLoss` (2017) | \\|\\|p - e\\|\\| |\n| `ETFDotLoss` | -z |\n"
    page = f"a\n<!-- results: x@loss_columns -->\n{table}<!-- end -->\nb"
    bare = readme.filled(page)
    assert bare.splitlines()[2:7] == [
        "| loss | formula | cost |",
        "| --- | --- | ---: |",
        "| `CrossEntropyLoss` | -log p | 1.00 |",
        "| `MeanAbsoluteErrorLoss` (2017) | \\|\\|p - e\\|\\| | 1.25 |",
        "| `ETFDotLoss` | -z |  |",
    ]
    assert readme.filled(bare) == bare
    arms = {
        "stock": _arm("linear", "none", "cross_entropy", 1.0, 1.0, 1.0),  # not behind the fixed heads' neck
        "plain": _arm("linear", "batchnorm", "cross_entropy", 60.0, 61.0, 62.0),
        "mae": _arm("linear", "batchnorm", "mean_absolute_error", 64.0, 66.0, 68.0),
        "etf": _arm("etf", "batchnorm", "cross_entropy", 70.0),
        "dot": _arm("etf", "batchnorm", "etf_dot", 69.0),
    }
    settings = {"sym40": {"summary": {"arms": arms}}}
    (tmp_path / "x.json").write_text(json.dumps({"results": {"settings": settings}}))
    full = readme.filled(bare)
    assert full.splitlines()[2:7:2] == [
        "| loss | formula | cost | learnable | fixed |",
        "| `CrossEntropyLoss` | -log p | 1.00 | 61.0 | 70.0 |",
        "| `ETFDotLoss` | -z |  |  | 69.0 (-1.0) |",
    ]
    # Differences 4, 5, 6: their mean, and 4.303 standard errors of 1/sqrt(3) beside it.
    assert full.splitlines()[5].endswith("| 1.25 | 66.0 (+5.0 [+2.5, +7.5]) |  |")
    assert readme.filled(full) == full


def test_every_loss_for_wrong_labels_is_in_the_table_with_its_cost():
    from benchmarks import loss_table
    from etfhead import losses

    page = next(page for page in readme.PAGES if page.name == "label_noise_losses.md").read_text()
    lines = page.split("@loss_columns -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    named = [line.split("`")[1] for line in lines]
    assert sorted(named) == sorted(loss_table._NAMES)
    members = noise_losses.stateless(3, "cpu").values()
    timed = {type(loss).__name__ for loss in members if isinstance(loss, torch.nn.Module)}
    assert timed | {"LogitClipLoss"} <= set(named)
    assert all(hasattr(losses, name) for name in named if name != "CrossEntropyLoss")


def _study(folder):
    """The folder of a finished study, as far as its report reads it."""
    for setting, tops in {"clean": (90.0, 91.0), "noisy": (70.0, 72.0)}.items():
        place = folder / "settings" / setting
        arms = {"plain": {"head": "linear"}, "fixed": {"head": "etf"}}
        recipe = {"name": "study", "dataset": "digits", "seeds": [0, 1], "baseline": "plain", "arms": arms}
        recipe["data_root"] = "somewhere"
        settings = {"clean": {"noise_rate": 0.0}, "noisy": {"noise_rate": 0.4, "data_root": "elsewhere"}}
        for seed in (0, 1):
            for arm, top1 in zip(arms, tops, strict=True):
                result = {"test_top1": top1 + seed * (1.5 if arm == "fixed" else 1), "epoch": 8}
                rows = [{"epoch": epoch, "val_top1": 50.0 + epoch} for epoch in range(9)]
                run = place / "arms" / arm / f"seed{seed}"
                run.mkdir(parents=True)
                (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
                complete = {"complete": True, "last": result, "best": result, "initial": {"val_top1": 9.0}}
                (run / "result.json").write_text(json.dumps(complete))
        (place / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "recipe.yaml").write_text(json.dumps({**recipe, "settings": settings}))
    (folder / "env.json").write_text(json.dumps({"torch": "2", "command": "etfhead run x"}))
    return folder


def test_a_study_is_collected_whole_but_for_where_its_files_lay(tmp_path):
    content = collect.collected(_study(tmp_path))
    assert "command" not in content["metadata"]
    assert "somewhere" not in json.dumps(content)
    assert "elsewhere" not in json.dumps(content)
    assert content["recipe"]["settings"]["noisy"] == {"noise_rate": 0.4, "data_root": None}
    fixed = content["results"]["settings"]["noisy"]["summary"]["arms"]["fixed"]
    assert fixed["figures"]["test_top1_last"]["values"] == {0: 72.0, 1: 73.5}
    assert [row["epoch"] for row in fixed["val_top1_by_epoch"]] == [0, 1, 2, 3, 5, 9]
    (tmp_path / "settings/noisy/arms/fixed/seed1/result.json").unlink()
    with pytest.raises(SystemExit, match="1 runs are unfinished"):
        collect.collected(tmp_path)


def test_tables_of_a_study(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(collect.collected(_study(tmp_path / "run"))))
    last, best = readme.written("x@study").split("\n\n")[1:4:2]
    assert last == best
    assert last.splitlines()[2:] == [
        "| `plain` (baseline) | 90.50 ± 0.71 | 70.50 ± 0.71 |",
        "| `fixed` | 91.75 ± 1.06 | 72.75 ± 1.06 |",
    ]
    row = readme.written("x@differences").splitlines()[4]
    assert row == "| `fixed` | +1.25 (−1.93 to +4.43) | +2.25 (−0.93 to +5.43) | 0 / 0 / 0 |"
    row = readme.written("x@equal_loss").splitlines()[4]
    assert row.startswith("| `fixed` | `plain` | 4 / 0 | 0 / 0 / 0 | +1.25 (−1.93 to +4.43) | ")


def test_a_checkpoint_is_what_the_end_of_an_epoch_does_beside_measuring():
    def span(name, began, ended):
        return Span(name, (began, began / 2), (ended, ended / 2))  # a process that has half a core

    first = [
        span("seed_step", 1, 2),
        span("seed_step", 7, 9),
        span("_train_epoch", 0, 60),
        span("_collapse", 70, 78),
        span("_finish_epoch", 69, 80),
    ]
    start = [span("_collapse", -9, -1)]  # before the first step
    second = [span("_train_epoch", 80, 150), span("_finish_epoch", 160, 161)]
    rows = checkpoint_overhead.epochs_of([*start, *first, *second])
    assert [row["epoch"] for row in rows] == [80, 81]
    assert [row["training"] for row in rows] == [60, 70]
    assert [row["checkpoint"] for row in rows] == [3, 1]
    assert [row["seeding"] for row in rows] == [3, 0]
    assert [row["checkpoint_cpu"] / row["epoch_cpu"] for row in rows] == [3 / 80, 1 / 81]


def test_checkpoints_are_timed_in_the_recipe_itself_across_a_break(tmp_path):
    plain = engine.Trainer._finish_epoch, engine.update_weights
    recipe = smoke(load_recipe("fashion_mnist", []))
    row = checkpoint_overhead.measure(recipe, "etf", tmp_path / "run", 1)
    assert (engine.Trainer._finish_epoch, engine.update_weights) == plain
    folder = tmp_path / "run" / "arms" / "etf" / "seed0"
    assert json.loads((folder / "result.json").read_text())["epochs"] == recipe.epochs == len(row["epochs"])
    assert row["epochs"][0]["new_best"]
    assert row["state_bytes"] == (folder / "state.pt").stat().st_size > 0
    for epoch in row["epochs"]:
        assert 0 < epoch["seeding"] < epoch["training"]
        assert 0 < epoch["checkpoint"] < epoch["epoch"] - epoch["training"]
    assert row["share"]["median"] <= row["largest_share"]
    back = row["resume"]
    assert 0 < back["read_and_verify"] + back["restore"] < back["start_to_first_step"]


def test_ddp_sends_the_class_vectors_unless_they_are_marked(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sent = {}
        for marked in (False, True):
            step, sent[marked] = ddp_buffers._side(20, 8, "cpu", marked=marked)
            step()
    finally:
        torch.distributed.destroy_process_group()
    assert sent[False] - sent[True] == 4 * (20 * 8 + 20 + 64)  # as the card says


def test_tables_of_production(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    sides = {"as DDP does": 20_500_000, "marked": 640}
    times = {"as DDP does": {"median": 1234.5}, "marked": {"median": 99.4}}
    ratio = {"median": 0.5, "q1": 0.25, "q3": 0.75}
    row = {"num_classes": 10_000, "in_features": 512, "bytes_sent_a_step": sides, "milliseconds": times}
    _write(tmp_path, "ddp_buffers_cpu", [{**row, "ratio_marked": ratio}])
    line = "| d=512, K=10,000 | 20.5 MB | 0.64 kB | 1,234 ms | 99 ms | 0.50 [0.25, 0.75] |"
    assert registry.written("ddp_buffers_cpu").splitlines()[2] == line
    overhead = {
        "arm": "etf",
        "state_bytes": 2_345_678,
        "epoch_seconds": {"median": 40.04},
        "checkpoint_seconds": {"median": 0.0456},
        "share": {"median": 0.00125, "q1": 0.001, "q3": 0.002},
        "largest_share": 0.0123,
        "share_with_seeding": {"median": 0.0034},
        "resume": {"read_and_verify": 0.02, "restore": 0.005, "start_to_first_step": 3.0},
    }
    _write(tmp_path, "checkpoint_overhead_cpu", [overhead])
    line = "| `etf` | 40.0 s | 2.35 MB | 45.6 ms | 0.12 [0.10, 0.20] | 1.23 | 0.34 | 25.0 ms |"
    assert registry.written("checkpoint_overhead_cpu").splitlines()[2] == line
    fault = {
        "fault": "full disk",
        "tried": 6,
        "survived": 5,
        "detail": "a | b",
        "seconds": 12.6,
        "failed": {},
    }
    _write(tmp_path, "faults", [fault])
    assert registry.written("faults").splitlines()[2] == "| full disk | 5 of 6 | 13 s | a \\| b |"


def test_numbers_of_a_table_leave_out_what_there_is_not():
    assert cells.spread({"mean": 1.239, "std": None}, 2) == "1.24"
    assert cells.spread(None, 2) == cells.paired(None, 2) == ""
    assert cells.paired({"mean": -0.5, "low": None, "high": None}, 1) == "-0.5"
    assert cells.paired({"mean": 0.5, "low": -1, "high": 2}, 1) == "+0.5 [-1.0, +2.0]"
    assert [cells.rounded(value) for value in (1.239, 12.39, 1239.0)] == ["1.24", "12.4", "1,239"]
