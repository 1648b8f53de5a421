"""What each modality says by itself, read out of its scores after training."""

import torch
from torch import Tensor, nn

# More training samples add time, and next to nothing to C * (C + 1) coefficients.
MOST_SAMPLES = 20_000


class ReadOut(nn.Module):
    """A logistic regression for each modality, from its scores to the classes: its own prediction, as good as its
    scores allow.

    A fusion need not leave a modality's scores where their argmax is the class: a loss that sums or multiplies what the
    modalities say trains the sum alone. Inside a MultiModal network a modality's argmax can be right in 2 % of the
    samples while its scores tell the classes apart as well as a network of its own.

    Args:
        num_classes: C.
        num_modalities: M.
        score_width: how many numbers a modality's score has; C by default.

    `fit` needs scikit-learn; what is fitted are buffers, so that it travels with a checkpoint.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_classes: int, num_modalities: int, score_width: int | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_modalities, num_classes, score_width or num_classes))
        self.register_buffer("bias", torch.zeros(num_modalities, num_classes))

    def forward(self, scores: Tensor) -> Tensor:
        """Probabilities (B, M, C) from scores (B, M, score_width)."""
        logits = torch.einsum("bmc,mkc->bmk", scores.to(self.weight), self.weight) + self.bias
        return logits.softmax(dim=-1)

    @torch.no_grad()
    def fit(self, scores: Tensor, target: Tensor, ignore_index: int = -100, mask: Tensor | None = None) -> "ReadOut":
        """Fit to the scores (N, M, score_width) and classes (N,) of training samples (penalty 1, of standardised
        scores); of more than 20,000 to every k-th. Each modality to those that have it, where there is a `mask`
        (N, M); one that no sample has is read as equal probabilities, one of a single class's samples as that class.
        Returns itself.
        """
        # Here: the losses need torch alone.
        from multimodal_loss.fusion.logistic import TOLERANCE_OF_SCORES, fit_logistic

        if mask is not None:
            for m, there in enumerate(mask.unbind(dim=1)):
                alone = ReadOut(self.bias.shape[1], 1, self.weight.shape[2])
                alone.fit(scores[there, m : m + 1], target[there], ignore_index)
                self.weight[m], self.bias[m] = alone.weight[0].to(self.weight), alone.bias[0].to(self.bias)
            return self
        kept = target != ignore_index
        scores, target = scores[kept], target[kept]
        if not len(target):
            for fitted in (self.weight, self.bias):
                fitted.zero_()
            return self
        step = -(-len(target) // MOST_SAMPLES)
        scores, target = scores[::step].cpu().double(), target[::step].cpu()
        mean, sd = scores.mean(0), scores.std(0, correction=0).clamp(min=1e-12)
        classes = self.bias.shape[1]
        for m in range(scores.shape[1]):
            standardised = (scores[:, m] - mean[m]) / sd[m]
            weight, bias = fit_logistic(standardised, target, classes, C=1.0, tolerance=TOLERANCE_OF_SCORES)
            scaled = weight.double() / sd[m]
            self.weight[m] = scaled.to(self.weight)
            self.bias[m] = (bias.double() - scaled @ mean[m]).to(self.bias)
        return self
