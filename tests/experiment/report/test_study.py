import csv
import io
import json
import re
import statistics
from html.parser import HTMLParser

import pytest
import scipy.stats
import yaml

from etfhead.cli import main
from etfhead.experiment.report import (
    STUDY_FILES,
    format_study_table,
    summarize,
    summarize_study,
    write_folder,
    write_study_report,
)
from etfhead.experiment.report.study import draw_study
from etfhead.experiment.report.study_summary import is_study
from etfhead.experiment.report.study_verdict import study_outcome, tally
from etfhead.experiment.run_folder import clear_folder

GCE = {"loss": "generalized_cross_entropy", "loss_options": {"q": 0.7}}
ARMS = {
    "linear": {"head": "linear", "loss": "cross_entropy"},
    "etf": {"head": "etf", "loss": "cross_entropy"},
    "gce": {"head": "linear", **GCE},
    "gce_etf": {"head": "etf", **GCE},
}
SETTINGS = {"clean": {"noise_rate": 0.0}, "sym20": {"noise_rate": 0.2}, "sym40": {"noise_rate": 0.4}}
SPREAD = {  # by arm: above the baseline of the seed, in points
    "linear": [0.0, 0.0, 0.0],
    "etf": [0.3, 0.5, 0.4],
    "gce": [-1.0, -1.2, -1.4],
    "gce_etf": [-0.6, -0.9, 1.4],
}
BASE = {"clean": [97.0, 97.4, 97.1], "sym20": [92.0, 92.6, 91.9], "sym40": [85.0, 85.5, 84.2]}


@pytest.fixture
def fake_study(fake_run, tmp_path):
    """A function that writes a study's folder as `etfhead run` leaves it; ``unfinished`` is by setting."""

    def write(settings=SETTINGS, arms=ARMS, spread=SPREAD, *, unfinished=None, started=None, **options):
        folder = tmp_path / "study"
        folder.mkdir()
        recipe = {"name": "noise", "seeds": [0, 1, 2], "arms": arms, "baseline": "linear", "noise_rate": 0.0}
        recipe |= options.pop("recipe", {})
        plain = json.loads(json.dumps({**recipe, "settings": settings}))  # no anchors
        (folder / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        (folder / "env.json").write_text(json.dumps({"etfhead": "0.1.0", "command": "etfhead run noise"}))
        for setting, changes in settings.items():
            if started is not None and setting not in started:
                continue
            base = BASE.get(setting, BASE["clean"])
            tops = {arm: [b + s for b, s in zip(base, spread[arm], strict=True)] for arm in arms}
            heads = {arm: options["head"] for arm, options in arms.items()}
            place = fake_run(
                tops,
                name=f"study/settings/{setting}",
                heads=heads,
                unfinished=(unfinished or {}).get(setting),
                epochs=4,
                **options,
            )
            inner = yaml.safe_load((place / "recipe.yaml").read_text())
            inner |= json.loads(json.dumps({**recipe, **changes, "settings": {}}))
            (place / "recipe.yaml").write_text(yaml.safe_dump(inner, sort_keys=False))
        return folder

    return write


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def tables(markdown, heading):
    """Rows of cells of every table below a heading of the second level."""
    section = markdown.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = [block.strip().splitlines() for block in section.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in (block[0], *block[2:])]
        for block in blocks
    ]


def test_a_study_is_told_from_a_run(fake_study, fake_run):
    study, run = fake_study(), fake_run({"linear": [90.0], "etf": [91.0]})
    assert is_study(study)
    assert not is_study(run)
    assert not is_study(study / "settings" / "clean")
    assert not is_study(study / "settings")
    with pytest.raises(ValueError, match="is the folder of one run"):
        summarize_study(run)


def test_every_setting_is_summarised_as_its_own_run_is(fake_study):
    folder = fake_study(collapse=2)
    study = summarize_study(folder)
    assert list(study["settings"]) == list(SETTINGS)
    for setting, changes in SETTINGS.items():
        one, own = study["settings"][setting], summarize(folder / "settings" / setting)
        assert (one["changes"], one["state"]) == (changes, "finished")
        for arm, entry in own["arms"].items():
            kept = one["summary"]["arms"][arm]
            for key in ("figures", "verdict", "differences", "kind", "settings"):
                assert kept.get(key) == entry.get(key)
            assert not [key for key in kept if key.endswith("_by_epoch")]
        assert one["summary"]["verdict"] == own["verdict"]
    assert (study["finished"], study["expected"]) == (36, 36)
    assert study["axis"] == {"field": "noise_rate", "values": {"clean": 0.0, "sym20": 0.2, "sym40": 0.4}}
    kept = summarize_study(folder, epochs=True)["settings"]["clean"]["summary"]["arms"]["etf"]
    assert len(kept["val_top1_by_epoch"]) == 5


