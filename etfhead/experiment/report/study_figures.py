"""The figures that a study draws against its settings, where its runs have them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STUDY_FIGURES", "StudyFigure"]


@dataclass(frozen=True)
class StudyFigure:
    """One panel: a figure of the runs against the settings, or against another figure.

    Args:
        key: Of a run's summary, or of the rows of ``metrics.jsonl``.
        name: On its axis.
        log: Whether it spans decades.
        against: Another figure for the horizontal axis, with its name; ``None`` for the settings.
        title: Above the panel.
    """

    key: str
    name: str
    log: bool = False
    against: tuple[str, str] | None = None
    title: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All that it needs."""
        return (self.key,) if self.against is None else (self.against[0], self.key)


STUDY_FIGURES = (
    StudyFigure("collapse_nc1", "NC1", log=True, title="spread within classes"),
    StudyFigure("md_memorization_relative", "memorization, relative", title="memorized wrong labels"),
    StudyFigure("md_dilation", "dilation", title="dilation on clean images"),
    StudyFigure(
        "md_dilation",
        "dilation",
        against=("md_memorization_relative", "memorization, relative"),
        title="dilation against memorization",
    ),
    StudyFigure("nrc1", "NRC1", log=True, title="features off the target subspace"),
    StudyFigure("nrc2", "NRC2", log=True, title="features off the rows of W"),
)
