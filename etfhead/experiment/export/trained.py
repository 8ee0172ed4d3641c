"""A finished model of a run, rebuilt from its recipe and weights, with what it takes to use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from etfhead.errors import CheckpointError
from etfhead.experiment.checksums import wrong_files
from etfhead.experiment.data.rng import preserved_rng
from etfhead.experiment.export.choice import Choice
from etfhead.experiment.long_tail_checks import COUNTED_FRAMES
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.report.records import RunRecords
from etfhead.experiment.run_folder import seed_folder
from etfhead.experiment.schema import recipe_from_dict
from etfhead.experiment.task import is_multilabel, is_regression
from etfhead.experiment.training.arms import build_model
from etfhead.experiment.training.checkpoint import STATE, read_state
from etfhead.experiment.training.fingerprint import recorded_differences
from etfhead.losses import log_prior

if TYPE_CHECKING:
    from etfhead.experiment.training.label_figures import Readout

__all__ = ["TrainedModel", "load_trained"]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained model and what belongs to it.

    Args:
        records: The run it is from.
        recipe: The run's recipe.
        choice: Arm, seed and weights.
        model: In evaluation mode, on the CPU, with the head it was trained with.
        class_names: K names, in the order of the logits.
        class_counts: Images of each class that it trained on, (K,), where the run folder tells.
        data_config: How images were prepared for evaluation, under timm's names: ``input_size``,
            ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``.
        shift: Subtracted from the logits of an arm with ``posthoc`` adjustment, (K,); None for other arms.
        readout: On multi-label data what turns logits into label sets; None elsewhere.
    """

    records: RunRecords
    recipe: Recipe
    choice: Choice
    model: nn.Module
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...] | None
    data_config: dict[str, Any]
    shift: Tensor | None
    readout: Readout | None

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) that the run evaluated, of normalised images (B, C, H, W)."""
        found: Tensor = self.model(images)
        return found if self.shift is None else found - self.shift.to(found)

    @property
    def arm(self) -> Arm:
        """Head and loss."""
        return self.recipe.arms[self.choice.arm]

    @property
    def result(self) -> dict[str, Any]:
        """``result.json`` of this arm and seed."""
        return self.records.runs[self.choice.arm][self.choice.seed].result or {}


def load_trained(records: RunRecords, choice: Choice) -> TrainedModel:
    """Build the model of an arm and seed and load its weights.

    Nothing is downloaded and no initial checkpoint is looked for: the weights of the run are complete.

    Args:
        records: The run.
        choice: Arm, seed and weights, from :func:`~etfhead.experiment.export.choice.rank_models`.

    Raises:
        ValueError: If the run is on real-valued targets, ``data.json`` lacks the class names or the
            normalisation, or the model cannot be built.
        CheckpointError: If the weights are missing, damaged, or of another model; on multi-label data, if the
            training state that holds the thresholds is.
    """
    recipe = recipe_from_dict(records.recipe, str(records.folder / "recipe.yaml"))
    if is_regression(recipe.dataset):
        raise ValueError(
            f"{records.folder}: a run on real-valued targets; only classes and label sets are exported and "
            "predicted, its weights are in arms/<arm>/seed<k>"
        )
    names, mean, std = _data_facts(records)
    arm, counts = recipe.arms[choice.arm], _class_counts(records, choice.seed, len(names))
    if counts is None and (arm.posthoc or arm.frame in COUNTED_FRAMES):
        option = "posthoc adjustment" if arm.posthoc else f"frame {arm.frame}"
        raise ValueError(
            f"{records.folder / 'data.json'}: no usable class_counts of seed {choice.seed}, which the arm's "
            f"{option} needs; the file is missing or damaged, restore it from the run"
        )
    bare = dataclasses.replace(recipe, pretrained=False, initial_checkpoint=None, trainable=None)
    with preserved_rng():
        model = build_model(bare, arm, len(names), choice.seed, class_counts=counts)
    folder = seed_folder(records.folder, choice.arm, choice.seed)
    file = f"{choice.weights}.safetensors"
    result = records.runs[choice.arm][choice.seed].result or {}
    recorded, digest = result.get("fingerprint") or {}, records.data.get("digest")
    if differs := recorded_differences(recipe, choice.arm, choice.seed, recorded, digest):
        raise CheckpointError(
            f"{records.folder}: recipe.yaml or data.json is damaged or of another run: {differs} ('there' is "
            f"result.json of arm {choice.arm!r}, seed {choice.seed}); restore it from the run"
        )
    if wrong := wrong_files(folder, result, (file,)):
        raise CheckpointError(f"{'; '.join(wrong)}; etfhead run ... --resume makes it again")
    _load_weights(model, folder / file)
    model.requires_grad_(False)
    size = (recipe.in_chans, recipe.img_size, recipe.img_size)
    return TrainedModel(
        records=records,
        recipe=recipe,
        choice=choice,
        model=model.eval(),
        class_names=names,
        class_counts=counts,
        data_config={
            "input_size": size,
            "interpolation": recipe.interpolation,
            "mean": mean,
            "std": std,
            "crop_pct": recipe.crop_pct,
            "crop_mode": "center",
        },
        shift=_shift(arm, counts),
        readout=_readout(records, choice, folder) if is_multilabel(recipe.dataset) else None,
    )


def _data_facts(records: RunRecords) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    found = {key: records.data.get(key) for key in ("class_names", "mean", "std")}
    lacking = [key for key, value in found.items() if not isinstance(value, list) or not value]
    if lacking:
        raise ValueError(
            f"{records.folder / 'data.json'}: no usable {' and '.join(lacking)}; the file is missing or "
            "damaged, restore it from the run"
        )
    names, mean, std = found.values()
    return tuple(map(str, names or ())), tuple(map(float, mean or ())), tuple(map(float, std or ()))


def _class_counts(records: RunRecords, seed: int, num_classes: int) -> tuple[int, ...] | None:
    draws: Any = records.data.get("draws")
    # Where every seed draws its images, those beside the draws are of the first seed alone.
    facts = records.data if draws is None else draws.get(str(seed)) if isinstance(draws, Mapping) else None
    counts: Any = facts.get("class_counts") if isinstance(facts, Mapping) else None
    if not isinstance(counts, list) or len(counts) != num_classes:
        return None
    return tuple(counts) if all(type(count) is int for count in counts) else None


def _shift(arm: Arm, class_counts: Sequence[int] | None) -> Tensor | None:
    if not arm.posthoc or class_counts is None:
        return None
    return log_prior(class_counts, tau=arm.posthoc).float()


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; without it this arm and seed must be trained again (delete its folder, then "
            "etfhead run ... --resume)"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: does not fit the model of the recipe ({reason[:300]}); another version of timm or of "
            "etfhead may have written it (env.json says which)"
        ) from error


def _readout(records: RunRecords, choice: Choice, folder: Path) -> Readout:
    """What label sets were decided with on the test set: fitted to validation, kept in the state."""
    result: Mapping[str, Any] = records.runs[choice.arm][choice.seed].result or {}
    path = folder / STATE
    if not path.exists():
        raise CheckpointError(
            f"{path}: missing, and with it the thresholds that label sets are decided by; they are in no "
            "other file of the run"
        )
    state = read_state(path, result.get("fingerprint") or {})
    holder = state.get("best") or {} if choice.weights == "best" else state
    readout: Readout | None = holder.get("readout")
    if readout is None:
        raise CheckpointError(f"{path}: holds no thresholds for label sets; it is not of a finished run")
    return readout
