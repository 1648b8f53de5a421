"""Modality inputs to scores (B, M, C), one file per backbone."""

from multimodal_loss.backbones.mlp import MLP

__all__ = ["MLP"]
