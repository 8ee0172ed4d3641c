"""The model card of an export: where the weights are from, what was measured, how to load them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from etfhead._version import __version__
from etfhead.experiment.export.trained import TrainedModel
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.formatting import mean_std
from etfhead.experiment.report.markdown import escape, render_markdown
from etfhead.experiment.report.score import score_of_recipe

__all__ = ["model_card"]

_LONGEST_SPEC = 4000  # characters; a list of class counts or a matrix stays in config.json
_MOST_NAMES = 20

_PREPARE = """\
from PIL import Image
from timm.data import create_transform

transform = create_transform(**{data})
image = Image.open("image.png").convert("{mode}")
batch = transform(image)[None]"""

_LOAD = {
    "timm": """\
import timm, torch
{prepare}

model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()
with torch.no_grad():
    logits = model(batch)""",
    "safetensors": """\
import timm, torch
from safetensors.torch import load_file
{prepare}

model = timm.create_model("{architecture}", num_classes={num_classes}, **{model_args})
model.load_state_dict(load_file("path/to/this/folder/model.safetensors"))
with torch.no_grad():
    logits = model.eval()(batch)""",
    "onnx": """\
import onnxruntime, torch
{prepare}

session = onnxruntime.InferenceSession("path/to/this/folder/model.onnx")
(logits,) = session.run(["logits"], {{"images": batch.numpy()}})
logits = torch.from_numpy(logits)""",
    "torch-export": """\
import torch
{prepare}

model = torch.export.load("path/to/this/folder/model.pt2").module()
with torch.no_grad():
    logits = model(batch)""",
}

# timm 1.0.15 does not know local-dir yet.
_OLD_TIMM = """\
from safetensors.torch import load_file

