"""MMPareto (Wei and Hu 2024, ICML, arXiv 2405.17730)."""

import torch
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, ModalityParameters, check_number
from multimodal_loss.fusion.modality_gradients import add_gradients, backward_apart, required, rows_of


class MMPareto(Fusion):
    """SUM + CE and a cross-entropy per modality, whose gradients are joined without conflict. Reads logits x.

    loss = CE(sum_m x_m) + sum_m CE(x_m). For the parameters of modality m, with a the gradient of the first term and b
    that of the second, all tensors flattened:

        <a, b> > 0: k = 1/2;    otherwise k = <b, b - a> / |a - b|^2, so that k a + (1 - k) b is as short as can be
        and each tensor's gradient is g = 2 k a + 2 (1 - k) b, then gamma g max(1, |a + b| / |g|)

    which conflicts with neither term and is as long as their sum. That is what `backward` does: it walks back twice,
    and needs each modality's parameters. `loss.backward()` alone gives the plain sum of both, which is also what all
    other parameters get. Both sums are over the modalities that a sample has.

    As released (github.com/GeWu-Lab/MMPareto_ICML2024), but for the heads: there the fused prediction has a head of its
    own over concatenated features, and heads get the plain gradients; here the same last layers serve both, and are of
    the modality like its other layers. Its solver's bounds on k are never reached. Where g is 0 it stays 0. Where a
    modality's scores depend on another's parameters (MOMA), b has the other's term, too. Under Adam, which divides by a
    gradient's size, gamma cancels: take SGD, as they do.

    Args:
        num_classes: C.
        num_modalities: M.
        gamma: by how much every gradient is lengthened; 1.5 in the paper.
        ignore_index: samples with this target leave the loss as if they were not in the batch.
    """

    needs_modality_parameters = True

    def __init__(self, num_classes: int, num_modalities: int, gamma: float = 1.5, ignore_index: int = -100) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        check_number("gamma", gamma, above=0)
        self.gamma = gamma

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return scores.sum(dim=1)

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            of_all = self.cross_entropies(scores, target).masked_fill(~mask, 0).sum(dim=1)
            return self.cross_entropy(scores.sum(dim=1), target) + self.reduced(of_all, target)
        of_each = [self.cross_entropy(of_one, target) for of_one in scores.unbind(dim=1)]
        return self.cross_entropy(scores.sum(dim=1), target) + torch.stack(of_each).sum()

    def backward(
        self,
        loss: Tensor,
        scores: Tensor,
        target: Tensor,
        modality_parameters: ModalityParameters | None = None,
        share: float = 1.0,
        mask: Tensor | None = None,
    ) -> None:
        of_modalities = required(self, modality_parameters)
        fused = self.negative_log_likelihood(scores, target, mask)
        first = backward_apart(fused * share, of_modalities, retain_graph=True)
        second = backward_apart((loss - fused) * share, of_modalities)
        for own in of_modalities:
            a, b = rows_of(first, own), rows_of(second, own)
            for of_first, joined in zip(a, self.joined(a, b) if a else (), strict=True):  # none of a frozen modality
                of_first.copy_(joined)
        add_gradients(first)

    def joined(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        """One modality's gradient, tensor by tensor, from those of the fused and of the unimodal term."""
        k = min_norm_weight(first, second)
        gradients = []
        for a, b in zip(first, second, strict=True):
            g = 2 * k * a + 2 * (1 - k) * b
            length = g.norm()
            longer = ((a + b).norm() / length.where(length > 0, 1)).clamp(min=1)
            gradients.append(self.gamma * longer * g)
        return gradients


def min_norm_weight(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """k (): 1/2 where both lists, each as one vector, have a positive product; else that of their shortest mixture."""
    product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    towards = torch.stack([(b * (b - a)).sum() for a, b in zip(first, second, strict=True)]).sum()
    square = torch.stack([(a - b).square().sum() for a, b in zip(first, second, strict=True)]).sum()
    return torch.where((product > 0) | (square == 0), 0.5, towards / square.where(square > 0, 1))
