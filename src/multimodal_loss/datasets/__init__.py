"""Files on disk, or a generator, to tensors by modality and split."""

from multimodal_loss.datasets.base import Dataset, MultimodalData, Split
from multimodal_loss.datasets.opportunity import OpportunityDataset
from multimodal_loss.datasets.synthetic import SyntheticDataset
from multimodal_loss.datasets.tables import TablesDataset

__all__ = ["Dataset", "MultimodalData", "OpportunityDataset", "Split", "SyntheticDataset", "TablesDataset"]
