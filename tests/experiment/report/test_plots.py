import io
import statistics
import subprocess
import sys

import pytest

from etfhead.experiment.report.plots import draw, figures
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize_records

TOPS = {"linear": [96.8, 97.1, 97.4], "cosine": [96.9, 97.5, 97.6], "etf": [97.9, 98.0, 98.5]}


def _load(folder):
    records = read_run(folder)
    return records, summarize_records(records)


def _pixels(png):
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")


def test_pictures_are_opaque_and_not_empty(fake_run):
    pictures = draw(*_load(fake_run(TOPS)))
    assert sorted(pictures) == [
        "accuracy_epoch.png",
        "accuracy_time.png",
        "differences.png",
        "loss_epoch.png",
    ]
    for png in pictures.values():
        pixels = _pixels(png)
        assert pixels.shape[1] > 1200
        ink = (pixels[..., :3] < 0.9).any(axis=-1).mean()
        assert 0.005 < ink < 0.5
        assert pixels[0, 0, :3].min() == 1.0  # white, also on a dark page


def test_the_same_run_gives_the_same_bytes(fake_run):
    folder = fake_run(TOPS)
    assert draw(*_load(folder)) == draw(*_load(folder))


def test_lines_are_seed_means_and_bands_reach_the_extremes(fake_run):
    records, summary = _load(fake_run(TOPS))
    axis = figures(records, summary)["accuracy_epoch.png"].axes[0]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert list(lines) == ["linear", "cosine", "etf"]
    histories = [run.history for run in records.runs["etf"].values()]
    expected = [statistics.fmean(rows[epoch]["val_top1"] for rows in histories) for epoch in range(12)]
    assert list(lines["etf"].get_ydata()) == pytest.approx(expected)
    assert list(lines["etf"].get_xdata()) == list(range(1, 13))
    band = axis.collections[2].get_paths()[0].vertices[:, 1]
    values = [row["val_top1"] for rows in histories for row in rows]
    assert (band.min(), band.max()) == (pytest.approx(min(values)), pytest.approx(max(values)))


def test_time_axis_shows_mean_training_seconds_and_the_target(fake_run):
    records, summary = _load(fake_run(TOPS, target_accuracy=95.0))
    axis = figures(records, summary)["accuracy_time.png"].axes[0]
    lines = {line.get_label(): line for line in axis.get_lines()}
    last = statistics.fmean(run.history[-1]["train_time"] for run in records.runs["etf"].values())
    assert lines["etf"].get_xdata()[-1] == pytest.approx(last)
    assert set(lines["target 95.00 %"].get_ydata()) == {95.0}


@pytest.mark.parametrize("count", [7, 13])
def test_many_arms_get_a_panel_each_beside_the_baseline(fake_run, count):
    tops = {f"etf{i}_with_a_rather_long_name": [86.0 + i / 10, 86.5, 87.0] for i in range(count)}
    pictures = figures(*_load(fake_run(tops)))
    panels = [axis for axis in pictures["loss_epoch.png"].axes if axis.get_visible()]
    assert len(panels) == count - 1
    assert all(len(axis.get_lines()) == 2 for axis in panels)
    assert [tick.get_text()[:4] for tick in pictures["differences.png"].axes[0].get_yticklabels()] == [
        f"etf{i}"[:4] for i in range(1, count)
    ]


def test_difference_axis_holds_zero_and_every_seed(fake_run):
    axis = figures(*_load(fake_run(TOPS)))["differences.png"].axes[0]
    left, right = axis.get_xlim()
    assert left < 0 < 1.1 < right


def test_an_interval_far_wider_than_the_data_ends_in_arrows(fake_run):
    # Two seeds: t(0.975, 1) = 12.7, so differences of -1 and +1 give an interval of +-12.7.
    axis = figures(*_load(fake_run({"linear": [90.0, 90.0], "etf": [89.0, 91.0]})))["differences.png"].axes[0]
    assert axis.get_xlim()[1] < 5
    assert {line.get_marker() for line in axis.get_lines()} >= {"<", ">"}


def test_a_finished_seed_is_never_averaged_with_an_unfinished_one(fake_run):
    records, summary = _load(fake_run(TOPS, unfinished={("etf", 0): 4}))
    axis = figures(records, summary)["accuracy_epoch.png"].axes[0]
    line = next(line for line in axis.get_lines() if line.get_label() == "etf")
    assert len(line.get_xdata()) == 12
    last = [records.runs["etf"][seed].history[-1]["val_top1"] for seed in (1, 2)]
    assert line.get_ydata()[-1] == pytest.approx(statistics.fmean(last))


def test_one_epoch_and_one_seed_still_draw(fake_run):
    pictures = draw(*_load(fake_run({"linear": [90.0], "etf": [91.0]}, epochs=1)))
    assert len(pictures) == 4


def test_nothing_finished_draws_nothing(fake_run):
    assert (
        draw(
            *_load(fake_run({"linear": [90.0], "etf": [91.0]}, unfinished={("linear", 0): 1, ("etf", 0): 0}))
        )
        == {}
    )


def test_names_are_shown_literally(fake_run):
    tops = {"linear": [90.0, 90.5], "_$^{": [91.0, 91.2]}
    labels = figures(*_load(fake_run(tops, heads={"_$^{": "etf"})))["accuracy_epoch.png"].legends[0]
    assert len(labels.get_texts()) == 2
    assert draw(*_load(fake_run(tops, name="again")))


def test_drawing_leaves_pyplot_alone(fake_run):
    folder = fake_run({"linear": [90.0], "etf": [91.0]}, epochs=2)
    code = (
        "import sys\n"
        "from etfhead.experiment.report import write_report\n"
        f"write_report({str(folder)!r})\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
