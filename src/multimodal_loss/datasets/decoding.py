"""Splits whose samples are decoded one at a time, such as video clips, by processes that work ahead of training."""

import atexit
import signal
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.utils import data

from multimodal_loss.datasets.base import Batch, Draws, Split
from multimodal_loss.errors import TrainingError, UserError

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class DecodingSplit(Split):
    """A subclass is a frozen dataclass, whose first field is `target` (N,) long, with `feature_shapes` and `sample`.

    Batches are the same bit for bit, however many processes decode.
    """

    inputs: Inputs = field(default=(), init=False, repr=False)

    @property
    @abstractmethod
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]: ...

    @abstractmethod
    def sample(self, position: int, generator: torch.Generator | None) -> Inputs:
        """One sample, modality by modality, on the CPU. Augmentation is drawn from `generator`; None for none.

        May run in another process. Raises UserError for what cannot be decoded, with file and position.
        """

    def values(self, inputs: Inputs) -> Inputs:
        """What a backbone sees of samples (B, ...), on their device. Bytes that become numbers here take a quarter of
        the memory, and of the way between processes and to the device.
        """
        return inputs

    def rows(self, index: Tensor | slice) -> Inputs:
        positions = torch.arange(len(self))[index].tolist()
        return self.values(_stacked([self.sample(position, None) for position in positions]))

    def to(self, device: torch.device) -> Self:
        """Itself: batches are moved when they have been decoded."""
        return self

    def batches(
        self,
        order: Tensor | None,
        size: int | None,
        device: torch.device,
        draws: Draws | None = None,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """As `Split.batches`; each of `workers` processes holds up to two batches ahead, 0 decodes in this one.

        Raises the UserError of the first sample, in order, that cannot be decoded.
        """
        positions = torch.arange(len(self)) if order is None else order.cpu()
        parts = [part for part in torch.split(positions, size or max(len(positions), 1)) if len(part)]
        loader = data.DataLoader(
            _Decoded(self, draws, parts),
            batch_size=None,  # an item is a batch
            num_workers=workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # the global one must not depend on how often an epoch was interrupted
        )
        batches = iter(loader)
        if workers:  # they ignore SIGTERM, so that nothing else would end them when Python exits
            atexit.register(batches._shutdown_workers)  # type: ignore[attr-defined]
        try:
            for part, inputs in zip(parts, batches, strict=True):
                if isinstance(inputs, UserError):
                    raise inputs
                moved = self.values(tuple(x.to(device, non_blocking=True) for x in inputs))
                yield Batch(moved, self.target[part].to(device, non_blocking=True), part)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).split(".")[0]
            raise TrainingError(f"a process that decodes samples ended ({reason}); try fewer workers") from error
        finally:
            if workers:
                batches._shutdown_workers()  # type: ignore[attr-defined]
                atexit.unregister(batches._shutdown_workers)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Decoded(data.Dataset[Inputs | UserError]):
    """The batches of an epoch, for DataLoader. It would raise a worker's error anew, with a traceback in its text:
    an error is an item like any other.
    """

    split: DecodingSplit
    draws: Draws | None
    parts: list[Tensor]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Inputs | UserError:
        draws, positions = self.draws, self.parts[number].tolist()
        try:
            return _stacked([self.split.sample(p, None if draws is None else draws.generator(p)) for p in positions])
        except UserError as error:
            return error


def _stacked(samples: list[Inputs]) -> Inputs:
    return tuple(torch.stack(modality) for modality in zip(*samples, strict=True))


def _leave_signals_to_the_parent(worker: int) -> None:
    """It ends the epoch, with a checkpoint; DataLoader's workers end with it, also where it is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
