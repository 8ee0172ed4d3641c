"""NaN and Inf wherever a training has numbers: it stops, says where, and keeps the last good state."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.faults.kills import Outcome
from tests.faults.runs import call, compare, in_process

__all__ = ["PLACES", "not_finite"]

_NAN, _INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Place:
    """Where a number stops being finite in the second arm.

    Args:
        spoil: Prepares it in the process of the run.
        told: What the message must name.
        words: Overrides of the recipe.
        first: It happens before the first checkpoint.
    """

    spoil: Callable[[], None]
    told: tuple[str, ...]
    words: tuple[str, ...] = ()
    first: bool = False


def not_finite(
    recipe: Path, whole: Path, names: tuple[str, ...] | None = None, *, report: bool = True
) -> Iterator[Outcome]:
    """Spoil a run, read what it says, and resume it without the fault.

    Args:
        recipe: Its file.
        whole: Folder of the uninterrupted run.
        names: Only these places of :data:`PLACES`.
        report: Write the report too.
    """
    out = whole.with_name("nan")
    kept = out / "arms/etf/seed0/state.pt"
    for name in names or PLACES:
        place = PLACES[name]
        shutil.rmtree(out, ignore_errors=True)
        words = ["run", recipe, *place.words, "--out", out]
        ended = in_process(call(words, before=place.spoil, report=report), out.with_suffix(".log"))
        left = "no checkpoint was written yet" if place.first else f"last good checkpoint: {kept}"
        told = " ".join(ended.told.split())
        missing = [part for part in ("arm 'etf', seed 0", *place.told, left) if part not in told]
        if not ended.refused or missing:
            yield name, f"exit code {ended.code}, not told: {missing}: {ended.told[-300:]}"
            continue
        if place.first == kept.exists():
            yield name, f"{kept} is {'there' if place.first else 'missing'}"
            continue
        ended = in_process(call([*words, "--resume"], report=report), out.with_suffix(".log"))
        if ended.code:
            yield name, f"resume: exit code {ended.code}: {ended.told[-300:]}"
            continue
        # With other settings there is no uninterrupted run to compare with; it came to its end.
        yield name, "" if place.words else ", ".join(compare(whole, out))


def _in_step(epoch: int, step: int, act: Callable[..., None]) -> Callable[[], None]:
    """Prepare: ``act(trainer)`` after this 0-based epoch's and 1-based step's update in the arm ``etf``."""

    def prepare() -> None:
        from etfhead.experiment.training.engine import Trainer

        plain = Trainer._advance

        def advance(trainer: Trainer, images: int) -> None:
            plain(trainer, images)
            if (trainer.arm, trainer.position.epoch, trainer.position.step) == ("etf", epoch, step):
                with torch.no_grad():
                    act(trainer)

        Trainer._advance = advance  # type: ignore[method-assign]

    return prepare


def _loss(value: float, epoch: int, step: int) -> Callable[[], None]:
    """Prepare: the loss of that 1-based step is not finite."""

    def prepare() -> None:
        from etfhead.experiment.training import engine

        plain_forward, plain_fit, fitted = engine.forward, engine.Trainer.fit, []

        def forward(session, images, target, *index):
            loss, *rest = plain_forward(session, images, target, *index)
            trainer = fitted[-1]
            at = (trainer.arm, trainer.position.epoch, trainer.position.step + 1)
            return (loss * value if at == ("etf", epoch, step) else loss), *rest

        def fit(trainer, bar):
            fitted.append(trainer)
            plain_fit(trainer, bar)

        engine.forward, engine.Trainer.fit = forward, fit

    return prepare


def _gradient(epoch: int, step: int) -> Callable[[], None]:
    """Prepare: that step's gradient of one weight is NaN, under a finite loss."""

    def prepare() -> None:
        from etfhead.experiment.training import engine

        plain_update, plain_fit, fitted = engine.update_weights, engine.Trainer.fit, []

        def update(session, loss, clip_grad):
            trainer = fitted[-1]
            at = (trainer.arm, trainer.position.epoch, trainer.position.step + 1)
            if at == ("etf", epoch, step):
                weight = next(parameter for parameter in session.raw.parameters() if parameter.requires_grad)
                weight.register_post_accumulate_grad_hook(_spoil_gradient)
            plain_update(session, loss, clip_grad)

        def fit(trainer, bar):
            fitted.append(trainer)
            plain_fit(trainer, bar)

        engine.update_weights, engine.Trainer.fit = update, fit

    return prepare


def _spoil_gradient(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.view(-1)[0] = _NAN


def _spoil_average(trainer) -> None:
    next(trainer.session.ema.module.parameters()).view(-1)[0] = _NAN


def _spoil_statistics(trainer) -> None:
    # An infinite variance gives zeros, and finite logits.
    for model in (trainer.session.raw, trainer.session.ema.module):
        next(b for name, b in model.named_buffers() if name.endswith("running_var")).fill_(_INF)


def _spoil_optimizer(trainer) -> None:
    for state in trainer.session.optimizer.state.values():
        state["exp_avg"].view(-1)[0] = _NAN


_LAST = 10  # steps of an epoch of the small recipe: 160 images in batches of 16
_NETS = ("model=test_resnet", "model_kwargs={}", "img_size=32", "~arms.early_learning")
PLACES = {
    "NaN loss in the middle": Place(_loss(_NAN, 1, 3), ("the loss is not finite", "epoch 2 of 2, step 3")),
    "infinite loss in the first step": Place(
        _loss(_INF, 0, 1), ("the loss is not finite", "epoch 1 of 2, step 1"), first=True
    ),
    "NaN loss under bfloat16": Place(
        _loss(_NAN, 1, 3), ("the loss is not finite", "epoch 2 of 2, step 3"), ("amp_dtype=bfloat16",)
    ),
    "NaN gradient under clip_grad": Place(
        _gradient(1, 3), ("the logits are not finite", "epoch 2 of 2, step 4"), ("clip_grad=1.0",)
    ),
    "NaN gradient in the last step": Place(_gradient(1, _LAST), ("not finite", "epoch 2 of 2")),
    "NaN in the moving average alone": Place(
        _in_step(1, 3, _spoil_average), ("the logits are not finite in validation", "epoch 2 of 2")
    ),
    "NaN in the optimizer alone": Place(
        _in_step(0, _LAST, _spoil_optimizer), ("the optimizer's state (exp_avg of parameter 0)",), first=True
    ),
    "infinite statistics of BatchNorm": Place(
        _in_step(1, 3, _spoil_statistics), ("not finite", "epoch 2 of 2"), _NETS
    ),
}  # fmt: skip
