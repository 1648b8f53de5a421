"""What trains a group of replicates: the interface, and the ordinary way, in plain PyTorch through their modules."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from multimodal_loss.datasets import Batch, Draws
from multimodal_loss.errors import UserError
from multimodal_loss.training.evaluate import Validation
from multimodal_loss.training.replicate import Recipe, Replicate, as_fusion_input


class GroupTrainer(Protocol):
    """What the loop needs. `active` lists the positions, in the order given at the start, that still train."""

    active: list[int]

    def step(self) -> Tensor | None:
        """Train every active replicate up to the next place where it may be saved.

        Returns the losses of an epoch (len(active),) if it ends there, or what the fusions monitor instead: means over
        its samples, each with the weights from before its update. None in the middle of an epoch.
        """
        ...

    def validation_values(self, monitors: Sequence[str]) -> list[list[float]]:
        """For each monitor one number per active replicate, less is better, with the weights as they are now."""
        ...

    def end_epoch(self, watched: Sequence[float]) -> None:
        """Move the learning-rate schedule on; `watched`, one number per active replicate, is what a plateau is of."""
        ...

    def retire(self, positions: Sequence[int]) -> None:
        """Stop training these replicates; their modules hold the weights they ended with."""
        ...

    def synchronise(self) -> None:
        """Make every replicate's modules hold its current weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the modules do not hold: the optimiser's state. Loadable with weights_only=True."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, whose weights the modules already hold."""
        ...


