"""The replicates of a group while they train, in plain PyTorch: each through its own modules."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from multimodal_loss.errors import require_number
from multimodal_loss.training.evaluate import Validation
from multimodal_loss.training.replicate import FusionInput, OptimizerOptions, Replicate, fusion_input


class Stack(Protocol):
    """What the loop needs. `active` lists the positions, in the order given at the start, that still train."""

    active: list[int]

    def step(self) -> Tensor | None:
        """Train every active replicate up to the next place where it may be saved.

        Returns the losses of an epoch (len(active),) if it ends there: means over its samples, each with the weights
        from before its update. None in the middle of an epoch.
        """
        ...

    def validation_values(self, monitor: str) -> list[float]:
        """What is monitored, one number per active replicate, less is better, with the weights as they are now."""
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


def prepare(replicate: Replicate, options: OptimizerOptions, device: torch.device) -> torch.optim.Optimizer:
    """Move a replicate to the device, ready to train; its optimiser, which holds backbone and fusion."""
    replicate.backbone.to(device).train()
    replicate.fusion.to(device).train()
    groups = [{"params": list(replicate.backbone.parameters()), "lr": options.lr}]
    return options.make(groups + options.fusion_groups(replicate.fusion))


def update(
    replicate: Replicate,
    optimizer: torch.optim.Optimizer,
    inputs: Sequence[Tensor],
    target: Tensor,
    kind: FusionInput,
) -> Tensor:
    """One forward, backward and update; the loss (), of before the update."""
    optimizer.zero_grad()
    loss: Tensor = replicate.fusion(fusion_input(replicate.backbone(inputs), kind), target)
    loss.backward()
    optimizer.step()
    return loss.detach()


class ModuleStack:
    """All training rows in every step, for each replicate in turn: a step is an epoch."""

    def __init__(
        self, replicates: Sequence[Replicate], options: OptimizerOptions, kind: FusionInput, device: torch.device
    ) -> None:
        self.active = list(range(len(replicates)))
        self._replicates = list(replicates)
        self._options, self._kind = options, kind
        self._epochs = 0
        self._validation = Validation(self._replicates, kind, device)
        splits = {id(r.data): r.data.train.to(device) for r in replicates}
        self._train = [splits[id(r.data)] for r in replicates]
        self._optimizers = [prepare(replicate, options, device) for replicate in replicates]

    def step(self) -> Tensor:
        losses = []
        for position in self.active:
            train, optimizer = self._train[position], self._optimizers[position]
            rows = train.rows(slice(None))
            losses.append(update(self._replicates[position], optimizer, rows, train.target, self._kind))
        self._epochs += 1
        for position in self.active:
            self._options.decay(self._optimizers[position], self._epochs)
        return torch.stack(losses)

    def validation_values(self, monitor: str) -> list[float]:
        return self._validation.values(self.active, monitor)

    def retire(self, positions: Sequence[int]) -> None:
        self.active = [p for p in self.active if p not in positions]

    def synchronise(self) -> None:
        pass  # the modules are what trains

    def state_dict(self) -> dict[str, Any]:
        optimizers = {p: self._optimizers[p].state_dict() for p in self.active}
        return {"active": self.active, "epochs": self._epochs, "optimizers": optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active, self._epochs = list(state["active"]), state["epochs"]
        for position, optimizer in state["optimizers"].items():
            self._optimizers[position].load_state_dict(optimizer)


class MiniBatchStack:
    """One replicate, a batch a step, in a random order that is drawn anew for every epoch from the replicate's seed.

    The training split lies on the device, batches are indexed there, and the last one of an epoch is what is left.
    Nothing waits for the device within an epoch.
    """

    def __init__(
        self,
        replicate: Replicate,
        options: OptimizerOptions,
        kind: FusionInput,
        device: torch.device,
        batch_size: int,
    ) -> None:
        require_number("trainer.batch_size", batch_size, positive=True, integer=True)
        self.active = [0]
        self._replicate, self._options, self._kind, self._device = replicate, options, kind, device
        self._batch_size = batch_size
        self._validation = Validation([replicate], kind, device)
        self._train = replicate.data.train.to(device)
        self._optimizer = prepare(replicate, options, device)
        self._generator = torch.Generator().manual_seed(replicate.seed)
        self._epochs = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._order = torch.randperm(len(self._train), generator=self._generator).to(self._device)
        self._seen = 0
        dtype = next(self._replicate.backbone.parameters()).dtype
        self._loss_sum = torch.zeros((), dtype=dtype, device=self._device)

    def step(self) -> Tensor | None:
        index = self._order[self._seen : self._seen + self._batch_size]
        rows, target = self._train.rows(index), self._train.target[index]
        loss = update(self._replicate, self._optimizer, rows, target, self._kind)
        self._loss_sum += loss * len(index)
        self._seen += len(index)
        if self._seen < len(self._order):
            return None
        mean = self._loss_sum / len(self._order)
        self._epochs += 1
        self._options.decay(self._optimizer, self._epochs)
        self._begin_epoch()
        return mean[None]

    def validation_values(self, monitor: str) -> list[float]:
        return self._validation.values(self.active, monitor)

    def retire(self, positions: Sequence[int]) -> None:
        self.active = [p for p in self.active if p not in positions]

    def synchronise(self) -> None:
        pass  # the modules are what trains

    def state_dict(self) -> dict[str, Any]:
        return {
            "active": self.active,
            "epochs": self._epochs,
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "order": self._order,
            "seen": self._seen,
            "loss_sum": self._loss_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active, self._epochs, self._seen = list(state["active"]), state["epochs"], state["seen"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._order = state["order"].to(self._device)
        self._loss_sum = state["loss_sum"].to(self._device)
