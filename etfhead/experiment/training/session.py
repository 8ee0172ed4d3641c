"""The moving parts of one training run, and their state for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etfhead.experiment.arm_checks import STATEFUL_LOSSES, is_oriented
from etfhead.experiment.data import KeyedBatchSampler, Splits, make_train_loader
from etfhead.experiment.data.datasets import IndexedDataset
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.training.accounting import head_modules
from etfhead.experiment.training.arms import build_loss, build_mixup, build_model
from etfhead.experiment.training.class_losses import LossFacts
from etfhead.experiment.training.collapse import build_collapse_monitor, build_tail_geometry
from etfhead.experiment.training.memorization_setup import build_memorization_monitor, true_share
from etfhead.experiment.training.optimization import build_optimizer, build_scheduler
from etfhead.experiment.training.orient import orient
from etfhead.experiment.training.shares import Loader, Share, dataset_size, eval_share
from etfhead.experiment.training.trainable import frozen_modules, train_mode

if TYPE_CHECKING:
    from accelerate import Accelerator
    from timm.data import Mixup
    from timm.utils import ModelEmaV3

    from etfhead.experiment.data.target_scaling import TargetScaling
    from etfhead.experiment.training.memorization import MemorizationMonitor
    from etfhead.experiment.training.regression_monitor import RegressionMonitor
    from etfhead.experiment.training.tail_geometry import TailGeometry
    from etfhead.metrics import CollapseMonitor

__all__ = ["Session"]


@dataclass
class Session:
    """Model, optimizer, data and randomness of one arm and seed, on their device.

    ``raw`` is the model as built; ``model`` is what accelerate made of it (DDP, autocast). The average
    (``ema``) is taken of ``raw`` before that, so its state dict has the same names.
    """

    accelerator: Accelerator
    raw: nn.Module
    heads: dict[str, nn.Module]
    frozen: list[nn.Module]
    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    criterion: Any
    fused: bool
    stateful: bool
    mixup: Mixup | None
    sampler: KeyedBatchSampler
    train_loader: Loader
    val_loader: Loader
    memory_format: torch.memory_format
    steps_per_epoch: int
    share: int
    align_time: float
    monitor: CollapseMonitor | RegressionMonitor | None
    memorization: MemorizationMonitor | None
    tail: TailGeometry | None
    true_val: Tensor | None
    scaling: TargetScaling | None

    @classmethod
    def build(
        cls,
        recipe: Recipe,
        arm: str,
        seed: int,
        splits: Splits,
        accelerator: Accelerator,
        *,
        title: str = "",
        resumed: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> Session:
        """Build everything from the recipe; the same for every arm of a seed up to head and loss.

        Args:
            recipe: The comparison.
            arm: Name of the arm.
            seed: Seed of the run.
            splits: The data.
            accelerator: Device, precision, processes.
            title: Says which arm and seed, where the pass that orients class vectors is shown.
            resumed: A checkpoint will be loaded, with class vectors that were oriented before.
            tick: Called after each batch of that pass; may raise to stop.
        """
        options = recipe.arms[arm]
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        facts = LossFacts.of(splits)
        raw = build_model(
            recipe,
            options,
            splits.num_classes,
            seed,
            class_counts=splits.class_counts,
            target_statistics=facts.target_statistics,
        )
        raw.to(accelerator.device).to(memory_format=layout)
        heads = head_modules(raw)  # not to be found in a compiled model
        align_time = 0.0
        if is_oriented(options) and not resumed:  # before anything copies or wraps the model
            plain = eval_share(splits.plain, recipe, accelerator)
            blank = torch.zeros(recipe.batch_size, recipe.in_chans, recipe.img_size, recipe.img_size)
            shown: dict[str, Any] = {"blank": blank, "title": title, "tick": tick}
            try:
                align_time = orient(raw, options, plain, accelerator=accelerator, **shown)
            except ValueError as error:  # also of an image that cannot be decoded
                raise type(error)(f"arm {arm!r}, seed {seed}: orient: {error}") from error
        ema = None
        if recipe.model_ema:
            from timm.utils import ModelEmaV3

            ema = ModelEmaV3(raw, decay=recipe.model_ema_decay, use_warmup=True)
        # Before anything wraps or compiles the model that it looks into.
        watched = raw if ema is None else ema.module
        monitor = build_collapse_monitor(watched, recipe, splits, accelerator)
        memorization = build_memorization_monitor(watched, recipe, splits, accelerator)
        sampler = KeyedBatchSampler(dataset_size(splits.train), recipe.batch_size, seed)
        mixup = build_mixup(recipe, options, splits.num_classes)
        model, optimizer = accelerator.prepare(raw, build_optimizer(recipe, raw))
        if recipe.torchcompile:
            # Compiled code is kept by function, a few versions at most: after some arms the next ones would
            # silently run uncompiled, and lose the comparison of speed.
            torch.compiler.reset()
            raw.compile()  # in place: the names in the state dict stay
        rank, world = accelerator.process_index, accelerator.num_processes
        loader = {"workers": recipe.workers, "pin_memory": accelerator.device.type == "cuda"}
        share: Any = Share(sampler, rank, world, even=mixup is not None)
        if share.size < 1:
            raise ValueError(
                f"batch_size: {sampler.batch_size} images cannot be shared by {world} process(es)"
                + (" in pairs, as mixup and cutmix need" if mixup is not None else "")
            )
        stateful = options.loss in STATEFUL_LOSSES
        train: Any = IndexedDataset(splits.train) if stateful else splits.train  # type: ignore[arg-type]
        criterion = build_loss(recipe, options, raw, facts).to(accelerator.device)
        return cls(
            accelerator=accelerator,
            raw=raw,
            heads=heads,
            frozen=[] if recipe.trainable is None else frozen_modules(raw),
            model=model,
            ema=ema,
            optimizer=optimizer,
            scheduler=build_scheduler(recipe, optimizer.optimizer, len(sampler)),
            criterion=criterion,
            fused=bool(options.fused),
            stateful=stateful,
            mixup=mixup,
            sampler=sampler,
            train_loader=make_train_loader(train, share, **loader),
            val_loader=eval_share(splits.val, recipe, accelerator),
            memory_format=layout,
            steps_per_epoch=len(sampler),
            share=share.size,
            align_time=align_time,
            monitor=monitor,
            memorization=memorization,
            tail=build_tail_geometry(watched, criterion, recipe, splits, accelerator),
            true_val=true_share(splits.true_val, accelerator),
            scaling=splits.targets,
        )

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy counts and whose weights are kept: the average where there is one."""
        module: nn.Module = self.raw if self.ema is None else self.ema.module
        return module

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def train_mode(self) -> None:
        """Training mode, frozen parts in evaluation mode."""
        train_mode(self.model, self.frozen)
        if self.stateful:
            self.criterion.train()

    def share_statistics(self) -> None:
        """Give every process the first one's batch statistics: each has followed its own share's."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            broadcast(list(self.evaluated.state_dict().values()))  # in place

    def train_batches(self, epoch: int, start_step: int) -> Loader:
        """This process's batches of an epoch, from a step on."""
        self.sampler.set_epoch(epoch, start_step)
        return self.train_loader

    def non_finite_items(self, epoch: int, step: int) -> list[int]:
        """Positions of the training images with NaN or Inf in the batch of a step."""
        self.sampler.set_epoch(epoch, step)
        batch = next(iter(self.sampler))
        dataset = self.train_loader.dataset
        return sorted(index for index, key in batch if not dataset[index, key][0].isfinite().all())

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only: loads with ``weights_only=True``."""
        scaler = self.accelerator.scaler
        if self.stateful:
            self.criterion.synchronize()  # on every process: each has followed its own images
        return {
            "model": self.raw.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "criterion": self.criterion.state_dict() if self.stateful else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`. The schedule has none: the learning rate is the optimizer's."""
        self.raw.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.stateful:
            self.criterion.load_state_dict(state["criterion"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
