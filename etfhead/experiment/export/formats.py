"""The formats of an export: how each is written, and read back to compare its logits."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.experiment.checks import RESERVED_MODEL_KWARGS
from etfhead.experiment.export.folder import CONFIG, WEIGHTS_FILE
from etfhead.experiment.files import parse_json, write_json
from etfhead.experiment.training.checkpoint import save_weights

__all__ = [
    "FORMATS",
    "INSTALL_ONNX",
    "TOLERANCE",
    "load_stock",
    "missing_packages",
    "onnx_session",
    "read_config",
    "reload",
    "write_format",
]

FORMATS = tuple(WEIGHTS_FILE)

INSTALL_ONNX = "pip install onnx onnxscript onnxruntime"

# Largest difference of two logits over the largest logit, or over 1: float32 sums in another order.
TOLERANCE = {"timm": 1e-4, "safetensors": 1e-4, "onnx": 1e-3, "torch-export": 1e-4}

_ONE_FILE = 1 << 30  # an ONNX file may not grow beyond 2 GiB; larger weights go beside it

Logits = Callable[[Tensor], Tensor]


def missing_packages(format_name: str) -> list[str]:
    """Packages that writing a format needs and this Python lacks."""
    needed = ("onnx", "onnxscript") if format_name == "onnx" else ()
    return [name for name in needed if importlib.util.find_spec(name) is None]


def write_format(format_name: str, model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Write a model in one of :data:`FORMATS`, and its configuration.

    Args:
        format_name: ``"timm"`` and ``"safetensors"`` need a stock model, the others take any.
        model: In evaluation mode, on the CPU.
        config: From :func:`~etfhead.experiment.export.config.model_config`.
        folder: Exists and is empty.

    Raises:
        ValueError: If the model cannot be traced.
    """
    path = folder / WEIGHTS_FILE[format_name]
    if format_name == "onnx":
        _write_onnx(model, config, path)
    elif format_name == "torch-export":
        _write_program(model, config, path)
    else:
        # A single file must carry its configuration itself.
        header = {"config": json.dumps(config, allow_nan=False)} if format_name == "safetensors" else {}
        _write_safetensors(model, path, header)
    if format_name != "safetensors":
        write_json(folder / CONFIG, dict(config))


def reload(format_name: str, folder: Path) -> Logits | None:
    """Read an export as somebody without etfhead would: from normalised images to logits, on the CPU.

    Args:
        format_name: The format.
        folder: Where it was written.

    Returns:
        None for ONNX without onnxruntime.
    """
    if format_name == "onnx":
        if importlib.util.find_spec("onnxruntime") is None:
            return None
        return onnx_session(folder / WEIGHTS_FILE["onnx"])
    if format_name == "torch-export":
        return torch.export.load(folder / WEIGHTS_FILE["torch-export"]).module()
    if format_name == "timm" and _has_local_dir():
        import timm

        stock: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return stock.eval()
    return load_stock(folder)


def load_stock(folder: Path) -> nn.Module:
    """The stock timm model of a ``timm`` or ``safetensors`` export, in evaluation mode.

    Only safetensors are read, whatever else lies in the folder.

    Raises:
        ValueError: If configuration and weights are not those of a timm model.
    """
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    name, args = config["architecture"], config.get("model_args") or {}
    if not isinstance(args, dict):
        raise ValueError(f"{folder}: model_args of the configuration are no mapping; it is damaged")
    # timm.create_model has arguments that read other files, among them checkpoints that may be pickles.
    if reserved := sorted(RESERVED_MODEL_KWARGS & args.keys() - {"in_chans", "num_classes"}):
        what = ", ".join(reserved)
        raise ValueError(f"{folder}: an export has no {what} among the model_args of its configuration")
    args = {**args, "num_classes": config["num_classes"]}
    if not timm.is_model(name):
        raise ValueError(f"{folder}: timm has no model {name!r}; another version of timm may have it")
    try:
        state = load_file(folder / WEIGHTS_FILE["timm"])
    except SafetensorError as error:
        raise ValueError(f"{folder}: the weights are damaged ({str(error)[:300]})") from error
    # Before timm makes room for as many classes as the configuration says there are.
    if not any(config["num_classes"] in value.shape for value in state.values()):
        raise ValueError(f"{folder}: num_classes is {config['num_classes']}, and no weights are of as many")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **args)
    except Exception as error:  # wrong arguments fail in as many ways as there are models
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{folder}: timm cannot build {name!r} with {args}: {reason}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: the weights are not of {name} ({reason})") from error
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an export: ``config.json``, or the header of its single file.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    path = folder / CONFIG
    try:
        if path.exists():
            config = parse_json(path.read_text(encoding="utf-8"))
        else:
            path = folder / WEIGHTS_FILE["safetensors"]
            config = parse_json(_header(path).get("config", "null"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged or unreadable ({' '.join(str(error).split())[:200]})") from error
    fields: dict[str, Any] = config if isinstance(config, dict) else {}
    if not isinstance(fields.get("architecture"), str) or type(fields.get("num_classes")) is not int:
        raise ValueError(f"{path}: no configuration of a timm model in it (architecture, num_classes)")
    for key, kinds in (("etfhead", dict), ("pretrained_cfg", dict), ("label_names", (list, dict))):
        if fields.get(key) and not isinstance(fields[key], kinds):
            raise ValueError(
                f"{path}: {key} is {str(fields[key])[:80]!r}, which no export writes; it is damaged"
            )
    return fields


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _has_local_dir() -> bool:
    # timm 1.0.15 does not know local-dir yet.
    from timm.models import _hub

    return hasattr(_hub, "load_model_config_from_path")


def onnx_session(path: Path, *, device: str = "cpu") -> Logits:
    """Logits by onnxruntime.

    Raises:
        ValueError: If onnxruntime has no provider for the device.
    """
    onnxruntime = importlib.import_module("onnxruntime")  # optional, and without type stubs
    wanted = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise ValueError(f"device: this onnxruntime has no {wanted}; use --device cpu")
    session = onnxruntime.InferenceSession(str(path), providers=[wanted])
    (images,) = session.get_inputs()

    def logits(batch: Tensor) -> Tensor:
        (found,) = session.run(None, {images.name: batch.cpu().numpy()})
        return torch.from_numpy(found)

    return logits


def _write_safetensors(model: nn.Module, path: Path, header: Mapping[str, str]) -> None:
    # clone: safetensors refuses parameters that share memory.
    save_weights(path, {name: value.clone() for name, value in model.state_dict().items()}, **header)


def _example(config: Mapping[str, Any]) -> Tensor:
    # Two images: a batch of one would be taken for a constant.
    return torch.zeros(2, *config["pretrained_cfg"]["input_size"])


def _traced(model: nn.Module, config: Mapping[str, Any]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, (_example(config),), dynamic_shapes=({0: batch},), strict=False
            )
    except Exception as error:  # tracing fails in as many ways as models do
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"torch.export cannot trace {config['architecture']!r} with any batch size: {reason}; --format "
            "timm needs no tracing"
        ) from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _write_program(model: nn.Module, config: Mapping[str, Any], path: Path) -> None:
    torch.export.save(_traced(model, config), path)


def _write_onnx(model: nn.Module, config: Mapping[str, Any], path: Path) -> None:
    program = _traced(model, config)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(
                program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
            )
    except Exception as error:  # the converter has its own exceptions, and its dependencies theirs
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ValueError(f"torch.onnx cannot convert {config['architecture']!r}: {reason}") from error
    assert written is not None  # noqa: S101 - dynamo=True always gives a program
    written.save(path, external_data=size > _ONE_FILE)
