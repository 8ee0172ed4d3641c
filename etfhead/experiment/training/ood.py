"""How well a trained network tells its test images from those of another data set, by five scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from etfhead.experiment.training.layer_features import layer_features
from etfhead.experiment.training.shares import eval_share
from etfhead.losses import log_prior
from etfhead.metrics import nci_score, neco_score, principal_directions
from etfhead.metrics.class_moments import ClassMoments, add_batch, empty_moments, merge_moments
from etfhead.metrics.last_layer_input import class_vectors, find_last_layer, unwrapped

if TYPE_CHECKING:
    from accelerate import Accelerator

    from etfhead.experiment.data import Splits
    from etfhead.experiment.recipe import Recipe
    from etfhead.metrics.ood import PrincipalDirections

__all__ = ["OOD_SCORES", "TrainingFit", "fit_training", "ood_figures", "ood_scores"]

OOD_SCORES = ("max_logit", "max_softmax", "neco", "neco_logit", "nci")

Batches = Iterable[Sequence[Tensor]]
Tick = Callable[[int], None]


class TrainingFit(NamedTuple):
    """What the scores know of training and layer: where features vary, and why some scores do not exist."""

    directions: PrincipalDirections | None
    mean: Tensor
    vectors: Tensor | None
    problems: dict[str, str]


def ood_figures(
    recipe: Recipe, arm: str, model: nn.Module, splits: Splits, accelerator: Accelerator, tick: Tick
) -> dict[str, Any]:
    """AUROC of each score, test images against those of the recipe's ``ood_dataset``.

    Nothing is chosen by either set: what NECO and NCI fit, they fit to the features of all training images,
    without augmentation.

    Args:
        recipe: Batch size.
        arm: Name of the arm.
        model: Any weights of the arm's model.
        splits: With other images beside the test images.
        accelerator: Gives this process's share.
        tick: Called with the number of images after each batch; may raise to stop.

    Returns:
        dict: ``ood_auroc_<score>`` in percent (50 = chance) for each of :data:`OOD_SCORES`; ``ood_images``;
        and under ``ood_problems`` why a score is missing, if one is.
    """
    model = unwrapped(model)
    layer = find_last_layer(model)[1]
    assert splits.ood is not None  # noqa: S101 - the caller asks
    tau = recipe.arms[arm].posthoc
    shift = log_prior(splits.class_counts, tau=tau).to(accelerator.device) if tau else None
    fit = fit_training(model, layer, eval_share(splits.plain, recipe, accelerator), accelerator, tick)
    known, other = (
        _gathered(
            ood_scores(model, layer, eval_share(some, recipe, accelerator), fit, shift, tick), accelerator
        )
        for some in (splits.test, splits.ood)
    )
    problems = dict(fit.problems)
    figures: dict[str, Any] = {"ood_images": len(other)}
    for at, name in enumerate(OOD_SCORES):
        if name in problems:
            continue
        inside, outside = known[:, at], other[:, at]
        bad = int((~inside.isfinite()).sum() + (~outside.isfinite()).sum())
        if bad:
            problems[name] = f"not finite for {bad} images"
            continue
        figures[f"ood_auroc_{name}"] = 100.0 * _auroc(inside, outside)
    return figures | ({"ood_problems": problems} if problems else {})


def fit_training(
    model: nn.Module, layer: nn.Module, batches: Batches, accelerator: Accelerator, tick: Tick
) -> TrainingFit:
    """Mean and principal directions of the features of training images, over all processes.

    Args:
        model: Not wrapped.
        layer: Its last one.
        batches: Training images without augmentation, this process's share; labels are not read.
        accelerator: Gives the other processes' shares.
        tick: Called with the number of images after each batch; may raise to stop.
    """
    moments: list[ClassMoments] = []
    device = torch.device("cpu") if accelerator.device.type == "mps" else accelerator.device

    def add(features: Tensor, _scores: Tensor, _labels: list[Tensor]) -> None:
        wide = features.to(device, torch.float64)
        if not moments:
            moments.append(empty_moments(1, wide.shape[1], device=device))
        add_batch(moments[0], wide, torch.zeros(len(wide), dtype=torch.int64, device=device))

    layer_features(model, layer, batches, add, tick)
    whole = _merged(moments[0], accelerator)
    mean = whole.sums[0] / whole.counts.clamp(min=1.0)
    problems: dict[str, str] = {}
    directions = None
    try:
        directions = principal_directions(whole)
    except ValueError as error:  # a network whose features are all one
        problems |= dict.fromkeys(("neco", "neco_logit"), str(error))
    if directions is not None and len(directions.components) == whole.sums.shape[1]:
        reason = "90 % of the variance takes every direction, so no feature has a part outside of them"
        problems |= dict.fromkeys(("neco", "neco_logit"), reason)
    with torch.autocast(accelerator.device.type, enabled=False):
        vectors, _ = class_vectors(layer)
    if vectors is None:
        problems["nci"] = "the class vectors are too many to write out, or unknown"
    return TrainingFit(directions, mean, None if vectors is None else vectors.to(mean), problems)


def ood_scores(
    model: nn.Module, layer: nn.Module, batches: Batches, fit: TrainingFit, shift: Tensor | None, tick: Tick
) -> Tensor:
    """The scores of images, (n, 5) as :data:`OOD_SCORES`; NaN where one does not exist.

    In place of the largest softmax probability stands a function that rises with it and does not round to 1:
    minus the logarithm of one plus the odds of the other classes.

    Args:
        model: Not wrapped.
        layer: Its last one.
        batches: Images and labels, which are not read.
        fit: Of the training images.
        shift: (K,) to subtract from the logits first; None for none.
        tick: Called with the number of images after each batch; may raise to stop.
    """
    rows: list[Tensor] = [torch.empty(0, len(OOD_SCORES), dtype=torch.float64, device=fit.mean.device)]

    def see(features: Tensor, scores: Tensor, _labels: list[Tensor]) -> None:
        features, logits = features.to(fit.mean), scores.to(fit.mean)
        logits = logits if shift is None else logits - shift.to(logits)
        found = torch.full((len(features), len(OOD_SCORES)), torch.nan, dtype=torch.float64).to(fit.mean)
        good = logits.isfinite().all(1)
        features, logits = features[good], logits[good]
        top, predicted = logits.max(1)
        others = (logits - top[:, None]).exp().scatter(1, predicted[:, None], 0.0).sum(1)
        columns = {"max_logit": top, "max_softmax": -others.log1p()}
        if fit.directions is not None:
            columns["neco"] = neco_score(features, fit.directions)
            columns["neco_logit"] = columns["neco"] * top
        if fit.vectors is not None:
            columns["nci"] = nci_score(features, fit.vectors, fit.mean, predictions=predicted)
        for name, column in columns.items():
            found[good, OOD_SCORES.index(name)] = column
        rows.append(found)

    layer_features(model, layer, batches, see, tick)
    return torch.cat(rows)


def _auroc(inside: Tensor, outside: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))])
    return float(roc_auc_score(labels.numpy(), torch.cat([inside, outside]).numpy()))


def _merged(moments: ClassMoments, accelerator: Accelerator) -> ClassMoments:
    if accelerator.num_processes == 1:
        return moments
    shared = [accelerator.gather(part[None].to(accelerator.device)) for part in moments]
    whole, *rest = (ClassMoments(*parts) for parts in zip(*shared, strict=True))
    for each in rest:
        whole = merge_moments(whole, each)
    return whole


def _gathered(scores: Tensor, accelerator: Accelerator) -> Tensor:
    """The scores of all processes, on the CPU."""
    if accelerator.num_processes == 1:
        return scores.cpu()
    counts = accelerator.gather(torch.tensor([len(scores)], device=accelerator.device)).tolist()
    padded = accelerator.gather(accelerator.pad_across_processes(scores.to(accelerator.device)))
    parts = padded.cpu().split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
