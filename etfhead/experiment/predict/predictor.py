"""A model ready to predict, from a run folder or an export."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from etfhead.experiment.export.choice import Weights, rank_models
from etfhead.experiment.export.config import unpack_readout
from etfhead.experiment.export.folder import CONFIG, WEIGHTS_FILE
from etfhead.experiment.export.formats import INSTALL_ONNX, load_stock, onnx_session, read_config
from etfhead.experiment.export.trained import load_trained
from etfhead.experiment.predict.program import load_program
from etfhead.experiment.recipe import Arm
from etfhead.experiment.report.records import read_run
from etfhead.experiment.training.label_figures import Readout

__all__ = ["Predictor", "choose_device", "load_predictor"]

_DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """From prepared images to logits, and what the logits mean.

    Args:
        logits: From normalised images (B, C, H, W) on the CPU to logits (B, K), float32, on the CPU.
        class_names: K names.
        data_config: How images are prepared, under timm's names.
        source: What it is, for people.
        arm: Head and loss where known; on multi-label data it says how label sets are decided.
        readout: On multi-label data what decisions rest on; None for one class an image.
    """

    logits: Callable[[Tensor], Tensor]
    class_names: tuple[str, ...]
    data_config: Mapping[str, Any]
    source: str
    arm: Arm | None = None
    readout: Readout | None = None


def load_predictor(
    source: str | Path,
    *,
    arm: str | None = None,
    seed: int | None = None,
    weights: Weights | None = None,
    device: str = "auto",
) -> Predictor:
    """Load a model of a run folder, or an exported one.

    Args:
        source: A folder written by ``etfhead run`` or ``etfhead export``, or any folder of a timm model with
            ``config.json`` and ``model.safetensors``.
        arm: Of a run: its arm; None takes the best on validation.
        seed: Of a run: the seed; None takes the arm's best on validation.
        weights: Of a run: ``"best"`` (None) or ``"last"``.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ValueError: If the folder is neither, is damaged, or the device is not there.
    """
    folder = Path(source)
    place = choose_device(device)
    if (folder / "recipe.yaml").is_file():
        records = read_run(folder)
        choice = rank_models(records, arm=arm, seed=seed, weights=weights or "best")[0]
        trained = load_trained(records, choice)
        reason = f" ({choice.reason})" if choice.reason else ""
        return Predictor(
            logits=_adjusted(_on_device(trained.model, place), trained.shift),
            class_names=trained.class_names,
            data_config=trained.data_config,
            source=f"{choice}{reason}",
            arm=trained.arm,
            readout=trained.readout,
        )
    if given := [
        f"--{name}"
        for name, value in (("arm", arm), ("seed", seed), ("weights", weights))
        if value is not None
    ]:
        raise ValueError(
            f"{', '.join(given)}: {folder} is not a run folder and holds one model; leave it out"
        )
    return _exported(folder, place)


def choose_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "not available"
        raise ValueError(f"device {device!r} cannot be used ({reason}); try --device cpu") from error
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no data; expected auto, cpu, cuda or mps")
    return chosen


def _exported(folder: Path, device: torch.device) -> Predictor:
    present = [name for name in dict.fromkeys(WEIGHTS_FILE.values()) if (folder / name).is_file()]
    if not present:
        what = "is neither" if folder.is_dir() else "is a file, neither" if folder.exists() else None
        where = "a folder of `etfhead run` nor one of `etfhead export`"
        raise ValueError(f"{folder} {what} {where}" if what else f"{folder} does not exist")
    config = read_config(folder)
    origin = config.get("etfhead") or {}
    data = _preparation(folder, config)
    logits: Callable[[Tensor], Tensor]
    if present[0] == WEIGHTS_FILE["onnx"]:
        if importlib.util.find_spec("onnxruntime") is None:
            raise ValueError(f"{folder} holds ONNX, which needs onnxruntime; {INSTALL_ONNX}")
        logits = onnx_session(folder / present[0], device=str(device))
    elif present[0] == WEIGHTS_FILE["torch-export"]:
        logits = _on_device(load_program(folder / present[0], device), device)
    else:
        logits = _on_device(load_stock(folder), device)
    _try(folder, logits, data["input_size"], config["num_classes"])
    readout = origin.get("readout")
    return Predictor(
        logits=logits,
        class_names=_class_names(folder, config),
        data_config=data,
        source=str(folder),
        arm=_arm(folder, origin) if readout else None,
        readout=unpack_readout(readout) if readout else None,
    )


def _arm(folder: Path, origin: Mapping[str, Any]) -> Arm:
    try:
        return Arm(**origin["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: this etfhead cannot read how label sets are decided ({error}); version "
            f"{origin.get('version', 'unknown')} wrote the export"
        ) from error


def _try(
    folder: Path, logits: Callable[[Tensor], Tensor], input_size: Sequence[int], num_classes: int
) -> None:
    """Hold a configuration against its model, before as many classes are named as it says there are."""
    try:
        shape = tuple(logits(torch.zeros(1, *input_size)).shape)
    except Exception as error:  # torch, onnxruntime and each model have their own way to refuse
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{folder}: the model cannot take an image of input_size {input_size}: {reason}"
        ) from error
    if shape != (1, num_classes):
        raise ValueError(
            f"{folder}: num_classes is {num_classes}, and for an image the model gives logits {shape}, "
            f"expected (1, {num_classes}); config and model are not of one export"
        )


def _class_names(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    cfg, count = config.get("pretrained_cfg") or config, config["num_classes"]
    names = config.get("label_names") or cfg.get("label_names")
    if isinstance(names, Mapping):
        names = [names.get(str(index), str(index)) for index in range(count)]
    names = tuple(map(str, names)) if names else tuple(map(str, range(count)))
    if len(names) != count:
        raise ValueError(f"{folder / CONFIG}: {len(names)} label_names for {count} classes; it is damaged")
    return names


def _preparation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """How images are prepared, which timm may keep at two places."""
    from timm.data import create_transform, resolve_data_config

    cfg = config.get("pretrained_cfg") or config
    try:
        known = resolve_data_config(pretrained_cfg=cfg)
        data = {key: known[key] for key in _DATA_KEYS}
        _check_data(**data)
        create_transform(**data)
    except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: it does not say how images are prepared ({error})") from error
    return data


def _check_data(
    input_size: Sequence[int],
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    crop_pct: float,
    crop_mode: str,
) -> None:
    if len(input_size) != 3 or any(type(size) is not int or size < 1 for size in input_size):
        raise ValueError(f"input_size={input_size!r}: expected channels, height and width")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and input_size[1] * input_size[2] > limit:
        raise ValueError(f"input_size={input_size!r}: more pixels than Pillow's limit of {limit:,}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, input_size[0]) or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name}={values!r}: expected a number for each of {input_size[0]} channels")
    if not all(std):
        raise ValueError(f"std={std!r}: expected no zeros")
    if not 0 < crop_pct < math.inf:
        raise ValueError(f"crop_pct={crop_pct!r}: expected a share above 0")
    if not (isinstance(interpolation, str) and isinstance(crop_mode, str)):
        raise ValueError(f"interpolation={interpolation!r}, crop_mode={crop_mode!r}: expected names")


def _adjusted(logits: Callable[[Tensor], Tensor], shift: Tensor | None) -> Callable[[Tensor], Tensor]:
    return logits if shift is None else lambda batch: logits(batch) - shift


def _on_device(model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    model.to(device)

    def logits(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(batch.to(device))
            return found.float().cpu()

    return logits
