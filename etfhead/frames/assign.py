"""Which class gets which vector of a frame, by the similarity of class means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etfhead.frames.assigned import AssignedFrame
from etfhead.frames.base import Frame, checked_size
from etfhead.frames.counted import is_made_for_counts
from etfhead.frames.orient import checked_means, polar_factor

__all__ = ["assign_classes"]

_EXACT_UP_TO = 2048  # classes: seconds a round, and 32 MB of similarities
_BLOCK = 512  # classes that the greedy method matches exactly at a time
_LEAST_GAIN = 1e-4  # relative gain of a round below which the search stops


def assign_classes(frame: Frame, means: Tensor, *, method: str = "auto", rounds: int = 12) -> AssignedFrame:
    r"""Hand the vectors of a frame out to the classes so that similar classes get similar vectors.

    .. math:: \max_{a, R} \sum_k \langle b_{a(k)} R,\; t_k \rangle,
              \qquad a \text{ a permutation}, \quad R^\top R = I

    with t_k the centred class means, scaled to unit length. Alternates the best permutation for a rotation
    (the assignment problem) and the best rotation for a permutation (orthogonal Procrustes); no round lowers
    the sum. Starts from the rotation that takes the frame's principal axes to those of the means.

    ``exact`` solves the assignment problem with ``scipy.optimize.linear_sum_assignment``: K^2 memory, about
    K^3 time. ``greedy`` never holds more than 512 x 512 similarities: it starts by splitting classes and
    vectors alike, in halves along the principal axis of the classes at hand, until 512 are left, and each
    round then matches exactly within 512 classes that are neighbours along a random direction. In 12
    rounds it reaches 97 % to 100 % of the sum of ``exact`` (K = 1,000 and 2,000, d = 64, ``union`` frame,
    Gaussian, clustered and decaying-spectrum means).

    Args:
        frame: A closed-form frame. An :class:`AssignedFrame` is itself the start: its permutation and
            rotation are improved, as when an assignment is redone during training.
        means: (K, d) class means, or any code of the classes in d dimensions, such as
            :func:`class_means_code` of mean images.
        method: ``exact``, ``greedy``, or ``auto``: exact up to 2,048 classes.
        rounds: How many at most; fewer when one gains less than 0.01 %.

    Returns:
        AssignedFrame: Over the same base frame.

    Raises:
        ValueError: If the shapes do not fit, a row is not finite, the method is unknown, or the frame is not
            a closed form.

    >>> from etfhead.frames import SimplexFrame
    >>> means = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    >>> frame = assign_classes(SimplexFrame(5, 8), means)
    >>> sorted(frame.assignment.tolist()), frame.base
    ([0, 1, 2, 3, 4], simplex(num_classes=5, in_features=8, basis=hadamard, seed=0))
    """
    if method not in ("auto", "exact", "greedy"):
        raise ValueError(f"method={method!r}: expected 'auto', 'exact' or 'greedy'")
    rounds = checked_size("rounds", rounds, 1)
    means = checked_means(means)
    expected = (frame.num_classes, frame.in_features)
    if tuple(means.shape) != expected:
        raise ValueError(
            f"means: expected shape {expected} like the frame's vectors, got {tuple(means.shape)}; means of "
            f"another width become a code of this one by class_means_code(means, {frame.in_features})"
        )
    target = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    base = frame.base if isinstance(frame, AssignedFrame) else frame
    if is_made_for_counts(base):
        raise ValueError(
            f"frame={base.name!r}: each of its vectors is made for the class of that count; expected a frame "
            "whose vectors can be handed out, such as 'simplex'"
        )
    start = frame
    if not isinstance(start, AssignedFrame):
        start = AssignedFrame(*expected, base=frame, assignment=range(frame.num_classes))
    assignment, vectors = start.assignment, start.base.matrix()
    redo = start is frame
    if redo:
        eye = torch.eye(frame.in_features, dtype=torch.float64, device="cpu")
        rotation = eye if start.rotation is None else start.rotation
    else:
        rotation = _principal_axes(vectors) @ _principal_axes(target).T
    exact = method == "exact" or (method == "auto" and frame.num_classes <= _EXACT_UP_TO)
    generator = torch.Generator("cpu").manual_seed(0)
    score = -math.inf
    for done in range(rounds):
        turned = vectors @ rotation
        if exact:
            assignment = _matched(target, turned)
        elif done == 0 and not redo:
            assignment = _split(target, turned)
        else:
            assignment = _improved(target, turned, assignment, generator)
        rotation = polar_factor(vectors[assignment].T @ target)
        before, score = score, (vectors[assignment] @ rotation * target).sum().item()
        if score - before <= _LEAST_GAIN * abs(score):
            break
    return AssignedFrame(*expected, base=start.base, assignment=assignment, rotation=rotation)


def _principal_axes(rows: Tensor) -> Tensor:
    return torch.linalg.eigh(rows.T @ rows)[1]


def _matched(target: Tensor, vectors: Tensor) -> Tensor:
    """The best permutation: for every row of ``target`` its row of ``vectors``."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment((target @ vectors.T).numpy(), maximize=True)[1])


def _split(target: Tensor, vectors: Tensor) -> Tensor:
    """A permutation from halving classes and vectors along the same axes, again and again."""
    everything = torch.arange(len(target), device="cpu")
    assignment = torch.empty_like(everything)
    waiting = [(everything, everything)]
    while waiting:
        classes, places = waiting.pop()
        if len(classes) <= _BLOCK:
            assignment[classes] = places[_matched(target[classes], vectors[places])]
            continue
        axis = _principal_axis(target[classes])
        classes = classes[(target[classes] @ axis).argsort(stable=True)]
        places = places[(vectors[places] @ axis).argsort(stable=True)]
        half = len(classes) // 2
        waiting += [(classes[:half], places[:half]), (classes[half:], places[half:])]
    return assignment


def _principal_axis(rows: Tensor) -> Tensor:
    """About the direction of largest variance: eight power iterations, O(K d) memory and time."""
    rows = rows - rows.mean(0)
    axis = rows[0] + torch.linspace(0.5, 1.0, rows.shape[1], dtype=rows.dtype, device="cpu")
    for _ in range(8):
        axis = torch.nn.functional.normalize(rows.T @ (rows @ axis), dim=0)
    return axis


def _improved(target: Tensor, vectors: Tensor, assignment: Tensor, generator: torch.Generator) -> Tensor:
    """Classes that are neighbours along a random direction exchange their vectors in the best way."""
    direction = torch.randn(target.shape[1], generator=generator, dtype=target.dtype, device="cpu")
    assignment = assignment.clone()
    for classes in (target @ direction).argsort(stable=True).split(_BLOCK):
        places = assignment[classes]
        assignment[classes] = places[_matched(target[classes], vectors[places])]
    return assignment
