"""What a training has come to so far: where it stands, its epochs, its best weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from etfhead.experiment.files import write_text
from etfhead.experiment.training.accounting import head_scale
from etfhead.experiment.training.label_figures import Readout
from etfhead.experiment.training.position import Position

__all__ = ["Logbook"]


@dataclass
class Logbook:
    """The part of a checkpoint that is no state of model, optimizer or scaler.

    Args:
        position: Where the training stands; of a resumed one the checkpoint says it, clock included.
        records: One entry a validated epoch, the lines of ``metrics.jsonl``.
        best: Of the first epoch with the highest primary metric: ``epoch``, ``val_<metric>``, ``weights`` (on
            the CPU) and, on multi-label data, ``readout``.
        initial: Validation figures before the first step.
        readout: Multi-label: fitted to the validation split, of its last pass.
        peak_memory: Bytes of the GPU.
    """

    position: Position
    records: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    initial: dict[str, float] | None = None
    readout: Readout | None = None
    peak_memory: int = 0

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to what a checkpoint holds."""
        self.position = Position(**state["position"])
        self.records = list(state["records"])
        self.best = state["best"]
        self.initial = state.get("initial")
        self.readout = state.get("readout")
        self.peak_memory = state["peak_memory"]

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values only."""
        return {
            "position": dataclasses.asdict(self.position),
            "records": self.records,
            "best": self.best,
            "initial": self.initial,
            "peak_memory": self.peak_memory,
            **({} if self.readout is None else {"readout": self.readout}),
        }

    def close_epoch(
        self, val: Mapping[str, float], more: Mapping[str, float], *, model: nn.Module, metric: str, hits: str
    ) -> None:
        """Write down a validated epoch, keep its weights if they are the best so far, and turn the page.

        Args:
            val: Its validation figures.
            more: Other figures for its record.
            model: The one that was validated.
            metric: The primary metric, among ``val``.
            hits: Name of the training figure in the record.
        """
        record = self.position.record(val, scale=head_scale(model), hits=hits)
        self.records.append({**record, **more})
        name = f"val_{metric}"
        if self.best is None or val[metric] > self.best[name]:
            self.best = {
                "epoch": self.position.epoch,
                name: val[metric],
                "weights": {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()},
            }
            if self.readout is not None:
                self.best["readout"] = self.readout
        self.position = self.position.next_epoch()

    def write_records(self, folder: Path) -> None:
        """Write ``metrics.jsonl``."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in self.records)
        write_text(folder / "metrics.jsonl", lines)
