"""What reaches a model's last layer on images that it is not trained on in passing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from etfhead.metrics.last_layer_input import uncompiled, watching
from etfhead.surgery.class_pass import evaluating

__all__ = ["layer_features"]


@torch.no_grad()
def layer_features(
    model: nn.Module,
    layer: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    see: Callable[[Tensor, Tensor, list[Tensor]], None],
    tick: Callable[[int], None] = lambda images: None,
) -> None:
    """Run a model in evaluation mode and hand each batch to ``see(features, scores, labels)``.

    Modes, buffers and the CPU's random state stay as they were.

    Args:
        model: Not wrapped.
        layer: Its last one: features (B, d) are those that its class vectors multiply, scores (B, K).
        batches: Images and one or more labels (B,) each.
        see: Takes them, all on the model's device; images whose features are not finite are left out.
        tick: Called with the number of images after each batch; may raise to stop.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    labels: list[Tensor] = []

    def hook(features: Tensor, scores: Tensor) -> None:
        finite = features.isfinite().all(1)
        see(features[finite], scores[finite], [each.to(device)[finite] for each in labels])

    with torch.random.fork_rng(devices=[]), evaluating(model), watching(layer, hook), uncompiled():
        for images, *labels in batches:  # noqa: B007 - the hook reads them
            model(images.to(device, non_blocking=True))
            tick(len(images))
