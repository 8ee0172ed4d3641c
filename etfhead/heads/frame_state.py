"""Tells a fixed head's own state dict from any other: a fingerprint, and the comparison on loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["ID_BITS", "fingerprint", "mismatch", "real", "same_bits"]

ID_BITS = 64

# Largest error that the roundings of a checkpoint's life leave, bfloat16 on the way included, relative to the
# largest entry. Another frame or a trained classifier is off by its own size.
_TOLERANCE = 1e-2


def fingerprint(identity: Mapping[str, Any]) -> Tensor:
    """First 64 bits of the SHA-256 of a JSON-able description, as zeros and ones, float64.

    Bits survive what a checkpoint goes through: any float type holds them, and an averaged or rounded copy
    still rounds to them.

    >>> torch.equal(fingerprint({"seed": 0}), fingerprint({"seed": 1}))
    False
    """
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).digest()
    bits = int.from_bytes(digest[: ID_BITS // 8], "big")
    return torch.tensor([bits >> i & 1 for i in range(ID_BITS)], dtype=torch.float64, device="cpu")


def mismatch(
    state_dict: Mapping[str, Any],
    prefix: str,
    *,
    identity: Mapping[str, Any],
    exact: Callable[[], Tensor] | None,
) -> str | None:
    """Why the tensors of a state dict are not those of a fixed head, or None where they are.

    Args:
        state_dict: Tensors to be loaded; those on the meta device are not looked at.
        prefix: Name of the head in it, with a trailing dot.
        identity: Description behind the head's :func:`fingerprint`.
        exact: Gives the class vectors of the head, (K, d), float64; asked only if the state dict holds some
            of this size. None for a head that stores none.
    """
    weight, bias, stored = (real(state_dict.get(prefix + name)) for name in ("weight", "bias", "frame_id"))
    sizes = (identity["num_classes"], identity["in_features"])
    if weight is not None and not (exact and weight.shape == sizes and _same_vectors(weight, exact())):
        wrong = f"weight ({'x'.join(map(str, weight.shape))}) is not"
    elif bias is not None and bias.abs().max() > 0:
        wrong = "bias is not zero, as it is in"
    elif stored is not None and not same_bits(stored, fingerprint(identity)):
        wrong = "frame_id is not that of"
    else:
        return None
    own = ", ".join(f"{key}={value}" for key, value in identity.items())
    return (
        f"{prefix}{wrong} the head's fixed frame ({own}). A learnable classifier or another head cannot "
        "become this one: load that checkpoint before swap_head, or build the head with the options it was "
        "trained with."
    )


def real(tensor: Tensor | None) -> Tensor | None:
    """The tensor on the CPU, or None where there is none or it is on the meta device."""
    return None if tensor is None or tensor.is_meta else tensor.detach().cpu()


def _same_vectors(weight: Tensor, exact: Tensor) -> bool:
    if not weight.is_floating_point():
        return False
    return bool((weight.double() - exact).abs().max() <= _TOLERANCE * exact.abs().max())


def same_bits(stored: Tensor, own: Tensor) -> bool:
    """Whether a stored fingerprint rounds to this one."""
    return stored.shape == own.shape and torch.equal(stored.double().round(), own)
