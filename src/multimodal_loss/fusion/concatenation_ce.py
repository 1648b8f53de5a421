"""NN + CE: late fusion by one learned layer over the concatenated scores."""

from collections.abc import Sequence

from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion


class ConcatenationCrossEntropy(Fusion):
    """Cross-entropy of one linear layer with bias over the concatenated modality scores, M * C to C.

    Drawn with PyTorch's default initialisation, as the authors' notebook does; nothing else is drawn. Of a sample that
    lacks modalities the layer reads the others: z = b + sum_m W_m x^m over those that it has.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        self.head = nn.Linear(num_modalities * num_classes, num_classes)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(scores.flatten(1))
        return logits
