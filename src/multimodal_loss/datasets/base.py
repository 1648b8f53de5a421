"""What every dataset gives to training: tensors by modality, a split, and names for people."""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One part of a dataset: `inputs[m]` is modality m with samples first, `target` (N,) long.

    A dataset whose samples are made on demand (windows of a recording) overrides `rows`, `feature_shapes` and `to`, and
    keeps in `inputs` what it makes them from.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor

    def __len__(self) -> int:
        return int(self.target.shape[0])

    def rows(self, index: Tensor | slice) -> tuple[Tensor, ...]:
        """The samples at `index` (positions, on the split's device), modality by modality."""
        return tuple(x[index] for x in self.inputs)

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample of each modality."""
        return tuple(tuple(x.shape[1:]) for x in self.inputs)

    def to(self, device: torch.device) -> Self:
        return type(self)(tuple(x.to(device) for x in self.inputs), self.target.to(device))


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
        return self.train.feature_shapes


class Dataset(Protocol):
    """A dataset knows no backbone and no fusion."""

    num_folds: int | None  # None where there is one fixed split

    def load(self, fold: int | None = None) -> MultimodalData:
        """Read, or generate, the data of one replicate: of a fold from 0 on, or of the one split. The same object for
        the same fold as long as no other was asked for. Raises UserError for data that are missing or wrong.
        """
        ...
