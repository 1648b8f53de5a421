"""Files on disk, or a generator, to tensors by modality and split."""

from multimodal_loss.datasets.base import Batch, Dataset, Draws, MultimodalData, NewSamples, Preparation, Split
from multimodal_loss.datasets.decoding import DecodingSplit
from multimodal_loss.datasets.epic import EpicDataset
from multimodal_loss.datasets.opportunity import OpportunityDataset
from multimodal_loss.datasets.ravdess import RavdessDataset
from multimodal_loss.datasets.synthetic import SyntheticDataset
from multimodal_loss.datasets.tables import TablesDataset

__all__ = [
    "Batch",
    "Dataset",
    "DecodingSplit",
    "Draws",
    "EpicDataset",
    "MultimodalData",
    "NewSamples",
    "OpportunityDataset",
    "Preparation",
    "RavdessDataset",
    "Split",
    "SyntheticDataset",
    "TablesDataset",
]
