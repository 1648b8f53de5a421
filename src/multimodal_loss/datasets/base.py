"""What every dataset gives to training: tensors by modality, a split, and names for people."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One part of a dataset: `inputs[m]` is modality m with samples first, `target` (N,) long."""

    inputs: tuple[Tensor, ...]
    target: Tensor

    def __len__(self) -> int:
        return int(self.target.shape[0])

    def to(self, device: torch.device) -> "Split":
        return Split(tuple(x.to(device) for x in self.inputs), self.target.to(device))


@dataclass(frozen=True)
class MultimodalData:
    """The data of one replicate. `fingerprint` changes whenever a byte of any split does."""

    train: Split
    validation: Split | None
    test: Split
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample of each modality."""
        return tuple(tuple(x.shape[1:]) for x in self.train.inputs)


class Dataset(Protocol):
    """A dataset knows no backbone and no fusion. `fold` is None where there is one fixed split."""

    title: str

    def load(self, fold: int | None = None) -> MultimodalData:
        """Read, or generate, the data of one replicate; the same object for the same fold."""
        ...
