import itertools
import math
import statistics
import warnings

import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from etfhead.experiment.report.plots import draw, figures
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize_records

TOPS = {"linear": [96.8, 97.1, 97.4], "cosine": [96.9, 97.5, 97.6], "etf": [97.9, 98.0, 98.5]}
NAMES = ["NC1", "CDNV", "NC2 equinorm", "NC2 equiangular", "NC3", "NC4 (%)"]


def drawn(folder):
    records = read_run(folder)
    pictures = figures(records, summarize_records(records))
    return records, pictures


def panels(figure):
    """Visible panels by name."""
    return {axis.get_title(loc="left").split(":")[0]: axis for axis in figure.axes if axis.get_visible()}


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_a_panel_for_each_figure_with_means_and_bands_from_the_untrained_model_on(fake_run):
    records, pictures = drawn(fake_run(TOPS, epochs=9, collapse=3))
    shown = panels(pictures["collapse.png"])
    assert list(shown) == NAMES
    assert [axis.get_yscale() for axis in shown.values()] == ["log", "log", *["linear"] * 4]
    for name, key, factor in (("NC1", "collapse_nc1", 1), ("NC4 (%)", "collapse_nc4", 100)):
        line = lines(shown[name])["etf"]
        runs = list(records.runs["etf"].values())
        own = [[run.result["initial"][key] for run in runs]]
        own += [[run.history[at][key] for run in runs] for at in (2, 5, 8)]
        assert list(line.get_xdata()) == [0, 3, 6, 9]
        assert list(line.get_ydata()) == pytest.approx([factor * statistics.fmean(row) for row in own])
        band = shown[name].collections[2].get_paths()[0].vertices
        for epoch, row in zip((0, 3, 6, 9), own, strict=True):
            reach = band[band[:, 0] == epoch, 1]
            assert (reach.min(), reach.max()) == pytest.approx((factor * min(row), factor * max(row)))


def test_colours_are_those_of_the_other_pictures_even_if_an_arm_was_not_measured(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)

    def nothing(row, epoch):
        for key in [key for key in row if key.startswith("collapse_")]:
            del row[key]

    edit_rows(folder, nothing, "cosine/*")
    _, pictures = drawn(folder)
    expected = lines(pictures["accuracy_epoch.png"].axes[0])
    for axis in panels(pictures["collapse.png"]).values():
        assert list(lines(axis)) == ["linear", "etf"]
        for arm, line in lines(axis).items():
            assert (line.get_color(), line.get_linestyle()) == (
                expected[arm].get_color(),
                expected[arm].get_linestyle(),
            )


