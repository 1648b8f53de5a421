"""The replicates of a run while they train; `ModuleStack` is the ordinary path: each through its own modules."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from multimodal_loss.datasets.base import Split
from multimodal_loss.errors import UserError
from multimodal_loss.training.replicate import FusionInput, OptimizerOptions, Replicate, fusion_input


class Stack(Protocol):
    """What the loop needs. `active` lists the positions, in the order given at the start, that still train."""

    active: list[int]

    def step(self) -> Tensor:
        """One full-batch step of every active replicate; the losses (len(active),) are those before the update."""
        ...

    def validation_losses(self) -> Tensor:
        """Losses (len(active),) on the validation split with the weights as they are now."""
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


def validation_split(replicate: Replicate) -> Split:
    """The replicate's validation rows; a dataset without them cannot be monitored."""
    if replicate.data.validation is None:
        raise UserError("trainer.monitor=validation_loss: this dataset has no validation split; leave it null")
    return replicate.data.validation


class ModuleStack:
    """Plain PyTorch: forward, loss, backward and Adam for each replicate in turn."""

    def __init__(
        self, replicates: Sequence[Replicate], options: OptimizerOptions, kind: FusionInput, device: torch.device
    ) -> None:
        self.active = list(range(len(replicates)))
        self._replicates = list(replicates)
        self._kind: FusionInput = kind
        splits = {id(r.data): r.data.train.to(device) for r in replicates}
        self._train = [splits[id(r.data)] for r in replicates]
        self._device = device
        self._optimizers = []
        for replicate in replicates:
            replicate.backbone.to(device)
            replicate.fusion.to(device)
            groups = [{"params": list(replicate.backbone.parameters()), "lr": options.lr}]
            self._optimizers.append(options.adam(groups + options.fusion_groups(replicate.fusion)))

    def step(self) -> Tensor:
        return torch.stack([self._step_one(position) for position in self.active])

    def _step_one(self, position: int) -> Tensor:
        replicate, train = self._replicates[position], self._train[position]
        self._optimizers[position].zero_grad()
        loss: Tensor = replicate.fusion(fusion_input(replicate.backbone(train.inputs), self._kind), train.target)
        loss.backward()
        self._optimizers[position].step()
        return loss.detach()

    @torch.no_grad()
    def validation_losses(self) -> Tensor:
        losses = []
        for replicate in (self._replicates[position] for position in self.active):
            split = validation_split(replicate).to(self._device)
            losses.append(replicate.fusion(fusion_input(replicate.backbone(split.inputs), self._kind), split.target))
        return torch.stack(losses)

    def retire(self, positions: Sequence[int]) -> None:
        self.active = [p for p in self.active if p not in positions]

    def synchronise(self) -> None:
        pass  # the modules are what trains

    def state_dict(self) -> dict[str, Any]:
        return {"active": self.active, "optimizers": {p: self._optimizers[p].state_dict() for p in self.active}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active = list(state["active"])
        for position, optimizer in state["optimizers"].items():
            self._optimizers[position].load_state_dict(optimizer)
