"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022, CVPR, arXiv 2203.15332)."""

import torch
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, ModalityParameters, check_number
from multimodal_loss.fusion.modality_gradients import add_gradients, backward_apart, required, rows_of


class OGMGE(Fusion):
    """SUM + CE in which the modality that is ahead learns more slowly. Reads logits x.

        s_m = sum over the batch of softmax(x_m)_y;    rho_m = mean over j != m of s_m / s_j
        k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1                                               (eq. 8-10)
        loss = CE(sum_m x_m), with the gradient of modality m's parameters times k_m, and then, for its weights, plus
        noise of the standard deviation that the tensor's gradient had before                              (eq. 13)

    With missing modalities the sum in the loss is over those that a sample has, and s_m the mean over the samples that
    have m; a modality that none of the batch has leaves rho.

    Noise needs each modality's parameters and a call of `backward`. Without it `loss.backward()` will do: the loss
    reads k_m x_m, and (1 - k_m) x_m without its gradient, which has the same value.

    The released code (github.com/GeWu-Lab/OGM-GE_CVPR2022) is for two modalities; for more, rho is its authors' advice
    (issue 16). It modulates four-dimensional weights alone, that is convolutions, which leaves an MLP as it is; here
    all parameters of a modality are modulated, the last layer too, and noise goes to weights and not to biases. Of a
    parameter that stacks modalities a bias has two axes, too, (1, n): what is longer than 1 along fewer than two axes
    counts as a bias, also the weight of a layer with a single input or output. Under Adam, which divides by a
    gradient's size, k nearly cancels: take SGD, as they do.

    Args:
        num_classes: C.
        num_modalities: M.
        alpha: how strongly; 0.1 to 0.8 in the paper's experiments.
        noise: of "GE", relative to the gradient's standard deviation; 0 for OGM alone.
        modulated_epochs: only in so many first epochs (50 of 100 in the original); null for all.
        ignore_index: samples with this target leave the loss as if they were not in the batch.
    """

    epoch: Tensor

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        alpha: float = 0.3,
        noise: float = 1.0,
        modulated_epochs: int | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        check_number("alpha", alpha, above=0)
        check_number("noise", noise, at_least=0)
        if modulated_epochs is not None:
            check_number("modulated_epochs", modulated_epochs, at_least=0, whole=True)
        self.alpha = alpha
        self.noise = noise
        self.modulated_epochs = modulated_epochs
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    @property
    def needs_modality_parameters(self) -> bool:
        return self.noise > 0

    def begin_epoch(self, epoch: int, num_samples: int) -> None:
        self.epoch.fill_(epoch)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return scores.sum(dim=1)

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.noise == 0:
            k = self.coefficients(scores, target, mask)[:, None]
            scores = k * scores + (1 - k) * scores.detach()
        return self.cross_entropy(scores.sum(dim=1), target)

    @torch.no_grad()
    def coefficients(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """k (M,), from scores (B, M, C) and targets (B,)."""
        kept = target != self.ignore_index
        true = target.where(kept, 0)[:, None, None].expand(-1, self.num_modalities, 1)
        of_true = scores.softmax(dim=2).gather(2, true).squeeze(2)
        if mask is None:
            confidence = of_true.masked_fill(~kept[:, None], 0).sum(dim=0)
            others: Tensor | int = max(self.num_modalities - 1, 1)
        else:
            here = mask & kept[:, None]
            samples = here.sum(dim=0)
            confidence = of_true.masked_fill(~here, 0).sum(dim=0) / samples.clamp(min=1)
            others = ((samples > 0).sum() - 1).clamp(min=1)
        ratio = confidence[:, None] / confidence.clamp(min=torch.finfo(confidence.dtype).tiny)
        if mask is not None:
            ratio = ratio.masked_fill(samples == 0, 0)
        ratio = (ratio.sum(dim=1) - ratio.diagonal()) / others
        k = torch.where(ratio > 1, 1 - (self.alpha * ratio).tanh(), 1)
        return k if self.modulated_epochs is None else k.where(self.epoch <= self.modulated_epochs, 1)

    def backward(
        self,
        loss: Tensor,
        scores: Tensor,
        target: Tensor,
        modality_parameters: ModalityParameters | None = None,
        share: float = 1.0,
        mask: Tensor | None = None,
    ) -> None:
        if self.noise == 0:
            super().backward(loss, scores, target, modality_parameters, share, mask)
            return
        of_modalities = required(self, modality_parameters)
        found = backward_apart(loss * share, of_modalities)
        for k, own in zip(self.coefficients(scores, target, mask), of_modalities, strict=True):
            for gradient in rows_of(found, own):
                noise = self._noise(gradient)
                gradient.mul_(k)
                if noise is not None:
                    gradient.add_(noise)
        add_gradients(found)

    def _noise(self, gradient: Tensor) -> Tensor | None:
        """For a weight; None for a bias or a norm, which is longer than 1 along one axis alone."""
        if sum(size > 1 for size in gradient.shape) < 2:
            return None
        noise = torch.randn_like(gradient) * (self.noise * gradient.std())
        return noise if self.modulated_epochs is None else noise * (self.epoch <= self.modulated_epochs)
