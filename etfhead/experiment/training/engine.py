"""The training loop of one arm and seed: train, validate, checkpoint, and the same again after a resume."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from etfhead.errors import Interrupted, TrainingError
from etfhead.experiment.data.workers import WorkerLost
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import is_multilabel, primary_metric
from etfhead.experiment.training.checkpoint import StateFile
from etfhead.experiment.training.collapse import collapse_figures
from etfhead.experiment.training.evaluate import sum_dtype
from etfhead.experiment.training.finite import FiniteWatch, non_finite_state
from etfhead.experiment.training.logbook import Logbook
from etfhead.experiment.training.measure import SplitMeasure
from etfhead.experiment.training.position import Position
from etfhead.experiment.training.progress import ProgressBar
from etfhead.experiment.training.reweighted import begin_epoch
from etfhead.experiment.training.rng import seed_step
from etfhead.experiment.training.session import Session
from etfhead.experiment.training.signals import StopRequest
from etfhead.experiment.training.step import forward, training_figure, update_weights, warm_up
from etfhead.heads import update_heads

__all__ = ["Trainer"]

_AGREE_EVERY = 10  # steps between two questions of several processes to each other


class Trainer:
    """Trains one arm with one seed.

    Args:
        recipe: The comparison.
        arm: Name of the arm, for messages.
        seed: Seed of the run.
        session: Its moving parts.
        states: Its checkpoints.
        num_classes: K.
        class_counts: Training images of each class.
        stop: Asked at every step whether a signal has come.
    """

    def __init__(
        self,
        recipe: Recipe,
        arm: str,
        seed: int,
        *,
        session: Session,
        states: StateFile,
        num_classes: int,
        class_counts: Sequence[int],
        stop: StopRequest,
    ) -> None:
        self.recipe, self.arm, self.seed = recipe, arm, seed
        self.session, self.states, self.num_classes = session, states, num_classes
        self.class_counts, self.stop = class_counts, stop
        self.multilabel, self.metric = is_multilabel(recipe.dataset), primary_metric(recipe)
        self.measure = SplitMeasure(recipe, arm, session, num_classes=num_classes, class_counts=class_counts)
        self.log = Logbook(Position(train_time=session.align_time, align_time=session.align_time))
        self._lost: WorkerLost | None = None

    @property
    def position(self) -> Position:
        """Where the training stands."""
        return self.log.position

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; ``metrics.jsonl`` goes back to what it knows."""
        self.log.load(state)
        self.session.load(state)
        if self.session.accelerator.is_main_process:
            self.log.write_records(self.states.folder)

    def where(self, step: int | None = None) -> str:
        """Say where the training stands, or where a 0-based step of this epoch is."""
        return self.position.describe(step, self.recipe.epochs, self.session.steps_per_epoch)

    def fit(self, bar: ProgressBar) -> None:
        """Train until the last epoch has been validated and checkpointed.

        Args:
            bar: Where progress is shown.

        Raises:
            Interrupted: A signal came; the checkpoint is written.
            TrainingError: Numbers are not finite; nothing was written after the bad step.
            WorkerLost: A loading process died; one process alone has written its checkpoint.
            OSError: The disk is full or unwritable; earlier checkpoints are intact.
        """
        try:
            self._fit(bar)
        except WorkerLost:
            # It is told between two batches, where a signal may stop the run too.
            self._tick(0)
            if self.session.accelerator.num_processes == 1:
                self._save()
            raise

    def _fit(self, bar: ProgressBar) -> None:
        if self.position.updates == 0 and self.log.initial is None:
            initial = {f"val_{name}": value for name, value in self._validate().items()}
            self.log.initial = initial | self._collapse(0)  # both or, after a stop, neither
        if self.position.epoch < self.recipe.epochs:
            warm_up(self.session, self.recipe, self.num_classes)
        while self.position.epoch < self.recipe.epochs:
            bar.describe(self.position.epoch)
            self._train_epoch(bar)
            self._finish_epoch(self._validate())

    def _train_epoch(self, bar: ProgressBar) -> None:
        session, position = self.session, self.position
        if position.step == session.steps_per_epoch:  # stopped during this epoch's validation
            return
        watch = FiniteWatch(session.accelerator.device)
        done = [position.loss_sum, position.correct] if session.accelerator.is_main_process else [0.0, 0.0]
        sums = torch.tensor(done, dtype=sum_dtype(watch.device), device=watch.device)
        _, count_hits = training_figure(self.recipe.dataset)
        stopping = False
        session.train_mode()
        begin_epoch(session.criterion, position.epoch, self.recipe.epochs)
        began = time.perf_counter()
        for images, target, *index in self._batches():
            seed_step(self.seed, position.epoch, position.step, session.accelerator.process_index)
            loss, outputs, predicted, images, target = forward(session, images, target, *index)
            update_weights(session, loss, self.recipe.clip_grad)
            update_heads(session.raw, target)
            watch.see(position.step, images, outputs, loss)
            hits = count_hits(outputs, predicted, target)
            sums += torch.stack([loss.detach() * len(images), hits.sum()])
            whole_batch = len(images) * session.accelerator.num_processes
            self._advance(whole_batch)
            bar.advance(whole_batch)
            if watch.due(position.step):
                self._refuse_non_finite(watch)
                bar.show(loss.item(), position.lr)
            if stopping := self._stop_requested():
                break
        position.loss_sum, position.correct = session.accelerator.reduce(sums).tolist()  # waits for the GPU
        elapsed = time.perf_counter() - began
        position.epoch_time += elapsed
        position.train_time += elapsed
        self._refuse_non_finite(watch)
        if stopping:
            self._interrupt()
        if self._lost is not None:
            raise self._lost

    def _batches(self) -> Iterator[Any]:
        """The rest of this epoch, or what a dead loading process leaves of it."""
        try:
            yield from self.session.train_batches(self.position.epoch, self.position.step)
        except WorkerLost as error:
            if self.session.accelerator.num_processes > 1:  # they add up together, and the others go on
                raise
            self._lost = error

    def _advance(self, images: int) -> None:
        session, position = self.session, self.position
        position.step += 1
        position.updates += 1
        position.seen += images
        position.images += images
        position.lr = session.lr
        if session.scheduler is not None:
            session.scheduler.step_update(position.updates)
        if session.ema is not None:
            session.ema.update(session.raw, step=position.updates)

    def _validate(self) -> dict[str, float]:
        session = self.session
        session.share_statistics()
        try:
            figures, self.log.readout = self.measure(
                session.evaluated, session.val_loader, None, self._tick, session.true_val
            )
        except TrainingError as error:
            raise TrainingError(self._complaint(f"{error} in validation")) from None
        return figures

    def _collapse(self, epochs_done: int) -> dict[str, float]:
        return collapse_figures(self.session, self.recipe, epochs_done, self._tick)

    def _tick(self, images: int) -> None:
        if self.stop.alone(self.session.accelerator) is not None:
            self._interrupt()

    def _finish_epoch(self, val: dict[str, float]) -> None:
        collapse = self._collapse(self.position.epoch + 1)
        hits, _ = training_figure(self.recipe.dataset)
        self.log.close_epoch(val, collapse, model=self.session.evaluated, metric=self.metric, hits=hits)
        self._save()

    def _stop_requested(self) -> bool:
        accelerator, step = self.session.accelerator, self.position.step
        between = step % _AGREE_EVERY and step != self.session.steps_per_epoch
        if between and accelerator.num_processes > 1:
            return False
        return self.stop.agreed(accelerator) is not None

    def _interrupt(self) -> None:
        self._save()
        raise Interrupted(self.stop.signum or signal.SIGTERM, str(self.states.path))

    def _save(self) -> None:
        """Checkpoint, then the metrics: after a crash in between, the checkpoint knows them."""
        session = self.session
        state = session.state()
        if (what := non_finite_state(state)) is not None:
            raise TrainingError(self._complaint(what))
        if session.accelerator.device.type == "cuda":
            self.log.peak_memory = max(self.log.peak_memory, torch.cuda.max_memory_allocated())
        if session.accelerator.is_main_process:
            self.states.save({**self.log.state(), **state})
            self.log.write_records(self.states.folder)
        session.accelerator.wait_for_everyone()

    def _refuse_non_finite(self, watch: FiniteWatch) -> None:
        found = watch.first()
        if found is None:
            return
        step, kind = found
        what = f"the {kind} {'is' if kind == 'loss' else 'are'} not finite"
        if kind == "images":
            items = self.session.non_finite_items(self.position.epoch, step)
            what += f" (training items {', '.join(map(str, items))})" if items else ""
        raise TrainingError(self._complaint(what, step))

    def _complaint(self, what: str, step: int | None = None) -> str:
        """One line: what, where, and what is left."""
        advice = "Check the data, lower lr, set clip_grad, or train in float32"
        return f"arm {self.arm!r}, seed {self.seed}: {what} at {self.where(step)}; {self.left()}. {advice}"

    def lost(self, worker: WorkerLost) -> TrainingError:
        """What to say when a loading process has died."""
        advice = "lower workers or batch_size, then start again with --resume"
        where = f"{worker} at {self.where()}"
        return TrainingError(f"arm {self.arm!r}, seed {self.seed}: {where}; {self.left()}; {advice}")

    def left(self) -> str:
        """What an error leaves behind."""
        good = self.states.last_good
        return f"last good checkpoint: {good}" if good else "no checkpoint was written yet"
