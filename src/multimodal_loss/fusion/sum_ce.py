"""SUM + CE: late fusion by adding up."""

from torch import Tensor

from multimodal_loss.fusion.base import Fusion, predicted_shares


class SumCrossEntropy(Fusion):
    """Cross-entropy of the sum of the modality scores: z = sum_m x^m.

    With probabilities as scores, |z| is at most M, so the loss stays above log(1 + (C - 1) exp(-M)):
    0.0486 for M = 3, C = 2, and 1.699 for M = 2, C = 34. The sum is over the modalities that a sample has. A modality's
    weight is its share of what all add to the predicted class's score, above the mean over classes.
    """

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return scores.sum(dim=1)

    def compute_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        # A number added to all classes decides nothing.
        return predicted_shares(scores - scores.mean(dim=2, keepdim=True), mask)
