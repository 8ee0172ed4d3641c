"""The label's log-probability and sums over all classes, with one gradient buffer for them together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.losses._class_terms import Term

__all__ = ["class_sums"]


def class_sums(x: Tensor, target: Tensor, *terms: Term) -> tuple[Tensor, ...]:
    r"""The label's log-probability, and sums over the classes.

    .. math:: \log p_y, \quad \sum_k f_1(\log p_k), \quad \sum_k f_2(\log p_k), \quad \ldots

    In plain autograd each of them fills gradients of its own and adds them up.

    Args:
        x: Log-probabilities (B, K). If one of the terms is of the probabilities, logits do as well: these
            need a softmax anyway, and it takes log-probabilities to their exponentials.
        target: Checked: classes (B,), or weights (B, K), of which the first result is the weighed sum; x is
            log-probabilities then.
        *terms: f.

    Returns:
        tuple[Tensor, ...]: One (B,) for the label, one for each term; twice differentiable.

    >>> from etfhead.losses._class_terms import Square
    >>> log_p = torch.tensor([[0.25, 0.75]]).log()
    >>> own, total = class_sums(log_p, torch.tensor([1]), Square())
    >>> own.exp(), total
    (tensor([0.7500]), tensor([0.6250]))
    """
    if torch.compiler.is_compiling():  # a compiler fuses by itself
        log_p = torch.log_softmax(x, 1) if any(term.of_p for term in terms) else x
        own = log_p.gather(1, target[:, None])[:, 0] if target.ndim == 1 else (target * log_p).sum(1)
        return own, *(term.values(log_p).sum(1) for term in terms)
    keep = x.requires_grad and torch.is_grad_enabled()
    if target.ndim == 2:  # the weights may have gradients too
        return (target * x).sum(1), *_ClassSums.apply(x, None, terms, keep)[: len(terms)]
    return tuple(_ClassSums.apply(x, target, terms, keep)[: 1 + len(terms)])


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, target: Tensor | None, terms: tuple[Term, ...], keep: bool) -> tuple[Any, ...]:
        of_p = any(term.of_p for term in terms)
        if of_p and x.is_cuda:
            log_p = torch.log_softmax(x, 1)
            p = log_p.exp()
        elif of_p:
            # On a CPU, log-probabilities from probabilities take a third of the time of the reverse.
            p = torch.softmax(x, 1)
            largest, log_sum = x.amax(1, keepdim=True), p.amax(1, keepdim=True).log_().neg_()
            log_p = (x - largest).sub_(log_sum) if any(term.of_log_p for term in terms) else x
        else:
            p = log_p = x
        pairs = [term.sums(log_p, p, keep) for term in terms]
        if of_p and log_p is x:
            for term, (total, _) in zip(terms, pairs, strict=True):
                if term.linear:  # no digits are lost that the logits have
                    total.sub_((largest + log_sum)[:, 0], alpha=x.shape[1])
        own = []
        if target is not None:
            label = log_p.gather(1, target[:, None])
            own = [(label - largest - log_sum if of_p and log_p is x else label)[:, 0]]
        shared = (p if of_p else None, log_p if of_p and any(term.recalls_log_p for term in terms) else None)
        return *own, *(sums for sums, _ in pairs), *(kept for _, kept in pairs), *shared

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, target, terms, _ = inputs
        kept = output[len(output) - len(terms) - 2 :]
        ctx.mark_non_differentiable(*(state for state in kept if state is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, target, *kept)
        ctx.terms = terms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        x, target, *kept, p, log_p = ctx.saved_tensors
        of_own, of_sums = (None, grads) if target is None else (grads[0], grads[1:])
        asked = [
            (term, grad[:, None], state)
            for term, grad, state in zip(ctx.terms, of_sums, kept, strict=False)
            if grad is not None
        ]
        if torch.is_grad_enabled():  # to be differentiated once more
            log_p = x if p is None else torch.log_softmax(x, 1)
            total = torch.zeros_like(x)
            for term, grad, _ in asked:
                total = total + grad * term.derivative(log_p)
            if of_own is not None:
                total = total.scatter_add(1, target[:, None], of_own[:, None])
            if p is not None:
                total = total - log_p.exp() * total.sum(1, keepdim=True)
            return total, None, None, None
        log_p = x if log_p is None else log_p
        parts = [term.slope(log_p, p, state, grad) for term, grad, state in asked]
        if not parts:
            total = torch.zeros_like(x)
        else:
            total = parts[0] if parts[0].shape == x.shape else parts[0].expand_as(x).contiguous()
            for part in parts[1:]:
                total.add_(part)
        if of_own is not None:
            total.scatter_add_(1, target[:, None], of_own[:, None])
        if p is not None:
            total.addcmul_(p, total.sum(1, keepdim=True), value=-1.0)
        return total, None, None, None
