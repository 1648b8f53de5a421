"""One multilayer perceptron per modality: the backbone of Table 1 (paper, section 4.1; authors' notebooks)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.backbones.parameters import ModalityParameters, of_modules
from multimodal_loss.errors import UserError, require_choice, require_number

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Scores (B, M, C) from M vectors, each through its own Linear layers.

    Args:
        feature_shapes: shape of one sample of each modality; any shape is flattened, widths may differ.
        num_classes: C.
        hidden: widths of the hidden layers, the same for every modality.
        activation: None (as released: the network is linear), "relu", "gelu" or "tanh".
        cosine_scale: None: the last layer is linear, too. A number s: the scores are s cos(h_m, w_mk), of a modality's
            features h_m (what the last layer reads) and a vector for each class, without bias (MMCosine, eq. 3-4, which
            sums them; Xu et al. 2023, arXiv 2303.05338).
        wide_input: None: one learning rate. A number n: a first layer that reads d > n features learns at n / d of it.
            Adam moves every weight by about its rate, so that a score's step grows with d: at a rate that suits a
            hundred features, networks on thousands of them are at their best after one epoch.

    Layers are made layer by layer, and within a layer modality by modality, because that is the order in which the
    authors' code draws from the generator: the same seed gives their initial weights.
    """

    def __init__(
        self,
        feature_shapes: Sequence[Sequence[int]],
        num_classes: int,
        hidden: Sequence[int] = (500, 100, 20),
        activation: str | None = None,
        cosine_scale: float | None = None,
        wide_input: int | None = None,
    ) -> None:
        super().__init__()
        require_choice("backbone.activation", activation, (None, *ACTIVATIONS))
        if cosine_scale is not None:
            require_number("backbone.cosine_scale", cosine_scale, positive=True)
        if wide_input is not None:
            require_number("backbone.wide_input", wide_input, positive=True)
        if any(width < 1 for width in hidden):
            raise UserError(f"backbone.hidden={list(hidden)}: every width must be at least 1")
        self.activation = None if activation is None else ACTIVATIONS[activation]()
        self.cosine_scale = cosine_scale
        self.wide_input = wide_input
        inputs = [torch.Size(shape).numel() for shape in feature_shapes]
        self.modalities = nn.ModuleList(nn.ModuleList() for _ in inputs)
        for depth, width in enumerate([*hidden, num_classes]):
            for features, layers in zip(inputs, self.modalities, strict=True):
                assert isinstance(layers, nn.ModuleList)
                bias = cosine_scale is None or depth < len(hidden)
                layers.append(nn.Linear(features if depth == 0 else hidden[depth - 1], width, bias=bias))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._scores(x, layers) for x, layers in zip(inputs, self._layers(), strict=True)], dim=1)

    def affine_layers(self) -> list[list[nn.Linear]] | None:
        """The linear layers of each modality, from the input to the scores, if they are all that its network is."""
        plain = self.activation is None and self.cosine_scale is None and not self._wide()
        return self._layers() if plain else None

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What a torch optimiser takes: first layers that read many features have rates of their own."""
        wide = self._wide()
        slow = {id(layer.weight) for layer in wide}
        rest = {"params": [p for p in self.parameters() if id(p) not in slow], "lr": lr}
        return [rest, *({"params": [w.weight], "lr": lr * (self.wide_input or 1) / w.in_features} for w in wide)]

    def modality_parameters(self) -> ModalityParameters:
        """Every layer of a modality, the last one too."""
        return of_modules([layers] for layers in self.modalities)

    def _wide(self) -> list[nn.Linear]:
        first = [layers[0] for layers in self._layers()]
        return [layer for layer in first if self.wide_input is not None and layer.in_features > self.wide_input]

    def _layers(self) -> list[list[nn.Linear]]:
        return [[layer for layer in layers.children() if isinstance(layer, nn.Linear)] for layers in self.modalities]

    def _scores(self, x: Tensor, layers: list[nn.Linear]) -> Tensor:
        x = x.flatten(1)
        for depth, layer in enumerate(layers):
            if depth and self.activation is not None:
                x = self.activation(x)
            if layer.bias is None:
                return self.cosine_scale * F.normalize(x, dim=1) @ F.normalize(layer.weight, dim=1).t()
            x = layer(x)
        return x
