"""Label noise: symmetric, pair flips, by class and by instance, with what it really came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["CLASS_FLIPS", "LabelNoise", "add_label_noise", "flip_matrix"]

Kind = Literal["symmetric", "asymmetric", "pairflip", "instance"]
_SPREAD = 0.1  # standard deviation of the flip rates of instances

# CIFAR-100's superclass of each class.
_COARSE = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 "
    "6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 "
    "16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 "
    "12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
)


def _next_of_its_kind() -> dict[int, int]:
    groups: dict[str, list[int]] = {}
    for label, group in enumerate(_COARSE.split()):
        groups.setdefault(group, []).append(label)
    return {a: b for kin in groups.values() for a, b in zip(kin, kin[1:] + kin[:1], strict=True)}


_DIGITS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
# Which class is taken for which. Those of MNIST and CIFAR are the published ones; Fashion-MNIST has no
# established set, and this one is by looks: T-shirt and shirt, pullover and coat, sandal to sneaker.
CLASS_FLIPS: Mapping[str, Mapping[int, int]] = {
    "mnist": _DIGITS,
    "digits": _DIGITS,
    "fashion_mnist": {0: 6, 6: 0, 2: 4, 4: 2, 5: 7},
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    "cifar100": _next_of_its_kind(),
    "synthetic": {0: 1, 1: 0},
}


class LabelNoise(NamedTuple):
    """Noisy labels and what the noise was.

    Attributes:
        labels: Observed labels (N,), int64.
        rate: Share of labels that differ from the true ones.
        transition: P(observed j | true i) that labels were drawn from, (K, K) float64. With instance noise
            its rows are means over the class' samples; a class without one keeps its label.
    """

    labels: Tensor
    rate: float
    transition: Tensor


def flip_matrix(flips: Mapping[int, int], num_classes: int) -> Tensor:
    """Where a chosen label goes, (K, K): to ``flips[i]``, or nowhere; for ``transition``.

    >>> flip_matrix({0: 1}, 2)
    tensor([[0., 1.],
            [0., 1.]], dtype=torch.float64)
    """
    matrix = torch.eye(num_classes, dtype=torch.float64)
    for old, new in flips.items():
        if not (0 <= old < num_classes and 0 <= new < num_classes):
            raise ValueError(f"flips: {old} -> {new} is not within {num_classes} classes")
        matrix[old] = 0.0
        matrix[old, new] = 1.0
    return matrix


def add_label_noise(
    targets: Tensor,
    rate: float,
    kind: Kind = "symmetric",
    *,
    num_classes: int | None = None,
    include_true: bool = False,
    transition: Tensor | None = None,
    features: Tensor | None = None,
    exact: bool = False,
    generator: torch.Generator | None = None,
) -> LabelNoise:
    r"""Draw observed labels from a transition matrix T, or from one of each sample's own.

    - ``"symmetric"``: a share ``rate`` goes to the other classes, each as likely. With ``include_true`` to
      all classes, the true one among them: the labels that change are then rate (K - 1)/K. Papers do either.
    - ``"pairflip"``: a share ``rate`` goes to the next class, y + 1 mod K.
    - ``"asymmetric"``: a share ``rate`` goes where ``transition`` says; see :data:`CLASS_FLIPS`.
    - ``"instance"``: sample i changes with probability q_i ~ N(rate, 0.1^2), truncated to [0, 1], to class j
      with probability softmax(x_i W_y)_j over the others, W ~ N(0, 1) (Xia et al., "Part-dependent label
      noise", NeurIPS 2020, arXiv 2006.07836): similar samples go wrong alike.

    Labels are drawn from the true ones at once, never in place: classes that are flipped into each other
    both lose what was asked.

    Args:
        targets: True labels (N,), integers; not changed.
        rate: Share of labels chosen, in [0, 1).
        kind: ``"symmetric"``, ``"asymmetric"``, ``"pairflip"`` or ``"instance"``.
        num_classes: K; None takes the largest label and ``transition``.
        include_true: Whether a chosen label may stay as it is; symmetric noise only.
        transition: Where chosen labels go, (K, K), rows sum to 1; asymmetric noise needs it, and T is
            (1 - rate) I + rate ``transition``.
        features: x, (N, ...), for instance noise: images as floats, flattened here.
        exact: Give each class its shares of T to the nearest sample in place of independent draws, which
            leave the rate to chance. Not for instance noise.
        generator: On the CPU; None takes torch's default one.

    Raises:
        ValueError: If the rate is not in [0, 1), a row of ``transition`` is no distribution, or options do
            not fit the kind.

    >>> noise = add_label_noise(torch.arange(1000) % 10, 0.4, exact=True)
    >>> noise.rate, noise.transition[0, :2]
    (0.4, tensor([0.6000, 0.0444], dtype=torch.float64))
    """
    y, K = _checked_labels(targets, num_classes, transition)
    if isinstance(rate, bool) or not 0.0 <= rate < 1.0:
        raise ValueError(f"rate={rate!r}: expected a number in [0, 1)")
    if kind not in ("symmetric", "asymmetric", "pairflip", "instance"):
        raise ValueError(f"kind={kind!r}: expected 'symmetric', 'asymmetric', 'pairflip' or 'instance'")
    for name, given, of in (
        ("include_true", include_true, "symmetric"),
        ("transition", transition is not None, "asymmetric"),
        ("features", features is not None, "instance"),
    ):
        if given and kind != of:
            raise ValueError(f"{name}: only for kind={of!r}, not for {kind!r}; leave it out")
    if kind == "instance":
        if exact:
            raise ValueError("exact: each sample has its own rate with kind='instance'; leave it out")
        labels, T = _by_instance(y, K, rate, features, generator)
    else:
        goes = _where_labels_go(kind, K, include_true, transition)
        T = (1.0 - rate) * torch.eye(K, dtype=torch.float64) + rate * goes
        labels = _exact_shares(y, T, generator) if exact else _draws(T[y], generator)
    changed = float((labels != y).double().mean()) if len(y) else 0.0
    return LabelNoise(labels, changed, T)


def _checked_labels(
    targets: Tensor, num_classes: int | None, transition: Tensor | None
) -> tuple[Tensor, int]:
    integral = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not integral or targets.ndim != 1:
        raise ValueError(f"targets: expected integers (N,), got {targets.dtype} {tuple(targets.shape)}")
    y = targets.detach().cpu().long()
    K = num_classes
    if K is None:
        K = int(y.max()) + 1 if len(y) else 2
        if transition is not None:
            K = max(K, len(transition))
    if K < 2:
        raise ValueError(f"num_classes: noise needs at least 2 classes, got {K}; pass num_classes")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < K:
        raise ValueError(f"targets: expected classes from 0 to {K - 1}, got {int(y.min())} to {int(y.max())}")
    return y, K


def _where_labels_go(kind: str, K: int, include_true: bool, transition: Tensor | None) -> Tensor:
    """Where a chosen label goes, (K, K)."""
    eye = torch.eye(K, dtype=torch.float64)
    if kind == "symmetric":
        return torch.full_like(eye, 1.0 / K) if include_true else (1.0 - eye) / (K - 1)
    if kind == "pairflip":
        return eye.roll(1, dims=1)
    if transition is None:
        raise ValueError(
            "transition: missing for kind='asymmetric'; pass where labels go, (K, K), such as "
            "flip_matrix(CLASS_FLIPS['cifar10'], 10)"
        )
    if transition.shape != (K, K):
        raise ValueError(f"transition: expected shape ({K}, {K}), got {tuple(transition.shape)}")
    goes = transition.detach().cpu().double()
    sums = goes.sum(1)
    if not bool((goes >= 0).all()) or not bool(((sums - 1.0).abs() <= 1e-4).all()):
        worst = int((sums - 1.0).abs().nan_to_num(nan=torch.inf).argmax())
        raise ValueError(
            f"transition: expected rows of numbers >= 0 that sum to 1; row {worst} sums to "
            f"{float(sums[worst]):.6g} and its smallest number is {float(goes[worst].min()):.6g}"
        )
    return goes / sums[:, None]


def _draws(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """One class from each row of probabilities, (N,)."""
    steps = rows.cumsum(1)
    at = torch.rand(len(rows), 1, dtype=torch.float64, generator=generator) * steps[:, -1:]
    # The first class whose step lies beyond; one of probability 0 has none.
    return (steps <= at).sum(1).clamp(max=rows.shape[1] - 1)


def _exact_shares(y: Tensor, T: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each class' samples dealt out by the largest remainders of its row."""
    labels = y.clone()
    for k in range(len(T)):
        members = (y == k).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        shares = T[k] * len(members)
        whole = (shares + 1e-9).floor()
        left = len(members) - int(whole.sum())
        # Ties of remainders are broken by chance, or the same classes would always get one more.
        order = torch.randperm(len(T), generator=generator)
        most = order[(shares - whole)[order].argsort(descending=True, stable=True)[:left]]
        whole[most] += 1
        labels[members] = torch.arange(len(T)).repeat_interleave(whole.long())
    return labels


def _by_instance(
    y: Tensor, K: int, rate: float, features: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if features is None or len(features) != len(y) or not features.is_floating_point():
        got = "none" if features is None else f"{features.dtype} {tuple(features.shape)}"
        raise ValueError(f"features: expected floats ({len(y)}, ...) for kind='instance', got {got}")
    x = features.detach().cpu().flatten(1).double()
    labels, T = y.clone(), torch.eye(K, dtype=torch.float64)
    flips = _truncated_normal(rate, len(y), generator) if rate else torch.zeros(len(y), dtype=torch.float64)
    for k in range(K):
        W = torch.randn(x.shape[1], K, dtype=torch.float64, generator=generator)
        members = (y == k).nonzero()[:, 0]
        if not len(members):
            continue
        scores = x[members] @ W
        scores[:, k] = -torch.inf
        rows = flips[members, None] * scores.softmax(1)
        rows[:, k] = 1.0 - flips[members]
        labels[members] = _draws(rows, generator)
        T[k] = rows.mean(0)
    return labels, T


def _truncated_normal(mean: float, number: int, generator: torch.Generator | None) -> Tensor:
    """N(mean, 0.1^2) within [0, 1], by its inverse distribution function."""
    bounds = torch.tensor([0.0 - mean, 1.0 - mean], dtype=torch.float64) / _SPREAD
    low, high = torch.special.ndtr(bounds)
    uniform = low + (high - low) * torch.rand(number, dtype=torch.float64, generator=generator)
    return (mean + _SPREAD * torch.special.ndtri(uniform)).clamp(0.0, 1.0)
