"""What every dataset gives to training: a split into parts that give batches, and names for people."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_loss.errors import UserError


class Batch(NamedTuple):
    """`inputs[m]` (B, ...) is modality m, `target` (B,) long; `index` (B,): the samples' positions in the split; `mask`
    (B, M) is True where a sample has the modality, None where all have all.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    mask: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """What the random augmentation of one epoch is drawn from."""

    seed: int
    epoch: int

    def generator(self, sample: int) -> torch.Generator:
        """A generator that depends on seed, epoch and the sample's position alone: not on the order of the samples, on
        how many processes decode them, or on where an interrupted epoch went on.
        """
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {sample}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4]))  # PyTorch's on the CPU takes 32 bits


@dataclass(frozen=True)
class Split:
    """One part of a dataset, in memory: `inputs[m]` is modality m with samples first, `target` (N,) long; `names` of
    the samples, where the data have such; `mask` (N, M), True where a sample has the modality, where some lack one.

    A dataset whose samples are cut from something else (windows of a recording) overrides `rows`, `feature_shapes` and
    `to`, and keeps in `inputs` what it cuts them from. Samples that must be decoded one at a time: DecodingSplit.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    names: tuple[str, ...] | None = field(default=None, kw_only=True, repr=False)
    mask: Tensor | None = field(default=None, kw_only=True, repr=False)

    def __len__(self) -> int:
        return int(self.target.shape[0])

    def ids(self) -> NDArray[Any]:
        """What the samples are told apart by (N,), as it is stored beside the predictions: names, or else numbers."""
        return np.arange(len(self)) if self.names is None else np.array(self.names, dtype=np.str_)

    def rows(self, index: Tensor | slice) -> tuple[Tensor, ...]:
        """The samples at `index` (positions, on the split's device), modality by modality."""
        return tuple(x[index] for x in self.inputs)

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample of each modality."""
        return tuple(tuple(x.shape[1:]) for x in self.inputs)

    @property
    def rows_per_sample(self) -> int:
        """How many rows of a training batch, one after another, are made of each sample."""
        return 1

    def to(self, device: torch.device) -> Self:
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, inputs=tuple(x.to(device) for x in self.inputs), target=self.target.to(device), mask=mask)

    def batches(
        self,
        order: Tensor | None,
        size: int | None,
        device: torch.device,
        draws: Draws | None = None,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """The samples at the positions `order` (None: all, as stored), `size` at a time (None: all at once), on
        `device`; the last batch is what is left. An epoch that was interrupted goes on with `order[seen:]`.

        `draws` is what augmentation is drawn from; None for none. `workers` is the number of processes that decode.
        Samples in memory need neither: they are gathered where they lie, so move the split to the device first.
        """
        if order is not None:
            order = order.to(self.target.device)
        total = len(self) if order is None else len(order)
        for start in range(0, total, size or total or 1):
            end = min(start + (size or total), total)
            if order is None:
                part: slice | Tensor = slice(start, end)  # a view: nothing is copied
                index = torch.arange(start, end, device=self.target.device)
            else:
                part = index = order[start:end]
            inputs = tuple(x.to(device) for x in self.rows(part))
            mask = None if self.mask is None else self.mask[part].to(device)
            yield Batch(inputs, self.target[part].to(device), index, mask)

    def rescored(self, fused: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Other ways to score the fused probabilities (N, C) of all samples, as stored: by name, the targets and the
        probabilities to score.
        """
        return {}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored beside the predictions, one entry a sample."""
        return {}

    def description(self) -> dict[str, Any]:
        """Facts for result.json, beyond what every split has."""
        return {}


class NewSamples(Protocol):
    """Samples that no run has seen, read but not yet prepared: `ids` (N,) and, where they are known, classes (N,).
    `mask` (N, M) is True where a sample has the modality; None where all have all.
    """

    ids: NDArray[Any]
    target: NDArray[np.int64] | None

    @property
    def mask(self) -> NDArray[np.bool_] | None: ...


class Preparation(Protocol):
    """What a dataset fitted on a training part: it prepares other samples as it did these."""

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint; `Dataset.restore` makes it anew."""
        ...

    def inputs(self, samples: NewSamples) -> tuple[Tensor, ...]:
        """What a backbone takes, modality by modality, of what `Dataset.read_new` gave."""
        ...


@dataclass(frozen=True)
class MultimodalData:
    """The data of one replicate. `fingerprint` changes whenever a byte of any split does. No `preparation`: nothing is
    fitted, or samples come as tensors alone.
    """

    train: Split
    validation: Split | None
    test: Split
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str
    preparation: Preparation | None = None

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample of each modality."""
        return self.train.feature_shapes


class Dataset(Protocol):
    """A dataset knows no backbone and no fusion. Its constructor checks its options; what is not there is the matter of
    `require_files`.
    """

    version: ClassVar[int]  # raised when the same files and options would give other numbers
    num_folds: int | None = None  # None where there is one fixed split
    generated: bool = False  # made-up data in the place of real ones: what is computed from them says so

    def load(self, fold: int | None = None) -> MultimodalData:
        """Read, or generate, the data of one replicate: of a fold from 0 on, or of the one split. The same object for
        the same fold as long as no other was asked for. Raises UserError for data that are wrong, MissingData for data
        that are not there.
        """
        ...

    def fingerprint(self) -> str:
        """Identity of the source, without loading it: of the bytes of its files, or of what they are generated from.
        Raises as `load` does.
        """
        ...

    def require_files(self) -> None:
        """Raise MissingData, naming what is not there, where a folder or a file that `load` needs is missing."""

    # A dataset that gives a `preparation` also has, for trained runs to predict from files:
    #   restore(state) -> Preparation                                   what `Preparation.state_dict` gave
    #   read_new(source, modalities, classes, partial) -> NewSamples    of a path, or of tables by modality


def require_names(key: str, names: Sequence[str], choices: Iterable[str], or_none: bool = False) -> None:
    """Raise UserError unless an option lists one or more of the choices, or also none, each once."""
    if not set(names) <= set(choices) or len(set(names)) < len(names) or not (names or or_none):
        raise UserError(f"dataset.{key}={list(names)}: choose from {', '.join(choices)}, each once")
