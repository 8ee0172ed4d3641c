"""Tables of a study: every arm in every setting, differences, and heads at equal loss."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.views.cells import load, markdown
from etfhead.experiment.report import study_tables
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.study_verdict import equal_loss_sentence

_WHEN = {"last": "last epoch", "best": "best validation epoch"}


def study(name: str) -> str:
    """The primary figure of every arm in every setting, at the last and at the best epoch."""
    summary = load(name)
    title = "primary metric" if summary["primary"] is None else score_of_summary(summary).name
    sentence = f"Test {title} (%) at the {{}}, mean ± standard deviation over seeds:"
    parts = _at_both(sentence, lambda when: markdown(study_tables.score_table(summary, when)))
    return "\n\n".join([*parts, summary["verdict"]])


def study_differences(name: str) -> str:
    """The same minus the baseline of each setting, paired by seed, with the verdicts counted."""
    summary = load(name)
    contenders = [arm for arm in summary["arms"] if arm != summary["baseline"]]

    def counted(when: str) -> str:
        table = study_tables.difference_table(summary, when)
        counts = [study_tables.counted(summary["arms"][arm]["counts"][when])[:3] for arm in contenders]
        rows = [[*row, " / ".join(count)] for row, count in zip(table.rows, counts, strict=True)]
        return markdown(Table([*table.header, " / ".join(study_tables.SHORT.values())], rows))

    sentence = f"Minus `{summary['baseline']}` at the {{}}, in points, with the paired 95 % interval:"
    return "\n\n".join(_at_both(sentence, counted))


def study_equal_loss(name: str) -> str:
    """Every gradient-free head of a study minus the learnable head that has the same loss."""
    summary = load(name)

    def heads(when: str) -> str | None:
        table = study_tables.equal_loss_table(summary, when)
        return None if table is None else markdown(table, names=2)

    sentence = "Head minus the learnable head of the same loss at the {}, in points, paired by seed:"
    return "\n\n".join([*_at_both(sentence, heads), equal_loss_sentence(summary) or ""]).rstrip()


def _at_both(sentence: str, table: Callable[[str], str | None]) -> list[str]:
    """A part for the last epoch and one for the best, where there is a table."""
    found = [(words, table(when)) for when, words in _WHEN.items()]
    return [f"{sentence.format(words)}\n\n{text}" for words, text in found if text is not None]


VIEWS = {"study": study, "differences": study_differences, "equal_loss": study_equal_loss}
