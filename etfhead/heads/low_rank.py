"""A learnable correction of small rank on top of fixed class vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etfhead.frames.base import checked_size

__all__ = ["LowRank"]


class LowRank(nn.Module):
    r"""Linear map of rank r from features to logits: x -> A (B x), zero at the start.

    .. math:: A \in \mathbb{R}^{K \times r}, \quad B \in \mathbb{R}^{r \times d}, \quad
              A_0 = 0, \quad B_0 B_0^\top = I

    (The start of Hu et al., "LoRA", arXiv 2106.09685, with orthonormal instead of Gaussian rows.) It has
    r (K + d) parameters, and costs O(r (K + d)) a sample.

    Args:
        rank: r, from 1 to the smaller of K and d.
        in_features: d.
        num_classes: K.
        seed: Seed of B.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Raises:
        ValueError: If the rank does not fit.

    >>> correction = LowRank(2, 8, 100)
    >>> sum(p.numel() for p in correction.parameters()), correction(torch.ones(1, 8)).abs().max().item()
    (216, 0.0)
    """

    def __init__(
        self,
        rank: int,
        in_features: int,
        num_classes: int,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.seed = checked_size("low_rank", rank, 1), seed
        if self.rank > min(in_features, num_classes):
            raise ValueError(
                f"low_rank={rank}: expected at most {min(in_features, num_classes)}, the smaller of "
                "in_features and num_classes; a correction of full rank is a learnable head"
            )
        self.left = nn.Parameter(torch.empty(num_classes, self.rank, device=device, dtype=dtype))
        self.right = nn.Parameter(torch.empty(self.rank, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A zero, B orthonormal from the seed; the same values on every device."""
        if self.left.is_meta:
            return
        generator = torch.Generator("cpu").manual_seed(self.seed)
        shape = self.right.shape[::-1]
        gaussian = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        q, r = torch.linalg.qr(gaussian)
        self.right.copy_((q * r.diagonal().sign()).T)
        self.left.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """A (B x) of features (..., d): (..., K)."""
        return nn.functional.linear(nn.functional.linear(features, self.right), self.left)

    def matrix(self) -> Tensor:
        """A B, (K, d)."""
        return self.left @ self.right

    def extra_repr(self) -> str:
        """Rank and parameters for ``print(model)``."""
        return f"rank={self.rank}, parameters={self.left.numel() + self.right.numel()}"
