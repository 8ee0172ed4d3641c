"""The end of an arm and seed: weights, test figures, costs, and the file that says it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etfhead.errors import Interrupted
from etfhead.experiment.checksums import files_sha256, seal
from etfhead.experiment.files import write_json
from etfhead.experiment.training.accounting import model_costs, optimizer_costs
from etfhead.experiment.training.checkpoint import save_weights
from etfhead.experiment.training.collapse import collapse_time
from etfhead.experiment.training.label_figures import Readout
from etfhead.experiment.training.long_tail_arms import posthoc_labels
from etfhead.experiment.training.memorization_setup import dilation_of, show_features
from etfhead.experiment.training.ood import ood_figures
from etfhead.experiment.training.shares import eval_share

if TYPE_CHECKING:
    from etfhead.experiment.data import Splits
    from etfhead.experiment.training.engine import Trainer

__all__ = ["conclude"]


def conclude(
    trainer: Trainer, splits: Splits, folder: Path, fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluate the last and the best weights on the test set, once each, and write everything down.

    The best epoch is the first with the highest primary metric on validation; the test set has no say in it,
    nor in the thresholds and prototypes of label sets.

    Args:
        trainer: Its training has ended.
        splits: Gives the test set.
        folder: ``arms/<arm>/seed<k>``.
        fingerprint: What determined the run.

    Returns:
        dict: The content of ``result.json``.
    """
    session, log = trainer.session, trainer.log
    position, best = log.position, log.best
    assert best is not None  # noqa: S101 - every recipe has at least one epoch
    model, heads = session.raw, session.heads
    costs = {**model_costs(model, heads), **optimizer_costs(session.optimizer, model, heads)}
    evaluated = session.evaluated
    last = {key: value.detach().to("cpu", copy=True) for key, value in evaluated.state_dict().items()}
    weights: dict[str, tuple[int, dict[str, Tensor]]] = {
        "last": (position.epoch - 1, last),
        "best": (best["epoch"], best["weights"]),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, (epoch, tensors) in weights.items():
        if session.accelerator.is_main_process:
            labels: dict[str, str | int] = {
                "recipe": trainer.recipe.name,
                "arm": trainer.arm,
                "seed": trainer.seed,
                "epoch": epoch,
            }
            labels |= posthoc_labels(trainer.recipe.arms[trainer.arm], trainer.class_counts)
            trainer.states.guard()
            save_weights(folder / f"{name}.safetensors", tensors, **labels)
        if name == "best" and epoch == weights["last"][0]:
            figures["best"] = figures["last"]
            continue
        evaluated.load_state_dict(tensors)
        if name == "last" and trainer.seed == trainer.recipe.seeds[0]:
            show_features(session, trainer.recipe, splits, folder)
        readout = best.get("readout") if name == "best" else log.readout
        figures[name] = {"epoch": epoch, **_test_figures(trainer, evaluated, splits, readout)}
    result = {
        "arm": trainer.arm,
        "seed": trainer.seed,
        "complete": True,
        "epochs": position.epoch,
        "steps": position.updates,
        "train_time": position.train_time,
        "align_time": position.align_time or None,
        "collapse_time": collapse_time(log.initial, log.records),
        "md_time": collapse_time(log.initial, log.records, "md_time"),
        "images_per_s": position.images / (position.train_time - position.align_time),
        "peak_memory_bytes": log.peak_memory or None,
        **costs,
        "initial": log.initial,
        **figures,
        "weights": "model" if session.ema is None else "moving average",
        "device": _device_name(session.accelerator.device),
        "fingerprint": dict(fingerprint),
    }
    if session.accelerator.is_main_process:
        trainer.states.guard()
        bound = files_sha256(folder, ("metrics.jsonl", "last.safetensors", "best.safetensors"))
        write_json(folder / "result.json", seal({**result, **bound}))
        trainer.states.previous.unlink(missing_ok=True)  # nothing is left to fall back for
    session.accelerator.wait_for_everyone()
    return result


def _test_figures(
    trainer: Trainer, model: nn.Module, splits: Splits, readout: Readout | None
) -> dict[str, Any]:
    session = trainer.session

    def tick(images: int) -> None:
        # The last epoch's checkpoint is on disk: a resumed run comes straight back here.
        if (signum := trainer.stop.alone(session.accelerator)) is not None:
            raise Interrupted(signum, str(trainer.states.path))

    # Without one the evaluation would fit it to the test set.
    assert readout is not None or not trainer.multilabel  # noqa: S101 - every validation pass fits one
    share = eval_share(splits.test, trainer.recipe, session.accelerator)
    metrics, _ = trainer.measure(model, share, readout, tick, detailed=True)
    if session.memorization is not None:
        with session.accelerator.autocast():
            metrics |= dilation_of(model, share, splits.num_classes, tick)
    if splits.ood is not None:
        with session.accelerator.autocast():
            metrics |= ood_figures(trainer.recipe, trainer.arm, model, splits, session.accelerator, tick)
    return {f"test_{name}": value for name, value in metrics.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
