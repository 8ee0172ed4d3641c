"""Which frame a fixed head's state dict belongs to, built from the tensors in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from etfhead.frames import Frame, make_frame
from etfhead.frames.orient import orient_simplex, polar_factor
from etfhead.heads.frame_state import fingerprint, real, same_bits

__all__ = ["TOLERANCE", "data_specs", "find_frame"]

TOLERANCE = 1e-2  # farthest that the roundings of a checkpoint's life move a number of a unit vector


def data_specs(base: Frame) -> list[dict[str, Any]]:
    """Specs of the frames that data may have put in a head's ``base`` frame's place."""
    sizes = {"num_classes": base.num_classes, "in_features": base.in_features}
    specs: list[dict[str, Any]] = [{"name": name, **sizes} for name in ("oriented_simplex", "class_means")]
    return [*specs, {"name": "assigned", **sizes, "base": base.spec()}] if base.free_of_data else specs


def find_frame(
    state_dict: Mapping[str, Any],
    prefix: str,
    *,
    frames: Iterable[Frame],
    identity: Callable[[dict[str, Any]], Mapping[str, Any]],
    tolerance: float = TOLERANCE,
) -> Frame | None:
    """The frame that the ``frame_id`` in a state dict names, with the data found there.

    Args:
        state_dict: Tensors to be loaded.
        prefix: Name of the head in it, with a trailing dot.
        frames: Frames that the head has or had: the first one's spec wins; the others, and what data may
            make of them, are accepted.
        identity: Description behind the fingerprint, of a frame's spec.
        tolerance: Farthest that numbers may be from an exact frame of that kind.

    Returns:
        Frame | None: None if the state dict has no ``frame_id``, names no such frame, or lacks its tensors.

    Raises:
        ValueError: If the tensors are not such a frame.
    """
    stored = real(state_dict.get(prefix + "frame_id"))
    if stored is None:
        return None
    known = list(frames)
    for frame in known:
        if frame.free_of_data and same_bits(stored, fingerprint(identity(frame.spec()))):
            return frame
    specs = [frame.spec() for frame in known if not frame.free_of_data]
    for spec in [*specs, *(spec for frame in known for spec in data_specs(frame))]:
        if same_bits(stored, fingerprint(identity(spec))):
            return _from_tensors(spec, state_dict, prefix, tolerance)
    return None


def _from_tensors(
    spec: dict[str, Any], state_dict: Mapping[str, Any], prefix: str, tolerance: float
) -> Frame | None:
    K, d = spec["num_classes"], spec["in_features"]
    if spec["name"] == "assigned":
        assignment, rotation = (real(state_dict.get(prefix + key)) for key in ("assignment", "rotation"))
        if assignment is None:
            return None
        if rotation is not None:
            rotation = _exact(rotation, prefix + "rotation", (d, d), polar_factor, tolerance)
        return make_frame(**spec, assignment=assignment, rotation=rotation)
    weight = real(state_dict.get(prefix + "weight"))
    if weight is None:
        return None
    nearest = orient_simplex if spec["name"] == "oriented_simplex" else torch.nn.functional.normalize
    return make_frame(**spec, vectors=_exact(weight, prefix + "weight", (K, d), nearest, tolerance))


def _exact(
    stored: Tensor,
    name: str,
    shape: tuple[int, int],
    nearest: Callable[[Tensor], Tensor],
    tolerance: float,
) -> Tensor:
    """Stored vectors in float64: as they are where float32 rounding is all they suffered, else made exact."""
    if stored.shape != shape or not stored.is_floating_point():
        raise ValueError(
            f"{name}: expected floating numbers of shape {shape}, got {stored.dtype} {tuple(stored.shape)}"
        )
    stored = stored.double()
    if not stored.isfinite().all():
        raise ValueError(f"{name}: not all numbers are finite")
    exact = nearest(stored)
    off = (exact - stored).abs().max().item()
    if off > tolerance:
        raise ValueError(
            f"{name}: numbers up to {off:.2g} from those of a fixed head's frame; the file is damaged or of "
            "another model"
        )
    return stored if off <= torch.finfo(torch.float32).eps else exact
