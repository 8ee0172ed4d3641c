import dataclasses
import json

import pytest
import scipy.stats
import yaml

from etfhead.experiment.arm import Arm
from etfhead.experiment.report import write_report
from etfhead.experiment.report.equal_loss import HEAD_OPTIONS, equal_loss, equal_loss_pairs, loss_of
from etfhead.experiment.report.summary import summarize

TOPS = {
    "linear": [96.8, 97.1, 97.4],
    "etf": [97.9, 98.0, 98.5],
    "gce": [95.0, 95.3, 95.9],
    "gce_etf": [96.1, 96.2, 97.1],
}
GCE = {"loss": "generalized_cross_entropy", "loss_options": {"q": 0.7}}
ARMS = {
    "linear": {"head": "linear", "loss": "cross_entropy"},
    "etf": {"head": "etf", "basis": "haar", "loss": "cross_entropy"},
    "gce": {"head": "linear", **GCE},
    "gce_etf": {"head": "etf", "basis": "hadamard", **GCE},
}


def entries(**arms):
    kinds = {"linear": "learnable", "cosine": "learnable", "etf": "fixed", "class_mean": "following"}
    return {name: {"kind": kinds[options["head"]], "settings": options} for name, options in arms.items()}


def with_options(folder, arms):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    plain = json.loads(json.dumps({**recipe, "arms": arms}))  # no anchors: what arms share is written out
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return folder


def test_every_option_of_an_arm_is_the_heads_or_must_agree():
    must_agree = {"loss", "loss_options", "class_balanced", "pal_normalize", "reweight_from", "reweight_beta"}
    must_agree |= {"posthoc", "tail_decay"}
    fields = {field.name for field in dataclasses.fields(Arm)}
    assert fields - must_agree == HEAD_OPTIONS, "a new option: add it to HEAD_OPTIONS, or to those here"


def test_pairs_need_the_same_loss_and_its_options():
    arms = entries(
        linear={"head": "linear"},
        mean={"head": "class_mean", "loss": "cross_entropy"},
        cosine={"head": "cosine", "loss": "cross_entropy"},
        gce={"head": "linear", **GCE},
        gce_etf={"head": "etf", **GCE},
        other_q={"head": "etf", "loss": GCE["loss"], "loss_options": {"q": 0.5}},
        alone={"head": "etf", "loss": "dot_regression", "class_balanced": True},
    )
    assert equal_loss_pairs(arms, "linear") == [("mean", "linear"), ("gce_etf", "gce")]


@pytest.mark.parametrize(("neck", "reference"), [("batchnorm", "normed"), ("none", "base"), (None, "base")])
def test_the_reference_has_the_contenders_neck_or_is_the_baseline(neck, reference):
    arms = entries(
        early={"head": "linear", "neck": "other"},
        normed={"head": "linear", "neck": "batchnorm"},
        base={"head": "linear", "neck": "none"},
        etf={"head": "etf", "neck": neck},
    )
    assert equal_loss_pairs(arms, "base") == [("etf", reference)]


def test_what_is_off_is_no_difference():
    assert loss_of({"head": "etf", "class_balanced": False, "loss_options": {}, "neck": "none"}) == {
        "loss": "cross_entropy"
    }


def test_differences_are_those_of_a_paired_t_test(fake_run):
    summary = summarize(with_options(fake_run(TOPS), ARMS))
    compared = equal_loss(summary)
    assert summary["equal_loss"] == compared
    assert [(pair["contender"], pair["reference"]) for pair in compared["pairs"]] == [
        ("etf", "linear"),
        ("gce_etf", "gce"),
    ]
    pair = compared["pairs"][1]
    assert pair["loss"] == "generalized_cross_entropy (q 0.7)"
    test = scipy.stats.ttest_rel(TOPS["gce_etf"], TOPS["gce"])
    interval = test.confidence_interval()
    assert (pair["best"]["low"], pair["best"]["high"]) == (
        pytest.approx(interval.low),
        pytest.approx(interval.high),
    )
    assert pair["p_value"] == pytest.approx(test.pvalue)
    assert pair["outcome"] == "helped"
    assert (pair["best"]["above"], pair["best"]["below"]) == (3, 0)
    assert (compared["comparisons"], compared["holm"]) == (2, False)
    with_baseline = summary["arms"]["etf"]["differences"]["test_top1_best"]
    assert compared["pairs"][0]["best"] == with_baseline


def test_from_four_pairs_on_verdicts_are_adjusted(fake_run):
    tops = {"linear": [96.8, 97.1, 97.4], **{f"etf{i}": [96.9, 97.3, 97.9 + i / 10] for i in range(4)}}
    compared = equal_loss(summarize(fake_run(tops)))
    raw = [scipy.stats.ttest_rel(tops[f"etf{i}"], tops["linear"]).pvalue for i in range(4)]
    assert compared["holm"]
    adjusted = [pair["p_value"] for pair in compared["pairs"]]
    assert min(adjusted) == pytest.approx(4 * min(raw))


def test_two_seeds_give_no_verdict_and_none_no_difference(fake_run):
    gone = {("gce_etf", 0): 3}
    pairs = equal_loss(summarize(with_options(fake_run(TOPS, unfinished=gone), ARMS)))["pairs"]
    assert (pairs[1]["outcome"], pairs[1]["p_value"]) == ("too_few_seeds", None)
    gone = {("gce_etf", seed): 0 for seed in range(3)}
    pairs = equal_loss(summarize(with_options(fake_run(TOPS, unfinished=gone, name="b"), ARMS)))["pairs"]
    assert (pairs[1]["outcome"], pairs[1]["best"]) == ("no_data", None)


def test_a_report_has_the_section_where_it_says_more_than_the_baseline_does(fake_run):
    folder = with_options(fake_run(TOPS), ARMS)
    write_report(folder)
    section = (folder / "report.md").read_text().split("\n## Heads at equal loss\n")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith("| gce_etf"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["gce_etf", "gce", "generalized_cross_entropy (q 0.7)", "helped", "+1.07"]
    assert cells[6] == "3 / 0"
    plain = fake_run({"linear": TOPS["linear"], "etf": TOPS["etf"]}, name="plain")
    write_report(plain)
    assert "Heads at equal loss" not in (plain / "report.md").read_text()