model = timm.create_model("{architecture}", num_classes={num_classes}, **{model_args})
model.load_state_dict(load_file("path/to/this/folder/model.safetensors"))
model.eval()"""


def model_card(trained: TrainedModel, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The ``README.md`` of an export, in Markdown; text of users is escaped.

    Args:
        trained: The model.
        config: From :func:`~etfhead.experiment.export.config.model_config`.
        summary: The run's, from :func:`~etfhead.experiment.report.summary.summarize`.
    """
    origin = config["etfhead"]
    parts = [
        _front_matter(trained, origin["format"]),
        f"# {escape(trained.recipe.name)}: {escape(trained.choice.arm)}",
        _introduction(trained, config),
        "## Load it",
        _loading(trained, config),
        "## Figures",
        *_figures(trained, summary),
        "## Data",
        _data(trained),
        "## Head and training",
        *_training(trained, origin),
        "## Licence",
        _licence(trained),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(trained: TrainedModel, format_name: str) -> str:
    tags = ["image-classification", "etfhead"]
    fields: dict[str, Any] = {"tags": [*tags[:1], "timm", *tags[1:]]}
    if format_name == "timm":
        fields["library_name"] = "timm"
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _introduction(trained: TrainedModel, config: Mapping[str, Any]) -> str:
    labels = "label sets of" if trained.readout is not None else "one of"
    told = escape(trained.recipe.description).rstrip(".")
    description = f" Recipe: {told}." if told else ""
    return (
        f"An image classifier ({escape(config['architecture'])}) for {labels} {len(trained.class_names):,} "
        f"classes, trained and exported by etfhead {__version__}.{description} Arm, seed and epoch: "
        f"{escape(str(trained.choice))}."
    )


def _loading(trained: TrainedModel, config: Mapping[str, Any]) -> str:
    data = {**trained.data_config, "input_size": tuple(trained.data_config["input_size"])}
    names = list(trained.class_names)
    prepare = _PREPARE.format(data=repr(data), mode="L" if data["input_size"][0] == 1 else "RGB")
    format_name = config["etfhead"]["format"]
    stock = {key: config[key] for key in ("architecture", "num_classes", "model_args")}
    code = f"```python\n{_LOAD[format_name].format(prepare=prepare, **stock)}\n```\n\n"
    if format_name == "timm":
        other = _OLD_TIMM.format(**stock)
        code += f"timm before 1.0.16 makes the model in two steps:\n\n```python\n{other}\n```\n\n"
    if len(names) <= _MOST_NAMES:
        where = f"Classes, in the order of the logits: {', '.join(map(escape, names))}."
    else:
        where = (
            f"The {len(names):,} class names, in the order of the logits: `label_names` of the configuration."
        )
    if trained.readout is not None:
        how = (
            "Label sets are decided by thresholds or prototypes fitted to validation images, which are "
            "`etfhead.readout` of the configuration; `etfhead predict` applies them."
        )
    elif trained.arm.loss == "dot_regression":
        how = "The logits are cosines: their order is meaningful, a softmax over them is not a probability."
    else:
        how = "`logits.softmax(-1)` is the probability; the calibration error below says how far to trust it."
    return f"{code}{where} {how}"


def _figures(trained: TrainedModel, summary: Mapping[str, Any]) -> list[str]:
    score = score_of_recipe(trained.records.recipe)
    choice, arms = trained.choice, summary["arms"]
    when = choice.weights
    second = f"{score.second[0]}_{when}"
    rows = [
        (
            name + (" (this model's)" if name == choice.arm else ""),
            mean_std(arm["figures"][f"test_{score.key}_{when}"]),
            mean_std(arm["figures"].get(second)),
            str(len(arm["seeds_finished"])),
        )
        for name, arm in arms.items()
    ]
    header = ("arm", f"test {score.name} (%)", f"{score.second[1]} (%)", "seeds")
    own = (trained.result.get(when) or {}).get(f"test_{score.key}")
    mine = "" if own is None else f"This model: {own:.2f} % test {score.name}. "
    sentence = (arms[choice.arm].get("verdict") or {}).get("sentence")
    verdict = f"Against {summary['baseline']}: {sentence}" if sentence else summary["verdict"]
    text = (
        f"{mine}Arms of the run, {when} epoch, mean ± standard deviation over seeds "
        f"({', '.join(map(str, summary['seeds']))}); the test part chose neither epoch, seed nor arm."
    )
    # A note on a damaged file names it in full, which is nobody else's business.
    notes = [str(note) for note in summary["notes"] if str(trained.records.folder) not in str(note)]
    told = "\n".join(f"- {escape(note)}" for note in notes)
    return [render_markdown([Table(header, rows, frozenset({0}))]).strip(), text, escape(str(verdict)), told]


def _data(trained: TrainedModel) -> str:
    data, recipe = trained.records.data, trained.recipe
    sizes = data.get("sizes") if isinstance(data.get("sizes"), Mapping) else {}
    images = ", ".join(f"{count:,} {part}" for part, count in (sizes or {}).items() if isinstance(count, int))
    counts = trained.class_counts
    each = f"; {min(counts):,} to {max(counts):,} training images a class" if counts else ""
    config = trained.data_config
    lines = [
        f"- {escape(recipe.dataset)}: {images or 'sizes unknown'} images, "
        f"{len(trained.class_names):,} classes{each}.",
        f"- Digest of images and split: `{_code(data.get('digest', 'unknown'))}`.",
        f"- Evaluation: {recipe.in_chans} x {recipe.img_size} x {recipe.img_size} pixels, "
        f"{config['interpolation']}, crop_pct {config['crop_pct']:g}, mean {_numbers(config['mean'])}, "
        f"std {_numbers(config['std'])} (from {escape(str(data.get('normalization_from', 'unknown')))}).",
        "- Image files: transparency over white, 16-bit grey scaled to 8 bits, EXIF orientation not applied.",
    ]
    return "\n".join(lines)


def _training(trained: TrainedModel, origin: Mapping[str, Any]) -> list[str]:
    recipe = trained.recipe
    settings = json.dumps(origin["settings"], ensure_ascii=False)
    lines = [
        f"- Arm `{_code(trained.choice.arm)}`: `{_code(settings)}`.",
        f"- {recipe.epochs} epochs, {escape(recipe.opt)}, learning rate {recipe.lr:g}, weight decay "
        f"{recipe.weight_decay:g}, batches of {recipe.batch_size}; evaluated weights: "
        f"{escape(str(trained.result.get('weights', 'model')))}.",
        f"- Recipe `{_code(recipe.name)}`; versions: {_versions(trained.records.environment)}.",
    ]
    if not origin["heads"]:
        return ["\n".join(lines)]
    spec = json.dumps(origin["heads"], indent=2)
    if len(spec) > _LONGEST_SPEC:
        return ["\n".join(lines), "The head's frame is `etfhead.heads` of the configuration."]
    text = "The head before it was exported; `etfhead.make_frame(**frame)` rebuilds frames that no data made:"
    return ["\n".join(lines), text, f"```json\n{spec}\n```"]


def _licence(trained: TrainedModel) -> str:
    text = (
        "The licence of these weights is not known to etfhead, whose own licence is of its code only. "
        "Whoever publishes them decides, within the terms of the training images"
    )
    if not trained.recipe.pretrained:
        return text + (" and of the initial weights." if trained.recipe.initial_checkpoint else ".")
    import timm

    config = timm.get_pretrained_cfg(trained.recipe.model, allow_unregistered=True)
    terms = getattr(config, "license", None) or "not recorded"
    name = _code(trained.recipe.model)
    return f"{text} and of the weights it started from: timm's `{name}`, licence there: {escape(str(terms))}."


def _versions(environment: Mapping[str, Any]) -> str:
    names = ("etfhead", "torch", "timm")
    found: Sequence[str] = [f"{name} {environment[name]}" for name in names if environment.get(name)]
    return escape(", ".join(found)) or "unknown"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _code(text: Any) -> str:
    """Inside backticks: they cannot be escaped there, so they are left out."""
    return " ".join(str(text).split()).replace("`", "'")
