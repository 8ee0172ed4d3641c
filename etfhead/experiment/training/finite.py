"""Find the first step whose numbers are not finite, without waiting for the GPU at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FiniteWatch", "first_non_finite", "non_finite_state", "optimizer_tensors"]

_NEVER = torch.iinfo(torch.int64).max
_WINDOW = 25


class FiniteWatch:
    """Remembers, on the device, the first step with NaN or Inf in images, logits or loss.

    Asking costs a synchronisation, so on a GPU it is asked once in 25 steps (and before anything is
    written); the answer is the exact step all the same.

    Args:
        device: Where the training runs.

    >>> watch = FiniteWatch(torch.device("cpu"))
    >>> watch.see(6, torch.zeros(2), torch.zeros(2), torch.tensor(0.5))
    >>> watch.see(7, torch.zeros(2), torch.tensor([0, float("inf")]), torch.tensor(0.5))
    >>> watch.first()
    (7, 'logits')
    """

    KINDS = ("images", "logits", "loss")  # a cause stands before its consequences

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._every = 1 if device.type == "cpu" else _WINDOW
        self._first = torch.full((len(self.KINDS),), _NEVER, dtype=torch.int64, device=device)

    def see(self, step: int, images: Tensor, logits: Tensor, loss: Tensor) -> None:
        """Look at one step; nothing is read back."""
        fine = torch.stack([_all_finite(tensor.detach()) for tensor in (images, logits, loss)])
        self._first = torch.where(fine, self._first, self._first.clamp(max=step))

    def due(self, done: int) -> bool:
        """Whether to ask after this many steps."""
        return done % self._every == 0

    def first(self) -> tuple[int, str] | None:
        """The first bad step and what was not finite in it, or None."""
        steps = self._first.tolist()
        worst = min(steps)
        return None if worst == _NEVER else (worst, self.KINDS[steps.index(worst)])


def _all_finite(tensor: Tensor) -> Tensor:
    # NaN spreads to both extremes. They are found in one reading; isfinite fills four tensors of this size.
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)  # or aminmax would copy it
    return torch.stack(tensor.aminmax()).isfinite().all()


def first_non_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first floating tensor that holds NaN or Inf; one read-back for all when there is none."""
    floating = [(name, tensor) for name, tensor in named if tensor.is_floating_point()]
    for device in dict.fromkeys(tensor.device for _, tensor in floating):  # optimizers count on the CPU
        here = [(name, tensor) for name, tensor in floating if tensor.device == device]
        if not bool(torch.stack([_all_finite(tensor) for _, tensor in here]).all()):
            return next(name for name, tensor in here if not bool(_all_finite(tensor)))
    return None


def non_finite_state(state: Mapping[str, Any]) -> str | None:
    """What in a session's state is not finite, in words; None where a run could go on from it."""
    named = [*state["model"].items(), *(state["ema"] or {}).items()]
    if (name := first_non_finite(named)) is not None:
        return f"the weights ({name}) are not finite"
    if (name := first_non_finite(optimizer_tensors(state["optimizer"]))) is not None:
        return f"the optimizer's state ({name}) is not finite"
    return None


def optimizer_tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of an optimizer's state dict with names for a message: a run could not go on from NaN in one.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> [name for name, _ in optimizer_tensors(optimizer.state_dict())]
    ['momentum_buffer of parameter 0']
    """
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                yield f"{key} of parameter {index}", value
