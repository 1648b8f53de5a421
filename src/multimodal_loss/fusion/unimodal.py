"""One modality alone: the baseline that every fusion is compared with."""

from collections.abc import Sequence

from torch import Tensor

from multimodal_loss.fusion.base import Fusion


class Unimodal(Fusion):
    """Cross-entropy on the scores of the only modality.

    Raises:
        ValueError: more than one modality.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int = 1,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        if num_modalities != 1:
            raise ValueError(f"Unimodal takes exactly one modality, got {num_modalities}; choose one in the dataset")

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return scores[:, 0]
