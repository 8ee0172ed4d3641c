"""Start a stock model from a weights file, with or without its classifier."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from etfhead.errors import CheckpointError
from etfhead.experiment.unread import why_unread

__all__ = ["load_initial_weights"]

_log = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, path: str) -> None:
    """Load a trunk from safetensors or a torch file, before the head is swapped in.

    A classifier that the file's model has and this one has not (another width, a fixed head) is dropped
    with a note; anything else that does not fit is an error.

    Args:
        model: Stock model, changed in place.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` accepts.

    Raises:
        CheckpointError: If the file is missing, unreadable, or of another model.
    """
    from timm.models import load_state_dict

    from etfhead.surgery import find_classifiers

    try:
        state = load_state_dict(str(Path(path).expanduser()), weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"initial_checkpoint: there is no file {path!r}") from None
    except Exception as error:  # safetensors, pickle, zipfile and torch each fail in their own way
        raise CheckpointError(f"initial_checkpoint: cannot read {path!r} ({why_unread(error)})") from error
    own = model.state_dict()
    leaves = tuple(f"{leaf}." for leaf in find_classifiers(model))
    state = _without_other_classifier(own, state, leaves, path)
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            there, here = tuple(state[name].shape), tuple(own[name].shape)
            raise CheckpointError(
                f"initial_checkpoint: {path!r} is not of this model ({name} is {there} there, {here} here)"
            )
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(leaves)]
    if missing or unexpected:
        raise CheckpointError(
            f"initial_checkpoint: {path!r} is not of this model ({len(missing)} tensors missing"
            f"{_first(missing)}, {len(unexpected)} unexpected{_first(unexpected)})"
        )


def _without_other_classifier(
    own: dict[str, Tensor], state: dict[str, Tensor], leaves: tuple[str, ...], path: str
) -> dict[str, Tensor]:
    ours = {name: value.shape for name, value in own.items() if name.startswith(leaves)}
    theirs = {name: value.shape for name, value in state.items() if name.startswith(leaves)}
    if ours == theirs or not theirs:
        return state
    _log.warning("initial_checkpoint: left the classifier of %s out (%s)", path, ", ".join(theirs))
    return {name: value for name, value in state.items() if name not in theirs}


def _first(names: list[str]) -> str:
    return f": {names[0]}" + (", ..." if len(names) > 1 else "") if names else ""
