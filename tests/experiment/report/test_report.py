import base64
import csv
import json
import re
from html.parser import HTMLParser

import pytest

from etfhead.experiment.report import FILES, format_table, write_report
from etfhead.experiment.report.summary import summarize

TOPS = {"linear": [96.8, 97.1, 97.4], "cosine": [96.9, 97.5, 97.6], "etf": [97.9, 98.0, 98.5]}
VOID = {"meta", "img", "br"}


class _Page(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_every_promised_file_is_written_and_nothing_is_left_behind(fake_run):
    folder = fake_run(TOPS, collapse=4)
    before = {path.name for path in folder.iterdir()}
    page = write_report(folder)
    assert page == folder / "report.html"
    of_other_data = {
        "score_epoch.png",
        "score_time.png",
        "regression_collapse.png",
        "memorization.png",
        "features.png",
        "class_frequency.png",
        "tail_geometry.png",
        "reliability.png",
    }
    assert {path.name for path in folder.iterdir()} - before == set(FILES) - of_other_data


def test_page_is_well_formed_and_self_contained(fake_run):
    text = write_report(fake_run(TOPS)).read_text(encoding="utf-8")
    page = _Page(text)
    assert page.tags.count("h1") == 1
    assert "script" not in page.tags
    assert "link" not in page.tags
    addresses = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert len(addresses) == 4
    for address in addresses:
        kind, data = address.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "url(" not in text
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


def test_the_verdict_comes_first(fake_run):
    folder = fake_run(TOPS)
    page = _Page(write_report(folder).read_text(encoding="utf-8"))
    verdict = summarize(folder)["verdict"]
    assert page.text.index(verdict) < page.text.index("Accuracy")
    assert "verdict helped" in [value for name, value in page.attributes if name == "class"]
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith(f"# fake\n\n**{verdict}**\n")


def test_page_and_markdown_tell_setup_reading_and_command(fake_run):
    folder = fake_run(TOPS)
    page = _Page(write_report(folder).read_text(encoding="utf-8")).text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for text in (page, markdown):
        for phrase in (
            "test_resnet",
            "adamw",
            "1200",
            "2.15.0",
            "etfhead run digits --out run",
            "Student's t",
        ):
            assert phrase in text
        assert "etfhead run run/recipe.yaml --out run-again" in text
        assert "up to 10 %" in text  # two comparisons at 5 % each


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_and_descriptions_cannot_become_markup(fake_run, evil):
    arm = "<script>x<_script>"  # an arm is also a folder, so it has no slash
    tops = {"linear": [90.0, 90.1, 90.3], arm: [91.0, 91.3, 91.2]}
    folder = fake_run(tops, heads={arm: "etf"}, description=evil, model=evil)
    text = write_report(folder).read_text(encoding="utf-8")
    page = _Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    assert evil in page.text
    assert arm in page.text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "&lt;script&gt;" in markdown


def test_markdown_tables_are_aligned_and_complete(fake_run):
    tops = {"a|b": [90.0, 90.1], "etf": [91.0, 91.3]}
    folder = fake_run(tops)
    write_report(folder)
    blocks = (folder / "report.md").read_text(encoding="utf-8").split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) >= 8
    for table in tables:
        assert len({len(line) for line in table}) == 1
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        assert re.fullmatch(r"\|( (:-+|-+:) \|)+", table[1])
    assert any(r"a\|b" in line for table in tables for line in table)


def test_a_description_cannot_become_a_heading_or_a_list(fake_run):
    folder = fake_run(TOPS, description="# not\na heading")
    write_report(folder)
    assert "\n\\# not a heading\n" in (folder / "report.md").read_text(encoding="utf-8")


def test_json_and_csv_hold_the_summary(fake_run):
    folder = fake_run(TOPS, unfinished={("cosine", 2): 3})
    write_report(folder)
    summary = summarize(folder)
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [float(row["test_top1_best"]) for row in rows if row["arm"] == "etf"] == TOPS["etf"]
    stopped = next(row for row in rows if row["arm"] == "cosine" and row["seed"] == "2")
    assert (stopped["state"], stopped["epochs"], stopped["test_top1_best"]) == (
        "stopped after epoch 3 of 12",
        "3",
        "",
    )


def test_unfinished_trainings_are_named_everywhere(fake_run):
    folder = fake_run(TOPS, unfinished={("cosine", 2): 3, ("etf", 2): 0})
    page = _Page(write_report(folder).read_text(encoding="utf-8")).text
    table = format_table(summarize(folder))
    for text in (page, (folder / "report.md").read_text(encoding="utf-8"), table):
        assert "stopped after epoch 3 of 12" in text
    assert "Not started: etf, seed 2." in table
    assert "7 of 9 trainings finished" in table


def test_terminal_table_fits_100_columns_and_ends_with_the_verdict(fake_run):
    tops = {f"etf_{'x' * 3 * i}{i}": [86.8 + i / 10, 86.5, 87.0] for i in range(13)}
    summary = summarize(fake_run(tops, epochs=3))
    text = format_table(summary)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    verdict = summary["verdict"].replace("−", "-")
    assert " ".join(text.split()).endswith(" ".join(verdict.split()))
    assert len([line for line in lines if line.startswith("etf_")]) == 13


def test_terminal_table_holds_the_figures(fake_run):
    lines = format_table(summarize(fake_run(TOPS))).splitlines()
    row = next(line for line in lines if line.startswith("etf")).split()
    assert row[:7] == ["etf", "98.13", "±", "0.32", "+1.03", "+0.75", "to"]
    assert row[-1] == "1"
    assert lines[-1].endswith("3 seeds).")


def test_a_new_report_replaces_the_old_one_and_its_pictures(fake_run):
    folder = fake_run(TOPS, collapse=4)
    write_report(folder)
    written = [name for name in FILES if (folder / name).exists()]
    first = {name: (folder / name).read_bytes() for name in written}
    write_report(folder)
    assert {name: (folder / name).read_bytes() for name in written} == first
    for path in folder.glob("arms/*/*/result.json"):
        path.unlink()
    page = _Page(write_report(folder).read_text(encoding="utf-8"))
    assert "No verdict yet: the baseline linear has no finished seed." in page.text
    assert not list(folder.glob("*.png"))
    assert "img" not in page.tags


def test_damage_is_told_in_the_report(fake_run):
    folder = fake_run(TOPS)
    (folder / "env.json").write_text("{")
    path = folder / "arms/etf/seed1/metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 1')
    page = _Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "env.json: damaged or unreadable; left out" in page
    assert "arms/etf/seed1/metrics.jsonl: the last line is damaged and left out" in page


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has no recipe\.yaml"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_options_that_all_arms_share_are_said_once(fake_run):
    folder = fake_run({"linear": [90.0, 91.0], "etf": [91.0, 91.3]}, epochs=2)
    text = (folder / "recipe.yaml").read_text()
    text = text.replace(
        "  linear:\n    head: linear\n", "  linear:\n    head: linear\n    neck: none\n    loss: ce\n"
    )
    text = text.replace(
        "    head: etf\n", "    head: etf\n    neck: batchnorm\n    loss: ce\n    low_rank: 3\n"
    )
    (folder / "recipe.yaml").write_text(text)
    write_report(folder)
    section = (folder / "report.md").read_text().split("## Arms")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    assert [rows[0], *rows[2:]] == [
        ["arm", "head", "neck"],
        ["linear", "linear", "none"],
        ["etf", "etf", "batchnorm"],
    ]
    assert "All that have them share loss: ce, low_rank: 3." in section
