import pytest

pytest.importorskip("matplotlib")

from etfhead.experiment.report.arm_panels import arm_panels, explain_colours
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS


def drawn(arms, baseline="base"):
    calls = []

    def draw(axis, arm, colour, dash):
        calls.append((axis, arm, colour, dash))
        axis.plot([1, 2], [1, 2], color=colour, linestyle=dash)

    figure, panels = arm_panels(arms, baseline, draw)
    return figure, panels, calls


@pytest.mark.parametrize(("count", "columns"), [(1, 3), (3, 3), (7, 3), (9, 3), (10, 4), (13, 4)])
def test_every_contender_has_a_panel_with_the_baseline_in_it(count, columns):
    arms = ["base", *(f"arm{i}" for i in range(count))]
    figure, panels, calls = drawn(arms)
    assert [axis.get_title(loc="left") for axis in panels] == arms[1:]
    for axis, arm in zip(panels, arms[1:], strict=True):
        here = [call[1:] for call in calls if call[0] is axis]
        assert here == [("base", BASELINE_COLOUR, "--"), (arm, COLOURS[0], "-")]
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert visible == panels
    assert len(figure.axes) == -(-count // columns) * columns
    # Epochs stand below the last panel of each column, the short row's neighbours included.
    below = [axis.xaxis.get_tick_params()["labelbottom"] for axis in panels]
    assert below == [at + columns >= count for at in range(count)]
    panels[0].set_ylim(-3, 7)
    assert all(axis.get_ylim() == (-3, 7) for axis in panels)


def test_a_baseline_without_a_curve_is_neither_drawn_nor_explained():
    arms = ["one", "two"]
    figure, _, calls = drawn(arms)
    assert [call[1] for call in calls] == arms
    explain_colours(figure, arms, "base")
    assert figure.get_suptitle() == "blue: the arm named above the panel"


def test_colours_are_explained_with_what_else_there_is():
    figure, _, _ = drawn(["base", "one"])
    explain_colours(figure, ["base", "one"], "base", "dotted: target", place="row")
    assert figure.get_suptitle() == (
        "black, dashed: base (baseline);  blue: the arm named above the row;  dotted: target"
    )
