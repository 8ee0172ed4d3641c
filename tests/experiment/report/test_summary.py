import json
import statistics

import pytest
import scipy.stats

from etfhead.experiment.report.records import number
from etfhead.experiment.report.rows import COLUMNS
from etfhead.experiment.report.summary import summarize

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_figures_and_differences_match_independent_arithmetic(fake_run):
    summary = summarize(fake_run(TOPS))
    figure = summary["arms"]["etf"]["figures"]["test_top1_best"]
    assert figure["mean"] == pytest.approx(statistics.mean(TOPS["etf"]))
    assert figure["std"] == pytest.approx(statistics.stdev(TOPS["etf"]))
    pair = summary["arms"]["etf"]["differences"]["test_top1_best"]
    interval = scipy.stats.ttest_rel(TOPS["etf"], TOPS["linear"]).confidence_interval()
    assert (pair["low"], pair["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert summary["arms"]["etf"]["verdict"]["outcome"] == "helped"
    assert summary["arms"]["etf"]["fixed"]
    assert not summary["arms"]["linear"]["fixed"]
    assert "verdict" not in summary["arms"]["linear"]
    assert summary["verdict"] == (
        "Against linear (97.10 ± 0.30 % test accuracy), the fixed head etf helped: +1.03 points "
        "(95 % interval +0.75 to +1.32, 3 seeds)."
    )


def test_hurt_and_no_difference_are_said_as_plainly(fake_run):
    tops = {"linear": [96.8, 97.1, 97.4], "etf_bad": [95.0, 95.2, 95.7], "etf_same": [96.9, 97.0, 97.5]}
    summary = summarize(fake_run(tops))
    outcomes = {arm: entry["verdict"]["outcome"] for arm, entry in summary["arms"].items() if arm != "linear"}
    assert outcomes == {"etf_bad": "hurt", "etf_same": "no_measurable_difference"}
    pair = summary["arms"]["etf_same"]["differences"]["test_top1_best"]
    allowed = f"the data allow between −{-pair['low']:.2f} and +{pair['high']:.2f} points"
    assert allowed in summary["arms"]["etf_same"]["verdict"]["sentence"]
    assert "etf_bad hurt: −1.80 points" in summary["verdict"]


def test_unfinished_trainings_are_listed_and_left_out(fake_run):
    folder = fake_run(TOPS, unfinished={("etf", 1): 5, ("linear", 2): 0})
    summary = summarize(folder)
    assert summary["unfinished"] == [
        {"arm": "linear", "seed": 2, "state": "not started"},
        {"arm": "etf", "seed": 1, "state": "stopped after epoch 5 of 12"},
    ]
    assert (summary["finished"], summary["expected"]) == (4, 6)
    assert summary["arms"]["etf"]["figures"]["test_top1_best"]["values"] == {0: 97.9, 2: 98.5}
    assert list(summary["arms"]["etf"]["differences"]["test_top1_best"]["values"]) == [0]
    assert summary["arms"]["etf"]["verdict"]["outcome"] == "too_few_seeds"
    assert "1 paired seed of the 3 needed" in summary["verdict"]
    assert "preliminary: 2 of 6 trainings unfinished" in summary["verdict"]
    assert [row["state"] for row in summary["runs"]].count("finished") == 4


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [("linear", "the baseline linear has no finished seed"), ("etf", "shares no finished seed")],
)
def test_an_arm_without_a_finished_seed(fake_run, arm, sentence):
    summary = summarize(fake_run(TOPS, unfinished={(arm, 0): 0, (arm, 1): 3, (arm, 2): 0}))
    assert sentence in summary["verdict"]
    assert summary["arms"][arm]["figures"]["test_top1_best"] is None
    assert summary["arms"]["etf"]["verdict"]["outcome"] == "no_data"
    if arm == "linear":
        assert summary["target"] == {"val_top1": None, "source": None}


def test_target_of_the_recipe_and_seeds_that_never_reach_it(fake_run):
    tops = {"linear": [90.0, 90.0, 97.0], "etf": [97.0, 97.2, 97.1]}
    folder = fake_run(tops, target_accuracy=95.0)
    summary = summarize(folder)
    assert summary["target"] == {"val_top1": 95.0, "source": "recipe"}
    linear, etf = summary["arms"]["linear"]["target"], summary["arms"]["etf"]["target"]
    assert (linear["reached"], linear["of"], linear["epochs"], linear["seconds"]) == (1, 3, None, None)
    firsts = []
    for seed in range(3):
        lines = (folder / f"arms/etf/seed{seed}/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        firsts.append(next(row for row in rows if row["val_top1"] >= 95.0))
    assert etf["epochs"] == statistics.median(row["epoch"] + 1 for row in firsts)
    assert etf["steps"] == statistics.median(row["step"] for row in firsts)
    assert etf["seconds"] == pytest.approx(statistics.median(row["train_time"] for row in firsts))


def test_automatic_target_is_a_point_below_the_baseline(fake_run):
    folder = fake_run(TOPS)
    best = []
    for seed in range(3):
        lines = (folder / f"arms/linear/seed{seed}/metrics.jsonl").read_text().splitlines()
        best.append(max(json.loads(line)["val_top1"] for line in lines))
    target = summarize(folder)["target"]
    assert target == {"val_top1": pytest.approx(statistics.mean(best) - 1), "source": "automatic"}


def test_many_contenders_are_adjusted_and_grouped(fake_run):
    tops = {"linear": [86.0, 86.4, 86.8]}
    tops |= {f"etf{i}": [86.15, 86.6, 87.05 + i / 1000] for i in range(4)}  # each p is about 0.02
    tops["etf_sure"] = [89.0, 89.401, 89.799]
    summary = summarize(fake_run(tops))
    assert summary["holm"]
    assert summary["comparisons"] == 5
    unadjusted = [
        arm
        for arm, entry in summary["arms"].items()
        if arm != "linear" and entry["differences"]["test_top1_best"]["p_value"] < 0.05
    ]
    helped = [a for a, e in summary["arms"].items() if a != "linear" and e["verdict"]["outcome"] == "helped"]
    assert helped == ["etf_sure"]
    assert len(unadjusted) > 1
    assert (
        "of 5 fixed heads 1 helped (etf_sure +3.00) and 4 made no measurable difference" in summary["verdict"]
    )
    assert f"for {len(unadjusted) - 1} of them only the unadjusted interval" in summary["verdict"]


def _grouped(fake_run, tops, **options):
    return summarize(fake_run({"linear": [86.0, 86.4, 86.8], **tops}, **options))["verdict"]


def test_a_group_without_a_difference_says_what_its_intervals_allow(fake_run):
    tops = {
        "cosine": [80.0, 90.0, 50.0],
        "etf0": [86.1, 86.3, 86.9],
        "etf1": [85.0, 87.4, 86.8],
        "etf2": [86.0, 86.4, 86.8],
    }
    verdict = _grouped(fake_run, tops)
    low, high = scipy.stats.ttest_rel(tops["cosine"], [86.0, 86.4, 86.8]).confidence_interval()
    alone = f"cosine −13.07; 95 % interval −{-low:.2f} to +{high:.2f}"
    assert f"the only learnable head made no measurable difference ({alone})" in verdict
    low, high = scipy.stats.ttest_rel(tops["etf1"], [86.0, 86.4, 86.8]).confidence_interval()
    within = f"95 % intervals within −{-low:.2f} to +{high:.2f}"
    assert f"of 3 fixed heads 3 made no measurable difference ({within})" in verdict


def test_a_group_that_equals_the_baseline_on_every_seed(fake_run):
    tops = {arm: [86.0, 86.4, 86.8] for arm in ("cosine", "etf0", "etf1", "etf2")}
    verdict = _grouped(fake_run, tops)
    assert (
        "the only learnable head made no measurable difference (cosine: equal accuracy on each of" in verdict
    )
    assert "of 3 fixed heads 3 made no measurable difference (equal accuracy on each seed)" in verdict


def test_the_last_of_a_group_that_only_the_adjusting_takes_its_verdict(fake_run):
    tops = {f"etf{i}": [88.0, 88.401, 88.799] for i in range(3)}
    verdict = _grouped(fake_run, {**tops, "cosine": [86.2, 86.62, 86.95]}, name="one")
    assert "the only learnable head helped (cosine +0.19)" in verdict
    tops = {f"etf{i}": [86.15, 86.6, 87.05 + i / 1000] for i in range(3)}  # each p is about 0.02
    verdict = _grouped(fake_run, {**tops, "cosine": [86.15, 86.6, 87.05]}, name="two")
    assert (
        "(cosine +0.20; 95 % interval +0.08 to +0.32, which leaves out zero only before adjusting)" in verdict
    )


def test_groups_without_a_verdict_say_why(fake_run):
    arms = ("cosine", "etf0", "etf1", "etf2")
    tops = {arm: [87.0, 87.5, 88.0] for arm in arms}
    short = {(arm, 2): 0 for arm in arms}
    verdict = _grouped(fake_run, tops, unfinished=short, name="two")
    assert "of 3 fixed heads 3 got no verdict (2 paired seeds of the 3 needed)" in verdict
    assert "the only learnable head got no verdict (2 paired seeds of the 3 needed)" in verdict
    several = {("etf0", 2): 0, ("etf0", 1): 0, ("etf1", 2): 0, **{("etf2", seed): 0 for seed in range(3)}}
    verdict = _grouped(fake_run, tops, unfinished=several, name="several")
    reasons = "2 with 1 to 2 paired seeds of the 3 needed, 1 with no finished seed in common"
    assert f"of 3 fixed heads 3 got no verdict ({reasons})" in verdict
    verdict = _grouped(fake_run, {arm: [87.0, 87.4, 87.8] for arm in arms}, name="equal")
    assert "of 3 fixed heads 3 got no verdict (equal differences on every seed)" in verdict


def test_verdicts_that_depend_on_the_epoch_are_noted(fake_run):
    folder = fake_run(TOPS)
    for seed, top1 in enumerate([96.9, 96.9, 97.5]):
        path = folder / f"arms/etf/seed{seed}/result.json"
        _edit(path, lambda result, top1=top1: result["last"].update(test_top1=top1))
    notes = summarize(folder)["notes"]
    assert [note for note in notes if note.startswith("etf: the verdict depends on the epoch: helped at")]


def test_speed_ratio_is_paired_by_seed(fake_run):
    folder = fake_run(TOPS)
    for arm, factor in (("linear", 1.0), ("etf", 1.25)):
        for seed, speed in enumerate([500.0, 1000.0, 4000.0]):
            path = folder / f"arms/{arm}/seed{seed}/result.json"
            _edit(path, lambda result, value=speed * factor: result.update(images_per_s=value))
    ratio = summarize(folder)["arms"]["etf"]["ratios"]["images_per_s"]
    assert ratio["mean"] == pytest.approx(1.25)
    assert ratio["low"] is None  # equal ratios have no spread


def test_truncated_and_foreign_lines_are_noted_and_skipped(fake_run):
    folder = fake_run(TOPS)
    path = folder / "arms/etf/seed0/metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = '{"no": "epoch"}'
    path.write_text("\n".join(lines) + "\n" + lines[-1][:25])
    before = summarize(folder)
    notes = [note for note in before["notes"] if note.startswith("arms/etf/seed0/metrics.jsonl: ")]
    assert [note.split(": ")[1].split(" is")[0] for note in notes] == ["line 4", "the last line"]
    assert before["finished"] == 6


def test_a_repeated_epoch_counts_once_and_the_later_line_wins(fake_run):
    folder = fake_run(TOPS, target_accuracy=100.5)
    path = folder / "arms/etf/seed0/metrics.jsonl"
    row = json.loads(path.read_text().splitlines()[-1]) | {"val_top1": 101.0}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    summary = summarize(folder)
    assert summary["runs"][3]["val_top1_last"] == 101.0
    assert summary["runs"][3]["target_epochs"] == 12


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"complete": true, "last": {}}', '{"complete": false'])
def test_a_damaged_result_makes_the_training_unfinished(fake_run, damage):
    folder = fake_run(TOPS)
    (folder / "arms/etf/seed2/result.json").write_text(damage)
    summary = summarize(folder)
    assert summary["unfinished"] == [{"arm": "etf", "seed": 2, "state": "stopped after epoch 12 of 12"}]
    assert any(note.startswith("arms/etf/seed2/result.json: ") for note in summary["notes"])


@pytest.mark.parametrize("value", [10**400, -(10**400), True, "3", None], ids=lambda value: str(value)[:5])
def test_what_is_no_number_of_a_report(value):
    assert number({"target_accuracy": value}, "target_accuracy") is None


def test_nan_becomes_missing_and_the_summary_stays_json(fake_run):
    folder = fake_run(TOPS)
    _edit(folder / "arms/etf/seed0/result.json", lambda result: result["best"].update(test_loss=float("nan")))
    summary = summarize(folder)
    assert list(summary["arms"]["etf"]["figures"]["test_loss_best"]["values"]) == [1, 2]
    json.dumps(summary, allow_nan=False)


def test_other_devices_other_folders_and_synthetic_images_are_noted(fake_run):
    folder = fake_run(TOPS, dataset="synthetic")
    _edit(folder / "arms/etf/seed0/result.json", lambda result: result.update(device="cuda"))
    stranger = folder / "arms/old/seed0"
    stranger.mkdir(parents=True)
    (stranger / "metrics.jsonl").write_text("")
    notes = "\n".join(summarize(folder)["notes"])
    assert "different devices (cpu, cuda)" in notes
    assert "arms/old/seed0: not part of recipe.yaml" in notes
    assert "synthetic" in notes


def test_rows_have_the_documented_columns(fake_run):
    summary = summarize(fake_run(TOPS, unfinished={("etf", 0): 2}))
    assert len(summary["runs"]) == 6
    assert all(tuple(row) == COLUMNS for row in summary["runs"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no recipe.yaml"),
        ("arms: [", "line 1: not YAML"),
        ("a: &a [1]\nb: *a", "line 1: anchors and aliases"),
        ("a: " + "[" * 5000, "line 1: nested too deeply"),
        ("- 1", "expected a mapping, got list"),
        ("arms: {a: {}}\nseeds: 3\nbaseline: a", "'seeds' to be a list"),
        ("arms: {a: {}}\nseeds: [0]\nbaseline: b", "'baseline' to be one of the arms, got 'b'"),
        ("!!python/object/apply:os.getcwd []", "the tag .* is refused"),
        ("name: caf\xe9".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "recipe.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        summarize(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist; expected a folder written by `etfhead run`"):
        summarize(tmp_path / "nowhere")
