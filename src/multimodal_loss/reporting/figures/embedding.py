"""Points of many dimensions as points of a picture: UMAP where it is installed, else the first two principal axes."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

NEIGHBOURS = 15  # UMAP's default
FEWEST_FOR_UMAP = 2 * NEIGHBOURS  # fewer have no neighbourhoods to speak of
EPOCHS = 200  # UMAP's default is 500 for so few points; the pictures look alike


@dataclass(frozen=True)
class Embedding:
    """`points` (N, 2); `method` says how they were made, for the caption."""

    points: NDArray[np.float64]
    method: str


def embed(rows: NDArray[np.floating], seed: int = 0) -> Embedding:
    """Rows (N, D), N >= 2, D >= 2, in the plane; the same rows and seed give the same points."""
    if len(rows) < FEWEST_FOR_UMAP:
        return Embedding(_principal_axes(rows), "two principal axes (too few points for UMAP)")
    umap = _umap()
    if umap is None:
        return Embedding(_principal_axes(rows), "two principal axes (PCA), as umap-learn is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal rows make it warn about its own starting point
        reducer = umap(n_neighbors=NEIGHBOURS, n_epochs=EPOCHS, init="pca", random_state=seed, n_jobs=1)
        return Embedding(np.asarray(reducer.fit_transform(rows), dtype=np.float64), "UMAP")


def _umap() -> Any:
    """The class, or None. Imported only here: it is an extra, and takes seconds."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP


def _principal_axes(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # shares of no variance at all, which nobody reads
        return np.asarray(PCA(2, svd_solver="full").fit_transform(rows), dtype=np.float64)
