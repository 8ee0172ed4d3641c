"""One training step of a session: forward, backward, update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import is_multilabel, is_regression, stand_in_targets
from etfhead.experiment.training.session import Session

__all__ = [
    "explained",
    "forward",
    "names_a_label",
    "names_the_class",
    "training_figure",
    "update_weights",
    "warm_up",
]

CountHits = Callable[[Tensor, Tensor, Tensor], Tensor]


def forward(
    session: Session, images: Tensor, target: Tensor, index: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, what the model gave, classes it names, with the images and targets they were taken at.

    ``index`` holds the images' positions in the training split, for a loss that remembers them.
    """
    device = session.accelerator.device
    images = images.to(device, non_blocking=True, memory_format=session.memory_format)
    target = target.to(device, non_blocking=True)
    if session.mixup is not None:
        images, target = session.mixup(images, target)
    outputs = session.model(images).float()
    if session.fused:  # the outputs are features
        loss, predicted = session.criterion.with_predictions(outputs, target)
    elif index is not None:
        loss = session.criterion(outputs, target, index.to(device, non_blocking=True))
        predicted = outputs.argmax(1)
    else:
        loss, predicted = session.criterion(outputs, target), outputs.argmax(1)
    return loss, outputs, predicted, images, target


def update_weights(session: Session, loss: Tensor, clip_grad: float | None) -> None:
    """Backward pass and one step of the optimizer."""
    session.optimizer.zero_grad()
    session.accelerator.backward(loss)
    if clip_grad is not None:
        session.accelerator.clip_grad_norm_(session.raw.parameters(), clip_grad)
    session.optimizer.step()


def names_the_class(predicted: Tensor, target: Tensor) -> Tensor:
    """Whether the class a model names is the sample's, or the heavier one of a mixed sample."""
    return predicted == (target.argmax(1) if target.ndim == 2 else target)


def names_a_label(predicted: Tensor, target: Tensor) -> Tensor:
    """Whether the class a model names is one of the sample's labels, multi-hot (B, K)."""
    return target.gather(1, predicted[:, None])


def explained(outputs: Tensor, target: Tensor) -> Tensor:
    """One minus the squared error of standardised targets (B, n), (B,): its mean is the R2 of training."""
    return 1 - (outputs.detach() - target).square().mean(1)


def training_figure(dataset: str) -> tuple[str, CountHits]:
    """The figure that an epoch of training gives by the way: its name, and each sample's part in it.

    Args:
        dataset: Says which task it is.

    Returns:
        The key in ``metrics.jsonl``, and a function of outputs, predicted classes and targets.
    """
    if is_regression(dataset):
        return "train_r2", lambda outputs, predicted, target: explained(outputs, target)
    if is_multilabel(dataset):
        return "train_precision_at_1", lambda outputs, predicted, target: names_a_label(predicted, target)
    return "train_top1", lambda outputs, predicted, target: names_the_class(predicted, target)


def warm_up(session: Session, recipe: Recipe, num_classes: int) -> None:
    """One step that changes nothing, so that no arm's clock pays for kernels, threads and caches.

    The first arm of a process would otherwise look slower than the others.
    """
    images = torch.rand(session.share, recipe.in_chans, recipe.img_size, recipe.img_size)
    buffers = [(buffer, buffer.clone()) for buffer in session.raw.buffers()]
    session.train_mode()
    if session.stateful:
        session.criterion.eval()  # or it would remember these images
    forward(session, images, stand_in_targets(recipe, session.share, num_classes))[0].backward()
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    session.optimizer.zero_grad()
    if session.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
