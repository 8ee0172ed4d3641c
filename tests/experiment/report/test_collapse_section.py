import json
import re

import pytest

from etfhead.experiment.report import write_report
from etfhead.experiment.report.collapse import COLLAPSE
from etfhead.experiment.report.markdown import render_markdown
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.sections import build_report
from etfhead.experiment.report.summary import summarize, summarize_records

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}


def markdown(folder):
    """The report without the pictures' bytes: drawing has tests of its own."""
    records = read_run(folder)
    return render_markdown(build_report(records, summarize_records(records), {"collapse.png": b""}))


def section(folder):
    """The section's text and its tables as rows of cells."""
    text = markdown(folder).split("\n## Collapse\n")[1].split("\n## ")[0]
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return text, [
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in (table[0], *table[2:])]
        for table in tables
    ]


def set_figures(edit_rows, folder, values, where):
    edit_rows(folder, lambda row, epoch: row.update(values) if "collapse_nc1" in row else None, where)


def test_it_follows_the_learning_curves_and_shows_the_picture(fake_run):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    text, _ = section(folder)
    write_report(folder)
    headings = re.findall(r"\n## (.+)", (folder / "report.md").read_text())
    assert headings[headings.index("Learning curves") + 1] == "Collapse"
    assert text.count("](collapse.png)") == 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 5
    assert re.search(r'<img alt="Neural collapse [^"]+"', page)


def test_cells_hold_the_last_values_at_any_magnitude(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    for seed, nc1 in enumerate((0.00031, 0.00032, 0.00033)):
        values = {
            "collapse_nc1": nc1,
            "collapse_cdnv": 12.5,
            "collapse_nc3": 0.0,
            "collapse_nc4": 0.123 + seed / 100,
        }
        set_figures(edit_rows, folder, values, f"etf/seed{seed}")
    _, (table, _) = section(folder)
    assert table[0] == [
        "arm",
        "NC1",
        "CDNV",
        "NC2 equinorm",
        "NC2 equiangular",
        "NC2 ETF",
        "NC3",
        "NC4 (%)",
    ]
    assert [row[0] for row in table[1:]] == ["linear (baseline)", "etf"]
    etf = dict(zip(table[0], table[2], strict=True))
    assert etf["NC1"] == "3.20e-4 ± 1e-5"
    assert etf["CDNV"] == "12.5 ± 0"
    assert etf["NC3"] == "0 ± 0"
    assert etf["NC4 (%)"] == "13.30 ± 1.00"


def test_one_seed_has_no_spread(fake_run, edit_rows):
    folder = fake_run({arm: tops[:1] for arm, tops in TOPS.items()}, epochs=4, collapse=2)
    set_figures(edit_rows, folder, {"collapse_nc1": 0.25, "collapse_nc4": 0.5}, "etf/*")
    _, (table, _) = section(folder)
    assert (table[2][1], table[2][7]) == ("0.250", "50.00")


def test_sample_and_time_are_told(fake_run):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    path = folder / "arms/etf/seed2/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "collapse_time": 4.5}))
    text, (_, table) = section(folder)
    assert "Measuring took 2.00 s per training on average, not counted in training time." in text
    assert table == [
        ["arm", "last measured after epoch", "images", "time per training"],
        ["linear (baseline)", "4", "1,000", "1.50 s"],
        ["etf", "4", "1,000", "2.50 s"],
    ]
    assert "without an image" not in text


def test_missing_classes_and_seeds_that_differ_are_told(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    set_figures(edit_rows, folder, {"collapse_missing": 2.0, "collapse_images": 900.0}, "etf/seed0")
    text, (_, table) = section(folder)
    assert table[0][2:4] == ["images", "classes without an image"]
    assert table[1][2:4] == ["1,000", "0"]
    assert table[2][2:4] == ["900 to 1,000", "0 to 2"]
    assert "Classes without an image in the subset are left out of every figure." in text


@pytest.mark.parametrize("figure", COLLAPSE, ids=lambda figure: figure.key)
def test_a_figure_nobody_has_is_left_out_with_its_formula(fake_run, edit_rows, figure):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    text, _ = section(folder)
    assert f"\n- {figure.name} = " in text
    edit_rows(folder, lambda row, epoch: row.pop(figure.key, None))
    text, (table, _) = section(folder)
    assert f"\n- {figure.name} = " not in text
    assert len(table[0]) == 7
    assert not any(cell.startswith(f"{figure.name} ") or cell == figure.name for cell in table[0][1:])


def test_an_arm_without_a_figure_has_a_dash(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    edit_rows(folder, lambda row, epoch: row.pop("collapse_nc3", None), "etf/*")
    _, (table, _) = section(folder)
    assert (table[2][6], table[1][6] == "–") == ("–", False)


def test_the_card_and_the_direction_are_named(fake_run):
    text, _ = section(fake_run(TOPS, epochs=4, collapse=2))
    assert "docs/collapse.md" in text
    assert "zero is full collapse" in text


def test_runs_of_before_have_no_section_and_lose_an_old_picture(fake_run):
    folder = fake_run(TOPS)
    (folder / "collapse.png").write_bytes(b"old")
    write_report(folder)
    assert not (folder / "collapse.png").exists()
    assert "ollapse" not in (folder / "report.md").read_text(encoding="utf-8")
    assert "Collapse" not in (folder / "report.html").read_text(encoding="utf-8")


def test_formulas_and_names_stay_text_on_the_page(fake_run):
    arm = "<b>etf|x"
    folder = fake_run({"linear": [90.0, 91.0], arm: [91.0, 92.0]}, heads={arm: "etf"}, epochs=4, collapse=2)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert page.count("&lt;b&gt;etf|x") >= 2
    part, _ = section(folder)
    assert r"&lt;b&gt;etf\|x" in part
    assert r"2 \|μ\_j − μ\_k\|²" in part  # a bare bar or underscore would be markup


def test_nothing_finished_no_section(fake_run):
    unfinished = {(arm, seed): 3 for arm in TOPS for seed in range(3)}
    folder = fake_run(TOPS, epochs=4, collapse=2, unfinished=unfinished)
    write_report(folder)
    assert "ollapse" not in (folder / "report.md").read_text(encoding="utf-8")
    assert summarize(folder)["arms"]["etf"]["collapse_by_epoch"] == []
