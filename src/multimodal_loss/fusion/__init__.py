"""The fusions: scores (B, M, C) to a loss and fused logits. Needs torch alone."""

from multimodal_loss.fusion.base import Fusion
from multimodal_loss.fusion.concatenation_ce import ConcatenationCrossEntropy
from multimodal_loss.fusion.ecml import ECML
from multimodal_loss.fusion.fuml import FUML
from multimodal_loss.fusion.mm_cosine import MMCosine
from multimodal_loss.fusion.mm_pareto import MMPareto
from multimodal_loss.fusion.mulmix import Mulmix
from multimodal_loss.fusion.multimodal import MultiModalLoss
from multimodal_loss.fusion.multitask import Multitask
from multimodal_loss.fusion.ogm_ge import OGMGE
from multimodal_loss.fusion.proxy_anchor import ProxyAnchor
from multimodal_loss.fusion.qmf import QMF
from multimodal_loss.fusion.read_out import ReadOut
from multimodal_loss.fusion.soft_triple import SoftTriple
from multimodal_loss.fusion.sum_ce import SumCrossEntropy
from multimodal_loss.fusion.tmc import TMC
from multimodal_loss.fusion.unimodal import Unimodal
from multimodal_loss.fusion.weighted_sum_ce import WeightedSumCrossEntropy

__all__ = [
    "ECML",
    "FUML",
    "OGMGE",
    "QMF",
    "TMC",
    "ConcatenationCrossEntropy",
    "Fusion",
    "MMCosine",
    "MMPareto",
    "Mulmix",
    "MultiModalLoss",
    "Multitask",
    "ProxyAnchor",
    "ReadOut",
    "SoftTriple",
    "SumCrossEntropy",
    "Unimodal",
    "WeightedSumCrossEntropy",
]