def test_verdicts_are_counted_over_settings(fake_study):
    study = summarize_study(fake_study())
    assert study["arms"]["etf"]["counts"]["best"] == {"helped": 3}
    assert study["arms"]["gce"]["counts"]["best"] == {"hurt": 3}
    assert study["arms"]["gce_etf"]["counts"]["best"] == {"no_measurable_difference": 3}
    assert "counts" not in study["arms"]["linear"]
    assert study["verdict"].startswith(
        "Against linear in 3 settings, the fixed head etf helped in all 3; the fixed head gce_etf made no "
        "measurable difference in all 3; the learnable head gce hurt in all 3."
    )
    assert study_outcome(study) == "mixed"


def test_many_contenders_are_told_by_kind(fake_study):
    arms = {"linear": {"head": "linear"}, **{f"etf{i}": {"head": "etf"} for i in range(4)}}
    spread = {"linear": [0.0] * 3, **{f"etf{i}": [1.0, 1.01, 1.02 + i / 100] for i in range(4)}}
    study = summarize_study(fake_study(arms=arms, spread=spread))
    assert (
        study["verdict"] == "Against linear in 3 settings, 4 fixed heads (12 comparisons) helped in all 12."
    )
    assert study_outcome(study) == "helped"


def test_files_and_tables(fake_study):
    folder = fake_study(collapse=2)
    before = {path.name for path in folder.iterdir()}
    assert write_study_report(folder) == folder / "report.html"
    assert {path.name for path in folder.iterdir()} - before == set(STUDY_FILES)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    best, last = tables(markdown, "Accuracy")
    assert best[0] == last[0] == ["arm", "clean", "sym20", "sym40"]
    assert [row[0] for row in best[1:]] == ["linear (baseline)", "etf", "gce", "gce_etf"]
    tops = [b + s for b, s in zip(BASE["sym20"], SPREAD["gce"], strict=True)]
    mean, std = statistics.mean(tops), statistics.stdev(tops)
    assert best[3][2] == f"{mean:.2f} ± {std:.2f}"
    assert last[3][2] == f"{mean - 0.05:.2f} ± {std:.2f}"
    differences = tables(markdown, "Paired differences to linear")
    interval = scipy.stats.ttest_1samp(SPREAD["gce_etf"], 0).confidence_interval()
    cell = f"{statistics.mean(SPREAD['gce_etf']):+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
    assert differences[0][3] == ["gce_etf", *[cell.replace("-", "−")] * 3]
    assert differences[2][1] == ["etf", "helped", "helped", "helped", "3", "0", "0", "0"]
    equal, _ = tables(markdown, "Heads at equal loss")
    assert [row[:2] for row in equal[1:]] == [["etf", "linear"], ["gce_etf", "gce"]]
    assert equal[2][2:4] == ["9 / 0", "0 / 0 / 3"]
    rules = [
        line.split("|")[1].strip() for line in markdown.splitlines() if re.fullmatch(r"\|[ :|-]+\|", line)
    ]
    assert len(rules) > 8
    assert all(rule.startswith(":-") for rule in rules), "names are left-aligned"


