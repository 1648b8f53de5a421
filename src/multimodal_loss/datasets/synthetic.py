"""The synthetic data of Table 1 (paper, section 4.1, eq. 8).

Each modality i is drawn on its own: features m_i ~ N(0, 1) in R^2000 are what a model sees; the label comes from the
score

    z = (m_i + sigma_i e) . beta_i + eps,    y = 1 if z > 0,    beta_i: 20 non-zero entries ~ N(0, 2),    eps ~ N(0, 1).

Modalities are paired by label: sample n takes a class-y draw from each. Every split is balanced and sorted by class.

Conditioning on the label without rejection: (m, e, eps) -> -(m, e, eps) maps z to -z and leaves the density unchanged,
so a draw whose label is not the wanted one is negated. This is exact, and a split costs one pass over its normals.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_loss.datasets.base import Dataset, MultimodalData, Split, require_names
from multimodal_loss.datasets.cache import cached, digest_of, key_of
from multimodal_loss.errors import UserError, require_choice, require_number

Array = NDArray[np.float32]

SPLITS = ("train", "validation", "test")
CHOICES = {
    "noise": ("per_sample", "per_feature"),
    "coefficient_scale": ("sd", "variance"),
    "noise_scale": ("sd", "variance"),
    "labels": ("threshold", "bernoulli"),
}


@dataclass(frozen=True)
class SyntheticOptions:
    """Everything that decides the numbers. Sizes are samples per split, `sigmas` one noise level per modality."""

    sigmas: Sequence[float]
    data_seed: int
    train_size: int = 10_000
    validation_size: int = 1_000
    test_size: int = 10_000
    num_features: int = 2_000
    num_informative: int = 20
    coefficient_spread: float = 2.0
    coefficient_scale: str = "sd"
    noise: str = "per_sample"
    noise_scale: str = "sd"
    labels: str = "threshold"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            require_choice(f"dataset.{name}", getattr(self, name), allowed)
        for name in ("num_features", "num_informative", "train_size", "validation_size", "test_size"):
            size = getattr(self, name)
            require_number(f"dataset.{name}", size, positive=True, integer=True)
            if name.endswith("size") and size % 2:
                raise UserError(f"dataset.{name}={size}: must be even and at least 2 (splits are balanced)")
        _require_most("num_informative", self.num_informative, 1, "num_features", self.num_features)
        if not isinstance(self.sigmas, Sequence) or isinstance(self.sigmas, str) or not self.sigmas:
            raise UserError(f"dataset.sigmas={self.sigmas}: give a list with one value >= 0 per modality")
        for sigma in self.sigmas:
            require_number("dataset.sigmas", sigma)
        object.__setattr__(self, "sigmas", tuple(map(float, self.sigmas)))  # 1 and 1.0 are the same data
        require_number("dataset.coefficient_spread", self.coefficient_spread)
        require_number("dataset.data_seed", self.data_seed, integer=True)

    def size(self, split: str) -> int:
        return int(getattr(self, f"{split}_size"))


def _require_most(key: str, value: int, least: int, bound: str, most: int) -> None:
    if value > most:
        raise UserError(f"dataset.{key}={value}: must lie in {least}..{most} ({bound})")


def coefficients(options: SyntheticOptions, modality: int) -> Array:
    """beta of one modality, (num_features,), `num_informative` entries non-zero; shared by the splits."""
    rng = np.random.default_rng([options.data_seed, modality, 0])
    spread = options.coefficient_spread if options.coefficient_scale == "sd" else options.coefficient_spread**0.5
    beta = np.zeros(options.num_features, dtype=np.float32)
    support = rng.choice(options.num_features, options.num_informative, replace=False)
    beta[support] = rng.normal(0.0, spread, options.num_informative)
    return beta


def draw_scores(options: SyntheticOptions, modality: int, split: str) -> tuple[Array, Array, Array]:
    """Unconditioned draws of one modality: features (N, D), noise-free score plus eps (N,), and the noise direction
    (N,).

    The score of eq. 8 is `clean + sigma * noise`, so one draw serves every noise level.
    """
    rng = np.random.default_rng([options.data_seed, modality, 1 + SPLITS.index(split)])
    n, beta = options.size(split), coefficients(options, modality)
    features = rng.standard_normal((n, options.num_features), dtype=np.float32)
    support = np.flatnonzero(beta)
    clean = features[:, support] @ beta[support] + rng.standard_normal(n, dtype=np.float32)
    if options.noise == "per_sample":  # one number per sample, added to every feature
        noise = rng.standard_normal(n, dtype=np.float32) * beta.sum()
    else:  # only the informative coordinates of the noise vector reach the score
        noise = rng.standard_normal((n, support.size), dtype=np.float32) @ beta[support]
    return features, clean, noise


def noise_level(options: SyntheticOptions, sigma: float) -> np.float32:
    """Standard deviation that multiplies the unit noise."""
    return np.float32(sigma if options.noise_scale == "sd" else sigma**0.5)


def draw_modality(options: SyntheticOptions, modality: int, split: str) -> Array:
    """Features (N, D) of one modality whose labels are `target(N)`: first half class 0, second half class 1."""
    features, clean, noise = draw_scores(options, modality, split)
    score = clean + noise_level(options, options.sigmas[modality]) * noise
    if options.labels == "threshold":
        label = score > 0
    else:
        rng = np.random.default_rng([options.data_seed, modality, 1 + len(SPLITS) + SPLITS.index(split)])
        label = rng.random(len(score)) < 1.0 / (1.0 + np.exp(-score.astype(np.float64)))
    wanted = balanced_target(len(score)).astype(bool)
    np.negative(features, out=features, where=(label != wanted)[:, None])
    return features


def balanced_target(size: int) -> NDArray[np.int64]:
    """First half class 0, second half class 1, as in the authors' files."""
    return np.repeat(np.arange(2, dtype=np.int64), size // 2)


class SyntheticDataset(Dataset):
    """Generates the data once per set of options and reads it back memory-mapped.

    Args:
        noisy_modalities: how many modalities, counted from the last, get `noisy_sigma`; the others get `easy_sigma`.
        sigmas: one noise level per modality; overrides `noisy_modalities`.
        modalities: names (`m1`, ...) of the modalities that a model may see; None for all. The others are not read.
        cache_dir: where the arrays live; None generates in memory.
    """

    version: ClassVar[int] = 1  # names the cache too: an old one is never read as new data

    def __init__(
        self,
        data_seed: int,
        noisy_modalities: int = 2,
        num_modalities: int = 3,
        easy_sigma: float = 0.2,
        noisy_sigma: float = 10.0,
        sigmas: Sequence[float] | None = None,
        modalities: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        **options: int | float | str,
    ) -> None:
        if sigmas is None:
            require_number("dataset.num_modalities", num_modalities, positive=True, integer=True)
            require_number("dataset.noisy_modalities", noisy_modalities, integer=True)
            require_number("dataset.easy_sigma", easy_sigma)
            require_number("dataset.noisy_sigma", noisy_sigma)
            _require_most("noisy_modalities", noisy_modalities, 0, "num_modalities", num_modalities)
            sigmas = [easy_sigma] * (num_modalities - noisy_modalities) + [noisy_sigma] * noisy_modalities
        self.options = SyntheticOptions(sigmas=sigmas, data_seed=data_seed, **options)  # type: ignore[arg-type]
        names = [f"m{i + 1}" for i in range(len(self.options.sigmas))]
        self.modalities = tuple(names if modalities is None else modalities)
        require_names("modalities", self.modalities, names)
        self._indices = [names.index(m) for m in self.modalities]
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._data: MultimodalData | None = None

    def load(self, fold: int | None = None) -> MultimodalData:
        """The three splits; the same for every replicate. Raises UserError if the cache cannot be written or
        read.
        """
        if self._data is None:
            if self.cache_dir is None:
                arrays, fingerprint = self._generate()
            else:
                folder = self.cache_dir / f"synthetic-{self.fingerprint()}"
                arrays, fingerprint = cached(folder, "fingerprint", "the synthetic data", self._write, self._read)
            train, validation, test = (self._split(arrays, split) for split in SPLITS)
            self._data = MultimodalData(train, validation, test, self.modalities, ("0", "1"), fingerprint)
        return self._data

    def fingerprint(self) -> str:
        """Of the options that decide the numbers, and of the generator's version."""
        return key_of({"version": self.version, **asdict(self.options)})

    def _split(self, arrays: dict[str, Array], split: str) -> Split:
        inputs = tuple(torch.from_numpy(arrays[f"{split}-{i}"]) for i in self._indices)
        return Split(inputs, torch.from_numpy(balanced_target(self.options.size(split))))

    def _generate(self) -> tuple[dict[str, Array], str]:
        jobs = [(m, s) for m in range(len(self.options.sigmas)) for s in SPLITS]
        with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:  # NumPy draws without holding the GIL
            drawn = list(pool.map(lambda job: draw_modality(self.options, *job), jobs))
        arrays = {f"{s}-{m}": x for (m, s), x in zip(jobs, drawn, strict=True)}
        return arrays, digest_of(arrays[name] for name in sorted(arrays))[:16]

    def _write(self, folder: Path) -> None:
        arrays, fingerprint = self._generate()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        (folder / "options.json").write_text(json.dumps(asdict(self.options), indent=2) + "\n")
        (folder / "fingerprint").write_text(fingerprint + "\n")

    def _read(self, folder: Path) -> tuple[dict[str, Array], str]:
        names = [f"{s}-{i}" for s in SPLITS for i in self._indices]
        # Copy-on-write maps: torch wants writable memory, and nothing may change the file.
        arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="c") for n in names}
        return arrays, (folder / "fingerprint").read_text().strip()
