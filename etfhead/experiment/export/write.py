"""Export a model of a run: choose, rebuild, fold, write, read back, compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from etfhead.experiment.export.card import model_card
from etfhead.experiment.export.choice import Choice, Weights, rank_models
from etfhead.experiment.export.config import describe_heads, model_config
from etfhead.experiment.export.folder import CARD, check_target, replace_folder
from etfhead.experiment.export.formats import (
    FORMATS,
    INSTALL_ONNX,
    TOLERANCE,
    Logits,
    missing_packages,
    reload,
    write_format,
)
from etfhead.experiment.export.trained import TrainedModel, load_trained
from etfhead.experiment.files import write_text
from etfhead.experiment.report.formatting import size as human_size
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize_records
from etfhead.surgery import find_classifiers, find_heads, fold_head

__all__ = ["Exported", "export_run"]

_STOCK = ("timm", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        folder: Where.
        choice: Which model of the run.
        difference: Largest difference of its logits to the trained model's on random images; None if nothing
            could read the export back.
        largest_logit: For comparison.
        head: What became of the head, in words.
        notes: What else the user should know.
    """

    folder: Path
    choice: Choice
    difference: float | None
    largest_logit: float
    head: str
    notes: tuple[str, ...]


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    format_name: str = "timm",
    arm: str | None = None,
    seed: int | None = None,
    weights: Weights = "best",
    overwrite: bool = False,
) -> Exported:
    """Write a trained model as a folder that loads without etfhead.

    The export is read back and its logits on random images are compared with the trained model's before the
    folder takes its name.

    Args:
        run: A folder written by ``etfhead run``.
        out: Folder to write; default ``RUN/exports/<arm>-seed<k>-<weights>-<format>``.
        format_name: One of :data:`FORMATS`. ``"timm"`` and ``"safetensors"`` need a head that folds into a
            plain layer; without ``arm`` the best arm that has one is taken.
        arm: Arm; None takes the best on validation.
        seed: Seed; None takes the arm's best on validation.
        weights: Those of the best epoch or of the last.
        overwrite: Replace an earlier export in ``out``.

    Raises:
        ValueError: If run, arm, seed, format or folder do not allow it, or the logits differ.
        OSError: If the folder cannot be written.
    """
    if format_name not in FORMATS:
        raise ValueError(f"format {format_name!r}: expected one of {', '.join(FORMATS)}")
    if lacking := missing_packages(format_name):
        raise ValueError(f"format onnx needs {' and '.join(lacking)}, not installed; {INSTALL_ONNX}")
    records = read_run(run)
    ranked = rank_models(records, arm=arm, seed=seed, weights=weights)
    if out is not None:
        if not str(out):
            raise ValueError("out: an empty name; name a folder with --out, or leave it out")
        check_target(Path(out), overwrite=overwrite)
    notes: list[str] = []
    for choice in ranked:
        trained = load_trained(records, choice)
        heads = describe_heads(trained.model)
        images = _random_images(trained)
        with torch.no_grad():
            expected = trained.logits(images)
        if format_name in _STOCK:
            _check_timms(trained.recipe.model)
        try:
            model, head = _stock_model(trained, format_name)
        except ValueError as error:
            if choice is ranked[-1] or arm is not None:
                raise ValueError(_unfoldable(ranked, choice, error, arm)) from error
            notes.append(f"passed over {choice.arm}, which was better on validation: {error}")
            continue
        break
    folder = Path(out) if out is not None else _default_folder(records.folder, choice, format_name)
    check_target(folder, overwrite=overwrite)
    config = model_config(trained, heads, format_name)
    summary = summarize_records(records)
    found: list[float] = []

    def fill(fresh: Path) -> None:
        write_format(format_name, model, config, fresh)
        write_text(fresh / CARD, model_card(trained, config, summary))
        logits = reload(format_name, fresh)
        if logits is not None:
            found.append(_compare(logits, images, expected, TOLERANCE[format_name]))

    replace_folder(folder, fill)
    if not found:
        notes.append(f"not compared with the trained model: onnxruntime is not installed; {INSTALL_ONNX}")
    return Exported(
        folder=folder,
        choice=choice,
        difference=found[0] if found else None,
        largest_logit=expected.abs().max().item(),
        head=head,
        notes=tuple(notes),
    )


def _default_folder(run: Path, choice: Choice, format_name: str) -> Path:
    return run / "exports" / f"{choice.arm}-seed{choice.seed}-{choice.weights}-{format_name}"


def _random_images(trained: TrainedModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, *trained.data_config["input_size"], generator=generator)


class _Adjusted(nn.Module):
    """A model whose logits a shift is subtracted from."""

    def __init__(self, model: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(images)
        return found - self.get_buffer("shift")


def _stock_model(trained: TrainedModel, format_name: str) -> tuple[nn.Module, str]:
    """The model with its heads folded, in place, where that is possible; and in words what was done.

    Raises:
        ValueError: If the format needs a stock model and this one cannot become one.
    """
    model, shift = trained.model, trained.shift
    names, adjusted = list(find_heads(model)), "" if shift is None else ", with the posthoc adjustment"
    if names:
        try:
            fold_head(model)
        except ValueError:
            if format_name in _STOCK:
                raise
            done = f"kept as it is at {', '.join(names)}: it does not fold into a plain layer{adjusted}"
            return (model if shift is None else _Adjusted(model, shift)).eval(), done
    layers = find_classifiers(model)
    if shift is not None:
        for layer in layers.values():
            bias = layer.bias if isinstance(layer.bias, Tensor) else torch.zeros_like(shift)
            layer.bias = nn.Parameter(bias.detach() - shift.to(bias), requires_grad=False)
    if not names:
        return model, f"a plain layer already{adjusted}"
    size = sum(p.numel() * p.element_size() for layer in layers.values() for p in layer.parameters())
    return model, f"folded into a plain layer at {', '.join(names)}, {human_size(size)}{adjusted}"


def _check_timms(name: str) -> None:
    from timm.models import model_entrypoint

    if not model_entrypoint(name).__module__.startswith("timm."):
        raise ValueError(f"{name!r} is not a model of timm; use --format onnx or torch-export")


def _unfoldable(ranked: list[Choice], choice: Choice, error: ValueError, arm: str | None) -> str:
    arms = choice.arm if arm is not None or len(ranked) == 1 else ", ".join(c.arm for c in ranked)
    return f"{arms}: no plain layer has the same logits ({error}); use --format onnx or torch-export"


def _compare(logits: Logits, images: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """Largest absolute difference, with the whole batch and with its first image alone."""
    differences = []
    for count in (len(images), 1):
        with torch.no_grad():
            found = logits(images[:count])
        if found.shape != expected[:count].shape:
            shapes = tuple(found.shape), tuple(expected[:count].shape)
            raise ValueError(f"the export gives logits of shape {shapes[0]}, the model {shapes[1]}")
        differences.append((found - expected[:count]).abs().max())
    largest = torch.stack(differences).max().item()  # unlike Python's, this max keeps NaN
    bound = tolerance * max(1.0, expected.abs().max().item())
    if not largest <= bound:
        raise ValueError(
            f"the export's logits differ from the trained model's by {largest:.2e}, more than {bound:.2e}; "
            "nothing was written"
        )
    return largest