class OrdinaryTrainer:
    """One replicate, a batch a step: all training samples, or `trainer.batch_size` of them in a random order that is
    drawn anew for every epoch from the replicate's seed.

    The split makes the batches; one that lies in memory is moved to the device first. The last batch of an epoch is
    what is left, which `trainer.drop_last` leaves out. Nothing waits for the device within an epoch.

    Raises UserError where that would leave nothing.
    """

    def __init__(self, replicate: Replicate, recipe: Recipe, device: torch.device) -> None:
        self.active = [0]
        self._replicate, self._recipe, self._device = replicate, recipe, device
        self._validation = Validation([replicate], recipe, device)
        self._train = replicate.data.train.to(device)
        replicate.backbone.to(device).train()
        replicate.fusion.to(device).train()
        fusion = replicate.fusion
        self._modality_parameters = replicate.modality_parameters() if fusion.needs_modality_parameters else None
        if fusion.reads_index and (rows := self._train.rows_per_sample) > 1:
            raise UserError(
                f"{type(fusion).__name__} remembers the loss of each training sample, of which these data make {rows} "
                "rows each; take another method, or dataset.modality_dropout=none"
            )
        if recipe.trainer.compile:
            if fusion.needs_modality_parameters:
                raise UserError(
                    f"trainer.compile=true: {type(fusion).__name__} walks back through the backbone twice, which a "
                    "compiled one does not allow; leave it false"
                )
            replicate.backbone.compile()
        if recipe.trainer.drop_last and len(self._train) < (recipe.trainer.batch_size or 0):
            raise UserError(
                f"trainer.drop_last=true: {len(self._train)} training samples are no whole batch of "
                f"{recipe.trainer.batch_size}; take a smaller trainer.batch_size"
            )
        self._optimizer = recipe.make_optimizer(replicate)
        self._scheduler = _make_scheduler(recipe, self._optimizer)
        self._generator = torch.Generator().manual_seed(replicate.seed)
        self._epochs = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._order: Tensor | None = None
        if (size := self._recipe.trainer.batch_size) is not None:
            self._order = torch.randperm(len(self._train), generator=self._generator).to(self._device)
            if self._recipe.trainer.drop_last:
                self._order = self._order[: len(self._order) // size * size]
        self._seen = 0
        dtype = next(self._replicate.backbone.parameters()).dtype
        self._loss_sum = torch.zeros((), dtype=dtype, device=self._device)
        self._batches: Iterator[Batch] | None = None

    def step(self) -> Tensor | None:
        if self._batches is None:  # of an epoch that begins, or goes on after a checkpoint was loaded
            left = None if self._order is None else self._order[self._seen :]
            self._replicate.fusion.begin_epoch(self._epochs + 1, len(self._train))
            draws, size = Draws(self._replicate.seed, self._epochs), self._recipe.trainer.batch_size
            self._batches = self._train.batches(left, size, self._device, draws, self._recipe.workers)
        batch = next(self._batches)
        loss = self._update(batch)
        if self._order is not None:
            samples = len(batch.target) // self._train.rows_per_sample
            self._loss_sum += loss * samples
            self._seen += samples
            if self._seen < len(self._order):
                return None
            loss = self._loss_sum / len(self._order)
        self._epochs += 1
        self._begin_epoch()
        return loss[None]

    def _update(self, batch: Batch) -> Tensor:
        """One forward, backward and update; what is monitored (), the loss of before the update."""
        trainer, fusion, backbone = self._recipe.trainer, self._replicate.fusion, self._replicate.backbone
        self._optimizer.zero_grad()
        amp = torch.autocast(self._device.type, torch.bfloat16) if trainer.amp else contextlib.nullcontext()
        losses = []
        for inputs, target, index, mask in _parts(batch, trainer.accumulate):
            with amp:
                scores = backbone(inputs)
            if trainer.amp:
                scores = scores.float()  # a softmax of bfloat16 is exactly 1 from 0.998 on
            scores = as_fusion_input(scores, self._recipe.fusion_input)
            masked = {} if mask is None else {"mask": mask}
            loss: Tensor = fusion(scores, target, index, **masked)
            share = len(target) / len(batch.target)
            fusion.backward(loss, scores, target, self._modality_parameters, share, **masked)
            losses.append(fusion.monitored(scores.detach(), target, loss.detach(), **masked) * share)
        if trainer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(backbone.parameters(), trainer.clip_norm)
        self._optimizer.step()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def validation_values(self, monitors: Sequence[str]) -> list[list[float]]:
        return self._validation.values(self.active, monitors)

    def end_epoch(self, watched: Sequence[float]) -> None:
        with _bad_value_named():
            if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self._scheduler.step(watched[0])
            elif self._scheduler is not None:
                self._scheduler.step()

    def retire(self, positions: Sequence[int]) -> None:
        self.active = [p for p in self.active if p not in positions]

    def synchronise(self) -> None:
        pass  # the modules are what trains

    def state_dict(self) -> dict[str, Any]:
        return {
            "active": self.active,
            "epochs": self._epochs,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "generator": self._generator.get_state(),
            "order": self._order,
            "seen": self._seen,
            "loss_sum": self._loss_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active, self._epochs, self._seen = list(state["active"]), state["epochs"], state["seen"]
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self._generator.set_state(state["generator"])
        self._order = None if state["order"] is None else state["order"].to(self._device)
        self._loss_sum = state["loss_sum"].to(self._device)


def _parts(batch: Batch, number: int) -> Iterator[Batch]:
    """The batch in so many parts of nearly equal size; fewer where it has fewer samples."""
    if number == 1:
        yield batch
        return
    number = min(number, len(batch.target))
    inputs = zip(*(x.tensor_split(number) for x in batch.inputs), strict=True)
    masks = [None] * number if batch.mask is None else batch.mask.tensor_split(number)
    yield from map(Batch, inputs, batch.target.tensor_split(number), batch.index.tensor_split(number), masks)


def _make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    with _bad_value_named():
        return None if recipe.scheduler is None else recipe.scheduler(optimizer)


@contextlib.contextmanager
def _bad_value_named() -> Iterator[None]:
    """What torch makes of a schedule's options, when it is built or only at a later step, becomes one line."""
    try:
        yield
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"bad value in scheduler: {' '.join(str(error).split())}") from error
