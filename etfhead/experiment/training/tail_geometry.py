"""How far the linear tail of a training is from the optimum that theory predicts for its class counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from etfhead.experiment.training.linear_tail import DecayedTail, tail_product
from etfhead.frames.deep_linear import deep_linear_geometry
from etfhead.frames.last_layer import LastLayer
from etfhead.losses import SquaredErrorLoss
from etfhead.metrics import frame_distance
from etfhead.surgery.class_pass import evaluating

__all__ = ["TailGeometry", "is_predicted", "tail_optimum"]


def is_predicted(criterion: nn.Module) -> TypeGuard[DecayedTail]:
    """Whether theory knows where a training loss ends: squared error with the decays of its tail."""
    return isinstance(criterion, DecayedTail) and isinstance(criterion.loss, SquaredErrorLoss)


def tail_optimum(criterion: DecayedTail, class_counts: Sequence[int]) -> LastLayer:
    """The optimum that theory predicts for the layers, decays and counts of a training.

    Raises:
        ValueError: If every class collapses at these decays, which leaves nothing to compare.
    """
    optimum = deep_linear_geometry(
        class_counts,
        weight_decays=[criterion.weight_decay] * len(criterion.layers),
        feature_decay=criterion.feature_decay,
        bias=criterion.layers[-1].bias is not None,
    )
    if not bool(optimum.weight_gram.any()):
        raise ValueError("tail_decay: so large that every class collapses; lower the decays")
    return optimum


class TailGeometry:
    r"""Measures the layers' product W, class means and their products against the deep linear optimum.

    NC2 and NC3 of Dang et al. 2023 (arXiv 2301.00437): distances of W W^T, H^T H and W H, each divided by its
    norm, from :func:`~etfhead.frames.deep_linear.deep_linear_geometry` at the training's counts and decays.

    Args:
        model: Evaluated.
        criterion: Its loss, with layers and decays.
        loader: Images and classes of the training split, without augmentation.
        class_counts: Training images of each class.

    Raises:
        ValueError: If every class collapses at these decays, which leaves nothing to compare.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: DecayedTail,
        loader: Iterable[tuple[Tensor, Tensor]],
        class_counts: Sequence[int],
    ) -> None:
        self.model, self.criterion, self.loader = model, criterion, loader
        self.num_classes = len(class_counts)
        self.target = tail_optimum(criterion, class_counts)

    @torch.no_grad()
    def measure(self, *, tick: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """Run the model over the images and measure.

        Args:
            tick: Called with the number of images after each batch; may raise to stop.

        Returns:
            dict: ``tail_weights``, ``tail_means`` and ``tail_product`` (as far as they have a value),
            ``tail_nc1`` (spread within classes over that of the class means from the origin),
            ``tail_balanced`` (distance of W W^T from that of equal counts, for comparison), and ``tail_time``
            in seconds.
        """
        began = time.perf_counter()
        layers = self.criterion.layers
        device = layers[0].weight.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.zeros(self.num_classes, layers[0].in_features, dtype=wide, device=device)
        counts = torch.zeros(self.num_classes, dtype=wide, device=device)
        energy = torch.zeros((), dtype=wide, device=device)
        seen: list[Tensor] = []
        hook = layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            with torch.random.fork_rng(devices=[]), evaluating(self.model):
                for images, target in self.loader:
                    self.model(images.to(device, non_blocking=True))
                    features, target = seen.pop().to(wide), target.to(device)
                    sums.index_add_(0, target, features)
                    counts += torch.bincount(target, minlength=self.num_classes)
                    energy += features.square().sum()
                    tick(len(target))
        finally:
            hook.remove()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for total in (sums, counts, energy):
                torch.distributed.all_reduce(total)
        means = (sums / counts.clamp(min=1)[:, None]).cpu()
        between = (counts.cpu() * means.square().sum(1)).sum()
        figures = {"tail_nc1": ((energy.cpu() - between) / between).item()} if between > 0 else {}
        try:
            found = frame_distance(means, self.target, weight=tail_product(layers).cpu())
            figures |= {f"tail_{name}": value.item() for name, value in found.items()}
            gram = tail_product(layers).cpu()
            gram = gram @ gram.T
            figures["tail_balanced"] = (gram / gram.norm() - self._balanced()).norm().item()
        except ValueError:  # everything has collapsed to zero: that has no shape
            pass
        return {**figures, "tail_time": time.perf_counter() - began}

    def _balanced(self) -> Tensor:
        K = self.num_classes
        gram = torch.eye(K, dtype=torch.float64)
        if self.criterion.layers[-1].bias is not None:
            gram = gram - 1.0 / K
        return gram / gram.norm()
