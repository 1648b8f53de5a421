"""Multimodal classification with the MultiModal loss of Moon & Lee, and the fusions it is compared with."""

from multimodal_loss import fusion
from multimodal_loss.fusion import *  # noqa: F403

__all__ = fusion.__all__
__version__ = "0.1.0"