def test_rows_of_the_csv_name_their_setting(fake_study):
    folder = fake_study()
    write_study_report(folder)
    rows = list(csv.DictReader(io.StringIO((folder / "summary.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 36
    chosen = [row for row in rows if (row["setting"], row["arm"]) == ("sym40", "etf")]
    assert [float(row["test_top1_best"]) for row in chosen] == pytest.approx([85.3, 86.0, 84.6])
    assert list(rows[0])[:3] == ["setting", "arm", "seed"]
    stored = json.loads((folder / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summarize_study(folder)))


def test_the_page_links_every_setting_and_nothing_outside(fake_study):
    folder = fake_study({"clean": {}, "a b#1": {"epochs": 4}})
    page = _Page(write_study_report(folder).read_text(encoding="utf-8"))
    links = [value for name, value in page.attributes if name == "href"]
    assert links == ["settings/clean/report.html", "settings/a%20b%231/report.html"]
    assert all(value.startswith("data:image/png") for name, value in page.attributes if name == "src")
    assert "[Report of clean](settings/clean/report.html)" in (folder / "report.md").read_text()


def test_unfinished_and_missing_settings_are_named(fake_study):
    folder = fake_study(unfinished={"sym20": {("etf", 1): 2, ("gce", 0): 0}}, started=["clean", "sym20"])
    study = summarize_study(folder)
    states = {setting: one["state"] for setting, one in study["settings"].items()}
    assert states == {
        "clean": "finished",
        "sym20": "10 of 12 trainings finished",
        "sym40": "not started",
    }
    assert (study["finished"], study["expected"]) == (22, 36)
    assert "Against linear in 2 settings" in study["verdict"]
    assert "Preliminary: 14 of 36 trainings unfinished." in study["verdict"]
    page = _Page(write_study_report(folder).read_text(encoding="utf-8")).text
    table = format_study_table(study)
    assert "stopped after epoch 2 of 4" in page
    assert "sym40: not started." in page
    assert "Unfinished: setting sym40: not started." in table
    assert [row[3] for row in tables((folder / "report.md").read_text(), "Accuracy")[0][1:]] == ["–"] * 4


def test_nothing_started_and_a_damaged_setting(fake_study):
    folder = fake_study(started=[])
    study = summarize_study(folder)
    assert study["verdict"] == "No verdict yet: no setting was started."
    assert draw_study(study) == {}
    assert "img" not in _Page(write_study_report(folder).read_text()).tags
    for setting in ("clean", "other"):
        (folder / "settings" / setting).mkdir(parents=True)
        (folder / "settings" / setting / "recipe.yaml").write_text("a: [")
    notes = summarize_study(folder)["notes"]
    assert "settings/clean/recipe.yaml: damaged; the setting is left out" in notes
    assert "settings/other: not part of recipe.yaml; left out" in notes


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_and_changes_cannot_become_markup(fake_study, evil):
    folder = fake_study({"<b>x": {"aa": evil}}, recipe={"description": evil, "name": evil})
    page = _Page(write_study_report(folder).read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags)
    assert page.tags.count("img") == 2
    assert evil in page.text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_terminal_table_fits_and_splits_many_settings(fake_study):
    settings = {f"setting_with_a_long_name_{i}": {"lr": i + 1} for i in range(7)}
    text = format_study_table(summarize_study(fake_study(settings)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("linear (baseline)") for line in lines) == 4  # best and last, five and two
    assert "97.17 ± 0.21" in text


def test_lines_hold_means_and_deviations_at_their_noise_rates(fake_study):
    figure = draw_study(summarize_study(fake_study()))["study.png"]
    (axis,) = figure.axes
    lines = {bar.get_label(): bar for bar in axis.containers}
    assert set(lines) == set(ARMS)
    points, _, (bars,) = lines["etf"]
    means = [statistics.mean(b + s - 0.05 for b, s in zip(BASE[k], SPREAD["etf"], strict=True)) for k in BASE]
    assert list(points.get_ydata()) == pytest.approx(means)
    assert list(points.get_xdata()) == pytest.approx([0.0, 0.2, 0.4], abs=0.03)
    low, high = (segment[1] for segment in bars.get_segments()[0])
    values = [b + s for b, s in zip(BASE["clean"], SPREAD["etf"], strict=True)]
    assert high - low == pytest.approx(2 * statistics.stdev(values))
    assert axis.get_xlabel() == "noise_rate"
    assert lines["gce"][0].get_linestyle() == "--"
    assert lines["gce_etf"][0].get_linestyle() == "-"
    assert lines["gce"][0].get_color() == lines["gce_etf"][0].get_color() != lines["etf"][0].get_color()


@pytest.mark.parametrize(
    ("settings", "scale", "labels"),
    [
        ({"a": {"lr": 1e-4}, "b": {"lr": 1e-2}, "c": {"lr": 1e-1}}, "log", ["0.0001", "0.01", "0.1"]),
        ({"a": {"lr": 0.0}, "b": {"lr": 1e-4}, "c": {"lr": 0.1}}, "linear", ["0", "0.0001", "0.1"]),
        ({"a": {"opt": "sgd"}, "b": {"opt": "adamw"}}, "linear", ["a", "b"]),
        ({"a": {}, "b": {"noise_rate": 0.5}}, "linear", ["0", "0.5"]),
    ],
)
def test_axis_of_settings(fake_study, settings, scale, labels):
    axis = draw_study(summarize_study(fake_study(settings)))["study.png"].axes[0]
    assert axis.get_xscale() == scale
    shown = [tick.get_text() for tick in axis.get_xticklabels()]
    assert shown == labels


def test_many_arms_are_drawn_loss_by_loss_with_the_baseline(fake_study):
    arms = {"linear": {"head": "linear"}}
    for q in range(5):
        options = {**GCE, "loss_options": {"q": q / 10}}
        arms |= {f"q{q}": {"head": "linear", **options}, f"q{q}_etf": {"head": "etf", **options}}
    spread = {arm: [0.1 * at, 0.2, 0.3] for at, arm in enumerate(arms)}
    figure = draw_study(summarize_study(fake_study(arms=arms, spread=spread)))["study.png"]
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == [
        f"generalized_cross_entropy (q {q / 10})" for q in range(5)
    ]
    for q, axis in enumerate(panels):
        assert [bar.get_label() for bar in axis.containers] == ["linear", f"q{q}", f"q{q}_etf"]


def test_other_figures_are_drawn_where_the_runs_have_them(fake_study, edit_rows):
    folder = fake_study(collapse=2)
    for at, setting in enumerate(SETTINGS):
        values = {"md_dilation": 0.1 + at, "md_memorization_relative": 2.0 * at}
        edit_rows(folder / "settings" / setting, lambda row, epoch, values=values: row.update(values))
    study = summarize_study(folder)
    figures = study["settings"]["sym40"]["summary"]["arms"]["etf"]["figures"]
    assert figures["md_dilation"]["mean"] == pytest.approx(2.1)
    figure = draw_study(study)["study_figures.png"]
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_ylabel() for axis in panels] == ["NC1", "memorization, relative", "dilation", "dilation"]
    assert panels[0].get_yscale() == "log"
    points = panels[3].containers[0][0]
    assert list(points.get_xdata()) == pytest.approx([0.0, 2.0, 4.0])
    assert list(points.get_ydata()) == pytest.approx([0.1, 1.1, 2.1])


def test_a_panel_of_differences_for_every_setting(fake_study):
    figure = draw_study(summarize_study(fake_study()))["study_differences.png"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(SETTINGS)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["etf", "gce", "gce_etf"]


def test_the_command_writes_the_reports_of_a_study_and_its_settings(fake_study, capsys):
    folder = fake_study()
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "noise: 3 settings, 36 of 36 trainings finished" in printed
    assert printed.rstrip().endswith(f"report: {folder / 'report.html'}")
    for setting in SETTINGS:
        assert (folder / "settings" / setting / "report.html").is_file()
    assert write_folder(folder / "settings" / "clean").parent.name == "clean"
    assert re.search(r"Heads at equal loss", (folder / "settings" / "clean" / "report.md").read_text())


def test_a_real_study_from_the_command_line(tmp_path, capsys):
    recipe = {
        "name": "tiny",
        "model": "etfhead_mlp",
        "model_kwargs": {"widths": [8]},
        "img_size": 8,
        "in_chans": 1,
        "dataset": "digits",
        "train_limit": 100,
        "batch_size": 50,
        "epochs": 1,
        "cpu": True,
        "seeds": [0, 1],
        "baseline": "plain",
        "settings": {"weak": {"weight_decay": 0.0}, "strong": {"weight_decay": 0.1}},
        "arms": {"plain": {}, "fixed": {"head": "etf"}},
    }
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 2 settings, 8 of 8 trainings finished, seeds 0, 1" in printed
    assert f"report: {out / 'report.html'}" in printed
    study = summarize_study(out)
    assert study["axis"] == {"field": "weight_decay", "values": {"weak": 0.0, "strong": 0.1}}
    result = json.loads((out / "settings/strong/arms/fixed/seed1/result.json").read_text())
    figure = study["settings"]["strong"]["summary"]["arms"]["fixed"]["figures"]["test_top1_last"]
    assert figure["values"][1] == result["last"]["test_top1"]
    (pair,) = study["settings"]["strong"]["summary"]["equal_loss"]["pairs"]
    assert (pair["contender"], pair["reference"]) == ("fixed", "plain")
    for name in ("report.html", "study.png", "study_figures.png", "settings/weak/report.html"):
        assert (out / name).is_file()
    clear_folder(out)  # as --overwrite does
    assert not list(out.iterdir())


def test_settings_without_a_verdict_say_why():
    counts = {"helped": 1, "too_few_seeds": 2, "no_data": 1, "hurt": 0}
    reasons = "too few seeds in 2, no finished seed in common in 1"
    assert tally(counts, 4) == f"helped in 1 and got no verdict in 3 ({reasons})"
    assert tally({}, 0) == "got no verdict"
