"""What torchmetrics leaves open for metrics whose states are sums in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from torch import Tensor
from torchmetrics import Metric

from etfhead.metrics._plot import Axis, plot_figures

__all__ = ["WideMetric"]


class WideMetric(Metric):
    """A metric whose states keep their type, and outlive a batch or a result that fails.

    Casting the module around it (``lightning_module.to(torch.bfloat16)``) leaves states, class vectors and
    features kept as they are: sums in half precision would be worthless. ``metric(features, labels)`` adds
    the batch and gives the batch's own figures; a batch that has none raises, and has been added. States come
    back from other processes' after a ``compute`` that raises, so that ``update`` may go on.
    """

    full_state_update: bool | None = True
    plotted: ClassVar[tuple[str, ...]] = ()  # figures that plot() draws, where they are always the same

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        super()._apply(moved, exclude_state)
        return self

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As torchmetrics', which does not bring a process' own states back after an error."""
        context = super().sync_context(*args, **kwargs)
        context.__enter__()
        try:
            yield
        finally:
            context.__exit__(None, None, None)

    def _forward_full_state_update(self, *args: Any, **kwargs: Any) -> Any:
        """As torchmetrics', which loses all states after an error, and copies them for every batch."""
        self.update(*args, **kwargs)
        states = {name: getattr(self, name) for name in self._defaults}
        held = {name: list(state) if isinstance(state, list) else state for name, state in states.items()}
        count, on_cpu = self._update_count, self.compute_on_cpu
        self._to_sync, self._should_unsync, self.compute_on_cpu = self.dist_sync_on_step, False, False
        try:
            self.reset()
            self.update(*args, **kwargs)
            return self.compute()
        finally:
            for name, state in held.items():
                setattr(self, name, state)
            self._update_count, self._computed, self._is_synced = count, None, False
            self._to_sync, self._should_unsync, self.compute_on_cpu = self.sync_on_compute, True, on_cpu

    def _forward_reduce_state_update(self, *args: Any, **kwargs: Any) -> Any:
        """The same where the states of batches just add up: torchmetrics' loses them after an error, too."""
        return self._forward_full_state_update(*args, **kwargs)

    def plot(
        self, val: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | None = None, ax: Axis | None = None
    ) -> Any:
        """Draw the main figures: of one result, or of several against their number.

        Args:
            val: What :meth:`compute` returned, or a list of that; None computes.
            ax: Matplotlib axis to draw in; None makes a figure.

        Returns:
            Figure and axis.
        """
        given = self.compute() if val is None else val
        rows = [given] if isinstance(given, Mapping) else given
        return plot_figures(given, self._names_to_plot(rows), ax)

    def _names_to_plot(self, rows: Sequence[Mapping[str, Tensor]]) -> tuple[str, ...]:
        """The figures that plot() draws of these results."""
        return self.plotted
