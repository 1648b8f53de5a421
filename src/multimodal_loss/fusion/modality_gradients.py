"""For fusions that balance the gradients of each modality's parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, ModalityParameters


def backward_apart(
    loss: Tensor, modality_parameters: ModalityParameters, retain_graph: bool = False
) -> dict[nn.Parameter, Tensor]:
    """`loss.backward()`, but the gradients of the modalities' parameters are returned, not added to their `grad`."""
    parameters = {parameter for own in modality_parameters for parameter, _ in own if parameter.requires_grad}
    before = {parameter: parameter.grad for parameter in parameters}
    for parameter in parameters:
        parameter.grad = None
    loss.backward(retain_graph=retain_graph)
    found = {p: torch.zeros_like(p) if p.grad is None else p.grad for p in parameters}
    for parameter, grad in before.items():
        parameter.grad = grad
    return found


def add_gradients(gradients: dict[nn.Parameter, Tensor]) -> None:
    for parameter, gradient in gradients.items():
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def rows_of(gradients: dict[nn.Parameter, Tensor], own: Iterable[tuple[nn.Parameter, slice]]) -> list[Tensor]:
    """One modality's part of the gradients, as views."""
    return [gradients[parameter][rows] for parameter, rows in own if parameter in gradients]


def required(fusion: Fusion, modality_parameters: ModalityParameters | None) -> ModalityParameters:
    """ValueError where `backward` was not told, or not of every modality."""
    if modality_parameters is None or len(modality_parameters) != fusion.num_modalities:
        raise ValueError(
            f"{type(fusion).__name__}.backward needs modality_parameters: a list for each of the "
            f"{fusion.num_modalities} modalities, of pairs (parameter, slice(None))"
        )
    return modality_parameters
