"""Samples one of whose modalities is replaced: by noise, or by the same modality of a sample of another class.

Does a fusion notice which modality not to trust? `replaced` says which one it was.

noisy        noise in training and test samples: every feature N(0, 1) in units of its own standard deviation, about its
             own mean: so a noisy modality looks in the paper's synthetic data (features N(0, 1) that say nothing of the
             class, eq. 8); all marginals stay as they were
conflicting  in test samples alone: a modality of a random test sample of the next class takes the place (the sets of
             that name in ECML, Xu et al., AAAI 2024, always take the first such sample)

Which samples, which modality and which noise follow from (seed, sample id) alone; who stands in, from these and from
which samples are in the part.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_loss.datasets.base import Split
from multimodal_loss.errors import UserError, require_choice, require_number

KINDS = ("noisy", "conflicting")


@dataclass(frozen=True)
class CorruptedSplit(Split):
    """`replaced` (N,) is the modality of each sample that was, or -1."""

    replaced: NDArray[np.int64] = field(kw_only=True)

    def extra_arrays(self) -> dict[str, NDArray[np.int64]]:
        return {"replaced": self.replaced}


@dataclass(frozen=True)
class Corruption:
    """What happens to a share of the samples. Raises UserError for an option out of range."""

    kind: str | None
    share: float | None
    seed: int

    def __post_init__(self) -> None:
        require_choice("dataset.corrupt", self.kind, (None, *KINDS))
        if (self.kind is None) != (self.share is None):
            raise UserError("dataset.corrupt and dataset.corrupt_share: give both, or neither")
        if self.share is not None:
            require_number("dataset.corrupt_share", self.share)
            if self.share > 1:
                raise UserError(f"dataset.corrupt_share={self.share}: must lie in 0..1")
        require_number("dataset.corrupt_seed", self.seed, integer=True)

    def touches(self, part: str) -> bool:
        return self.kind == "noisy" or (self.kind == "conflicting" and part == "test")

    def replaced(self, ids: Sequence[str], modalities: int) -> NDArray[np.int64]:
        """The modality of each sample (N,) that is replaced, or -1."""
        generators = [self._generator(i) for i in ids]
        drawn = [int(g.integers(modalities)) if g.random() < (self.share or 0) else -1 for g in generators]
        return np.array(drawn, dtype=np.int64)

    def noise(self, sample: str, features: int) -> NDArray[np.float64]:
        """N(0, 1), (features,)."""
        return self._generator(sample, "noise").standard_normal(features)

    def stand_ins(self, ids: Sequence[str], target: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """For each sample of a part the position (N,) of one of the next class that is there at all."""
        members = [np.flatnonzero(target == c) for c in range(classes)]
        following = {
            c: next(m for step in range(1, classes + 1) if len(m := members[(c + step) % classes]))
            for c in np.unique(target)
        }
        return np.array(
            [self._generator(i, "stand-in").choice(following[c]) for i, c in zip(ids, target, strict=True)],
            dtype=np.int64,
        )

    def _generator(self, sample: str, purpose: str = "which") -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed} {purpose} {sample}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8]))
