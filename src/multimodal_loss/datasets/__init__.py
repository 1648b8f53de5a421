"""Files on disk, or a generator, to tensors by modality and split."""

from multimodal_loss.datasets.base import Dataset, MultimodalData, Split
from multimodal_loss.datasets.synthetic import SyntheticDataset

__all__ = ["Dataset", "MultimodalData", "Split", "SyntheticDataset"]
