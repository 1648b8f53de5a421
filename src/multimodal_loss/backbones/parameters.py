"""For the hook `modality_parameters` of a backbone: which parameters are each modality's."""

from collections.abc import Iterable

from torch import nn

ModalityParameters = list[list[tuple[nn.Parameter, slice]]]


def of_modules(modules: Iterable[Iterable[nn.Module]]) -> ModalityParameters:
    """All parameters of each modality's modules."""
    return [[(parameter, slice(None)) for module in own for parameter in module.parameters()] for own in modules]
