"""A head's fixed frame in buffers: exact in every type, after copies, on meta, and out of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.frames import AssignedFrame, Frame, make_frame
from etfhead.heads.adoption import TOLERANCE, find_frame
from etfhead.heads.frame_choice import choose_frame
from etfhead.heads.frame_head import FrameHead
from etfhead.heads.frame_state import ID_BITS, fingerprint, mismatch

__all__ = ["FixedHead"]

_PREFIX = "frame_"  # buffers that hold a structured frame's factors


class FixedHead(FrameHead):
    """Base of the heads whose frame only closed forms change.

    The state dict has a fingerprint of the frame, ``frame_id``; of a dense frame the class vectors,
    ``weight``, beside a zero ``bias``; of a structured one only what came from data (an assignment).
    Everything else is derived from the frame, in the type and on the device of the subclass' ``scale``.

    Attributes:
        first_frame: The frame it was built with; ``frame`` is another after :meth:`adopt_frame`.
    """

    weight: Tensor
    bias: Tensor
    frame_id: Tensor
    scale: Tensor
    first_frame: Frame

    _gain: float  # what the scale is multiplied with
    _load_tolerance = TOLERANCE

    def _hold_first(self, frame: Frame, like: Tensor) -> None:
        """Make room for the frame the head is built with, in the type and on the device of ``like``."""
        self.first_frame = frame
        self._factor_names: dict[str, str] = {}
        self.register_buffer("frame_id", like.new_empty(ID_BITS))
        self._hold(frame, like)

    def _hold(self, frame: Frame, like: Tensor) -> None:
        """Make ``frame`` the head's own, with buffers for what a state dict must carry of it, still empty."""
        self.frame, self._gain = frame, self._gain_of(frame)
        self._factor_names = {}
        if not frame.structured:
            self._factor_names["weight"] = "weight"
            self.register_buffer("weight", like.new_empty(self.num_classes, self.in_features))
            self.register_buffer("bias", like.new_empty(self.num_classes))
        for name, tensor in self._own_state().items():
            self.register_buffer(name, torch.empty_like(_cast(tensor, like)))

    def _gain_of(self, frame: Frame) -> float:
        raise NotImplementedError

    def _identity(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What a state dict must have been trained with to belong to this head with that frame."""
        raise NotImplementedError

    def _own_state(self) -> dict[str, Tensor]:
        """What the frame has from data beside vectors, which are ``weight``."""
        return self.frame.state() if isinstance(self.frame, AssignedFrame) else {}

    def adopt_frame(self, frame: Frame) -> None:
        """Take other class vectors of the same sizes, in place; scale and neck stay.

        :func:`~etfhead.align_head` uses it, and so does loading the checkpoint of an aligned head.

        Raises:
            ValueError: If the frame is of other sizes.
        """
        frame = _as_stored(choose_frame(frame, self.in_features, self.num_classes))
        held = {"weight", "bias", *self._factor_names.values(), *self._own_state()}
        for name in held & self._buffers.keys():
            delattr(self, name)
        self._hold(frame, self.scale.detach())
        self._restore_frame()

    def init_non_persistent_buffers(self) -> None:
        """Derive a structured frame's factors from its seed (timm's hook after ``to_empty``)."""
        if self.frame.structured:
            own = self._own_state()
            for name, factor in self.frame.factors().items():
                self._factor_names[name] = name if name in own else _PREFIX + name
                if name not in own:
                    self.register_buffer(_PREFIX + name, _cast(factor, self.scale), persistent=False)

    # Hugging Face's timm wrapper looks for the singular name.
    init_non_persistent_buffer = init_non_persistent_buffers

    def _restore_frame(self) -> None:
        """Write every fixed tensor from the frame, in the head's present type and on its device."""
        self.init_non_persistent_buffers()
        if self.scale.is_meta:
            return
        with torch.no_grad():
            self.frame_id.copy_(fingerprint(self._identity(self.frame.spec())))
            if not self.frame.structured:
                self.weight.copy_(self.frame.matrix())
                self.bias.zero_()
            for name, tensor in self._own_state().items():
                self.get_buffer(name).copy_(tensor)

    def _apply(self, fn: Any, recurse: bool = True) -> FixedHead:
        dtype = self.scale.dtype
        super()._apply(fn, recurse)
        if self.scale.dtype != dtype:
            # .half().float() would leave rounded class vectors behind.
            self._restore_frame()
        return self

    def _fixed_vectors(self) -> Tensor:
        return self.frame.matrix().to(self.scale) if self.frame.structured else self.weight

    def class_vectors(self) -> Tensor:
        """Class vectors as rows, (K, d), in the head's type and on its device, without the scale."""
        return self._fixed_vectors()

    def logit_factors(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Scale (1,) and the frame's factors: logits are the one times the frame applied with the other."""
        return self.scale * self._gain, {name: getattr(self, own) for name, own in self._factor_names.items()}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        error_msgs: list[str] = args[-1]
        try:
            frame = find_frame(
                state_dict,
                prefix,
                frames=(self.frame, self.first_frame),
                identity=self._identity,
                tolerance=self._load_tolerance,
            )
            if frame is not None and frame is not self.frame:
                self.adopt_frame(frame)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        if frame is None or frame.free_of_data:
            exact = None if self.frame.structured else self.frame.matrix
            identity = self._identity(self.frame.spec())
            if complaint := mismatch(state_dict, prefix, identity=identity, exact=exact):
                error_msgs.append(complaint)
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)
        # Whatever the file held in the end (rounded, averaged, or a model built on meta), this is exact.
        self._restore_frame()


def _as_stored(frame: Frame) -> Frame:
    """With a rotation that float32 holds, so that class vectors made of it are the same after reloading."""
    if not isinstance(frame, AssignedFrame) or frame.rotation is None:
        return frame
    return make_frame(**frame.spec(), assignment=frame.assignment, rotation=frame.rotation.float())


def _cast(tensor: Tensor, like: Tensor) -> Tensor:
    """On the head's device and in its type; integers keep theirs."""
    return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)