def test_one_legend_names_every_arm_once(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    edit_rows(folder, lambda row, epoch: row.pop("collapse_nc1", None), "linear/*")  # not in the first panel
    _, pictures = drawn(folder)
    (legend,) = pictures["collapse.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "cosine", "etf"]


def test_panels_without_data_are_left_out(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=4, collapse=2)
    edit_rows(folder, lambda row, epoch: [row.pop(f"collapse_{key}", None) for key in ("nc3", "cdnv")])
    _, pictures = drawn(folder)
    assert list(panels(pictures["collapse.png"])) == ["NC1", "NC2 equinorm", "NC2 equiangular", "NC4 (%)"]


def test_runs_of_before_have_no_picture(fake_run):
    assert "collapse.png" not in drawn(fake_run(TOPS))[1]


@pytest.mark.parametrize("zero", ["some", "all", "one seed"])
def test_exact_collapse_is_drawn_on_logarithmic_axes(fake_run, edit_rows, zero):
    folder = fake_run(TOPS, epochs=8, collapse=2)

    def exact(row, epoch):
        if "collapse_nc1" in row and (zero == "all" or epoch > 4):
            row["collapse_nc1"] = 0.0

    edit_rows(folder, exact, {"some": "etf/*", "all": "*/*", "one seed": "etf/seed1"}[zero])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Between older matplotlib and newer pyparsing.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="matplotlib|pyparsing")
        records = read_run(folder)
        assert draw(records, summarize_records(records))["collapse.png"]
    axis = panels(drawn(folder)[1]["collapse.png"])["NC1"]
    low, high = axis.get_ylim()
    assert low < 0 < high
    values = [value for line in axis.get_lines() for value in line.get_ydata()]
    assert max(values) <= high
    if zero == "all":
        assert set(values) == {0.0}
    else:
        # Each value has its own height, zero the lowest: the smallest positive one is well above it.
        height = axis.transData.transform(
            [(0, value) for value in (0.0, min(v for v in values if v > 0), high)]
        )
        assert (height[1, 1] - height[0, 1]) / (height[2, 1] - height[0, 1]) > 0.02
        assert 0.0 in axis.get_yticks()
        assert sum(tick > 0 for tick in axis.get_yticks()) >= 2


@pytest.mark.parametrize(
    ("low", "high"), [(0.31, 0.34), (0.5, 2.0), (1.0, 1.0), (1e-14, 10.0), (3e-9, 7e-3), (20.0, 3e6)]
)
def test_logarithmic_ticks_are_few_and_at_least_two(fake_run, edit_rows, low, high):
    folder = fake_run(TOPS, epochs=8, collapse=2)
    span = math.log(high / low)

    def change(row, epoch):
        if "collapse_nc1" in row:
            row["collapse_nc1"] = low * math.exp(span * (8 - epoch) / 8)

    edit_rows(folder, change)
    axis = panels(drawn(folder)[1]["collapse.png"])["NC1"]
    bottom, top = axis.get_ylim()
    assert bottom <= low * (1 + 1e-12)
    assert high <= top * (1 + 1e-12)
    inside = [tick for tick in axis.get_yticks() if bottom * (1 - 1e-9) <= tick <= top * (1 + 1e-9)]
    assert 2 <= len(inside) <= 5


@pytest.mark.parametrize("count", [8, 13])
def test_many_arms_get_a_row_each_beside_the_baseline(fake_run, count):
    tops = {f"etf{i}_with_a_rather_long_name": [86.0 + i / 10, 86.5, 87.0] for i in range(count)}
    figure = drawn(fake_run(tops, epochs=4, collapse=2))[1]["collapse.png"]
    names = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert names == [f"etf{i}_with_a_rather_long_name" for i in range(1, count)]
    heads = [text.get_text().split("\n")[0] for axis in figure.axes for text in axis.texts]
    assert heads == NAMES
    shown = [axis for axis in figure.axes if axis.get_lines()]
    assert len(shown) == 6 * (count - 1)
    assert all(len(axis.get_lines()) == 2 for axis in shown)
    for column in range(6):
        assert len({axis.get_ylim() for axis in shown[column::6]}) == 1
    assert len({to_hex(line.get_color()) for axis in shown for line in axis.get_lines()}) == 2
    assert len({axis.get_xlim() for axis in shown}) == 1
    assert "etf0_with" in figure.get_suptitle()


@pytest.mark.parametrize("count", [3, 8])
def test_no_label_is_cut_or_covers_another(fake_run, count):
    tops = {f"etf{i}": [86.0 + i / 10, 86.5, 87.0] for i in range(count)}
    figure = drawn(fake_run(tops, epochs=12, collapse=4))[1]["collapse.png"]
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in _labels(figure)]
    assert len(boxes) > 40
    frame = figure.bbox
    assert [text for text, box in boxes if box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0] == []
    clashes = [
        (text, other)
        for (text, box), (other, wall) in itertools.combinations(boxes, 2)
        if min(box.x1, wall.x1) > max(box.x0, wall.x0) and min(box.y1, wall.y1) > max(box.y0, wall.y0)
    ]
    assert clashes == []


def _labels(figure):
    """The texts of the panels that are drawn: titles, heads of columns, tick labels inside the limits."""
    for axis in figure.axes:
        if not axis.get_visible():
            continue
        yield from axis.texts
        if not axis.axison:
            continue
        yield from (
            text for text in axis.findobj(Text) if text.get_text() == axis.get_title(loc="left") != ""
        )
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        yield from (text for text in axis.get_yticklabels() if bottom <= text.get_position()[1] <= top)
        shown = (tick.label1 for tick in axis.xaxis.get_major_ticks() if tick.label1.get_visible())
        yield from (text for text in shown if left <= text.get_position()[0] <= right)


def test_a_single_measuring_is_marked(fake_run):
    figure = drawn(fake_run(TOPS, epochs=2, collapse=9))[1]["collapse.png"]
    for axis in panels(figure).values():
        assert all(line.get_marker() == "o" for line in axis.get_lines())
        assert axis.get_xlim()[0] < 0 < axis.get_xlim()[1]


def test_an_epoch_that_one_seed_lacks_is_no_mean_over_the_others(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=6, collapse=3)
    edit_rows(folder, lambda row, epoch: row.pop("collapse_nc1", None) if epoch == 3 else None, "etf/seed0")
    shown = panels(drawn(folder)[1]["collapse.png"])
    assert list(lines(shown["NC1"])["etf"].get_xdata()) == [0, 6]
    assert list(lines(shown["CDNV"])["etf"].get_xdata()) == [0, 3, 6]


def test_the_same_run_gives_the_same_bytes(fake_run):
    records = read_run(fake_run(TOPS, epochs=4, collapse=2))
    summary = summarize_records(records)
    assert draw(records, summary)["collapse.png"] == draw(records, summary)["collapse.png"]
