"""Benchmarks run, pair their sides and keep their contract; how fast they are is no test's business."""

import json

import pytest

from benchmarks import common, frame_logits, train_step


def test_sides_take_turns_and_warm_up_rounds_are_dropped():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = common.take_turns(sides, rounds=3, warmup=1)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_taken_round_by_round():
    assert common.ratio([2.0, 2.0, 8.0], [1.0, 4.0, 2.0])["median"] == pytest.approx(2.0)


def test_train_step_compares_every_basis_with_the_learnable_head():
    rows = train_step.measure("test_resnet", 32, 4, 10, 2, "cpu")
    assert [row["head"] for row in rows] == ["learnable", "identity", "hadamard", "haar"]
    saved = {row["head"]: rows[0]["trainable_parameters"] - row["trainable_parameters"] for row in rows[1:]}
    assert set(saved.values()) == {96 * 10 + 10 - 1}
    assert rows[0]["ratio_to_learnable"]["median"] == 1.0


def test_frame_logits_counts_bytes():
    rows = {row["head"]: row for row in frame_logits.measure(4, 512, 200, 2, "cpu")}
    assert rows["linear"]["stored_bytes"] == 4 * (512 * 200 + 200)
    assert rows["haar"]["stored_bytes"] > rows["linear"]["stored_bytes"]
    assert rows["hadamard"]["stored_bytes"] < rows["linear"]["stored_bytes"] / 20
    assert rows["identity"]["stored_bytes"] < 1024


def test_results_are_written_with_their_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    content = json.loads(common.write("x", [{"a": 1}], "cpu").read_text())
    assert content["results"] == [{"a": 1}]
    assert content["metadata"]["torch"]
