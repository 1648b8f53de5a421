"""Multimodal classification with the MultiModal loss of Moon & Lee, and the fusions it is compared with."""

from multimodal_loss.fusion import (
    ConcatenationCrossEntropy,
    Fusion,
    Mulmix,
    MultiModalLoss,
    Multitask,
    ProxyAnchor,
    SoftTriple,
    SumCrossEntropy,
    Unimodal,
    WeightedSumCrossEntropy,
)

__all__ = [
    "ConcatenationCrossEntropy",
    "Fusion",
    "Mulmix",
    "MultiModalLoss",
    "Multitask",
    "ProxyAnchor",
    "SoftTriple",
    "SumCrossEntropy",
    "Unimodal",
    "WeightedSumCrossEntropy",
]
__version__ = "0.1.0"
