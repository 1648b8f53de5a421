"""Points of many dimensions as points of a picture: UMAP where it is installed, else the first two principal axes."""

import warnings
from dataclasses import dataclass

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
    reason = "(too few points for UMAP)"
    if len(rows) >= FEWEST_FOR_UMAP:
        try:
            from umap import UMAP  # only here: it is an extra, and takes seconds
        except ImportError:
            reason = "(PCA), as umap-learn is not installed"
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # equal rows make it warn about its own starting point
                umap = UMAP(n_neighbors=NEIGHBOURS, n_epochs=EPOCHS, init="pca", random_state=seed, n_jobs=1)
                return Embedding(np.asarray(umap.fit_transform(rows), dtype=np.float64), "UMAP")
    with np.errstate(invalid="ignore"):  # shares of no variance at all, which nobody reads
        points = PCA(2, svd_solver="full").fit_transform(rows)
    return Embedding(np.asarray(points, dtype=np.float64), f"two principal axes {reason}")
