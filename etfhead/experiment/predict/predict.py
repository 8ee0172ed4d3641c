"""From image files to classes with probabilities, or to label sets, one prediction a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etfhead.experiment.predict.images import decoded_batches
from etfhead.experiment.predict.predictor import Predictor

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about one file.

    Args:
        file: The file.
        top: ``(class name, its index, probability)`` of the most probable classes, the first ahead. On
            multi-label data probabilities are one a label and need not sum to one.
        labels: On multi-label data the label set; None for one class an image.
        error: Why the file could not be read; ``top`` is then empty.
    """

    file: Path
    top: tuple[tuple[str, int, float], ...] = ()
    labels: tuple[str, ...] | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: ``file`` and ``predictions``, ``labels`` for label sets, or ``error``.

        >>> Prediction(file=Path("a.png"), top=(("cat", 3, 0.75),)).as_dict()
        {'file': 'a.png', 'predictions': [{'label': 'cat', 'index': 3, 'probability': 0.75}]}
        """
        entry: dict[str, Any] = {"file": str(self.file)}
        if self.error is not None:
            return {**entry, "error": self.error}
        if self.labels is not None:
            entry["labels"] = list(self.labels)
        keys = ("label", "index", "probability")
        entry["predictions"] = [dict(zip(keys, row, strict=True)) for row in self.top]
        return entry


def predict(
    predictor: Predictor, paths: Sequence[Path], *, top_k: int = 5, batch_size: int = 64, workers: int = 0
) -> Iterator[Prediction]:
    """Predict files in batches; a file that cannot be read gives a prediction with its ``error``.

    Args:
        predictor: From :func:`~etfhead.experiment.predict.predictor.load_predictor`.
        paths: Image files, from :func:`~etfhead.experiment.predict.images.find_images`.
        top_k: Classes of each prediction, at most all.
        batch_size: Images a forward pass.
        workers: Processes that decode.

    Yields:
        One prediction a file, in their order.

    Raises:
        ValueError: If an argument is out of range, the memory does not suffice for a batch, or the model's
            logits are not finite.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k}: expected at least 1")
    batches = decoded_batches(paths, predictor.data_config, batch_size=batch_size, workers=workers)
    for files, images, reasons in batches:
        found: Iterator[Prediction] = iter(())
        if images is not None:
            read = [file for place, file in enumerate(files) if place not in reasons]
            found = iter(_decide(predictor, read, _logits(predictor, images), top_k))
        for place, file in enumerate(files):
            yield Prediction(file=file, error=reasons[place]) if place in reasons else next(found)


def _logits(predictor: Predictor, images: Tensor) -> Tensor:
    try:
        logits = predictor.logits(images)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"no memory for a batch of {len(images)} images; take a smaller --batch-size"
        ) from error
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite; its weights are damaged")
    return logits


def _decide(predictor: Predictor, files: Sequence[Path], logits: Tensor, top_k: int) -> list[Prediction]:
    names = predictor.class_names
    sets: list[tuple[str, ...] | None] = [None] * len(files)
    if predictor.readout is None or predictor.arm is None:
        probabilities = logits.double().softmax(1)
    else:
        from etfhead.experiment.training.label_figures import decide, label_scores

        readout, arm = predictor.readout, predictor.arm
        probabilities = (label_scores(arm, logits).double() - readout["threshold"]).sigmoid()
        hot = decide(arm, logits, readout, arm.decode or "threshold")
        sets = [tuple(names[index] for index in row.nonzero().flatten().tolist()) for row in hot]
    # The logits break ties that probabilities round to: a class at 1.0 and another at 1.0.
    order = logits.topk(min(top_k, len(names)), dim=1).indices
    values = probabilities.gather(1, order)
    return [
        Prediction(
            file=file,
            top=tuple((names[i], i, p) for i, p in zip(indices.tolist(), row.tolist(), strict=True)),
            labels=labels,
        )
        for file, indices, row, labels in zip(files, order, values, sets, strict=True)
    ]
