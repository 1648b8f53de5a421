"""Modality inputs to scores (B, M, C), one file per backbone."""

from multimodal_loss.backbones.boosting import Boosting
from multimodal_loss.backbones.deep_conv_lstm import DeepConvLSTM
from multimodal_loss.backbones.intermediate_attention import IntermediateAttention
from multimodal_loss.backbones.logistic import LogisticRegression
from multimodal_loss.backbones.mlp import MLP
from multimodal_loss.backbones.modality_logistic import ModalityLogistic
from multimodal_loss.backbones.moma import MOMA
from multimodal_loss.backbones.x_norm import XNorm, XNormEnds

__all__ = [
    "MLP",
    "MOMA",
    "Boosting",
    "DeepConvLSTM",
    "IntermediateAttention",
    "LogisticRegression",
    "ModalityLogistic",
    "XNorm",
    "XNormEnds",
]
