"""The squared error that regression arms train with, in the normalisation of the theorem."""

from __future__ import annotations

from torch import Tensor, nn

from etfhead.losses import squared_error

__all__ = ["HalfSquaredError"]


class HalfSquaredError(nn.Module):
    r"""Half the squared error, summed over targets and averaged over samples.

    .. math:: \frac{1}{2B} \sum_{i=1}^{B} \lVert T (\hat y_i - y_i) \rVert^2

    This is the loss of Andriopoulos et al. (NeurIPS 2024, arXiv 2409.04180), so a weight decay of a recipe is
    their lambda. ``nn.functional.mse_loss`` also averages over the n targets: beside it the same weight decay
    acts n / 2 times as strongly. T is the identity, or Sigma^{-1/2} for whitened targets.

    Args:
        whitening: T, (n, n); None for the identity.

    Shape:
        - outputs, target: (B, n).
        - output: ().

    >>> import torch
    >>> HalfSquaredError()(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).item()
    2.5
    """

    whitening: Tensor | None

    def __init__(self, whitening: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("whitening", None if whitening is None else whitening.float(), persistent=False)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch."""
        outputs, target = outputs.float(), target.float()
        if self.whitening is not None:
            whitening = self.whitening.to(outputs)
            outputs, target = outputs @ whitening.T, target @ whitening.T
        return squared_error(outputs, target)
