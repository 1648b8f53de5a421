"""DeepConvLSTM (Ordóñez and Roggen, Sensors 16(1), 2016) for one window of several sensors: the backbone of Table 3.

A branch is: convolutions over time, whose filters all channels share (kernel (k, 1), valid, ReLU); channels and maps
of a time step flattened; LSTM layers; a Linear layer on the last step. Three ways to fuse M sensors:

    early          one branch on all channels side by side                                     scores (B, 1, C)
    intermediate   convolutions of its own for each sensor, one LSTM on all of their outputs   scores (B, 1, C)
    late           a whole branch for each sensor                                              scores (B, M, C)

Branches do not run one after another: sensors with the same number of channels are the groups of one convolution and
the batch of one matrix product, and the recurrences of all sensors are one batched product per time step.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.backbones.parameters import ModalityParameters, of_modules
from multimodal_loss.errors import UserError, require_choice, require_number

FUSION_TYPES = ("late", "early", "intermediate")
INITIALISATIONS = ("orthogonal", "orthogonal_lstm_and_linear", "default")
# Filters act on each channel alone. 113 channels in one convolution take 1.7 times as long on a CPU: activations of 100
# windows are then above the 32 MB from which the allocator asks the system for fresh pages each time.
CHANNELS_AT_ONCE = 32
Layer = TypeVar("Layer", bound=nn.Module)


class DeepConvLSTM(nn.Module):
    """Scores (B, M, C), or (B, 1, C) where `joint`, from M windows (B, T, d_m).

    Args:
        feature_shapes: (T, d_m) of each modality; T is the same for all.
        num_classes: C.
        fusion_type: "late", "early" or "intermediate", as above.
        filters, kernel, conv_layers: maps, length in time steps and number of the convolutions; T must be above
            conv_layers * (kernel - 1).
        hidden, lstm_layers: units of each LSTM layer, number of layers.
        dropout: probability, at the places named.
        dropout_places: whose inputs are dropped: "lstm1", "lstm2", ... (one for each LSTM layer), "classifier".
        initialisation: "orthogonal": every weight matrix (a convolution's flattened to (filters, inputs * kernel), an
            LSTM's four gates as one) and biases 0; "orthogonal_lstm_and_linear": the same without the convolutions;
            "default": PyTorch's for each module.

    `joint` says that there is one score however many modalities there are.

    Weights are drawn as by modules of their own, modality by modality; within one convolutions, LSTM layers, Linear; a
    layer's initialisation right after its construction. (With intermediate fusion, LSTM and Linear come after the
    convolutions of all.) Stacked parameters hold the modalities ordered by number of channels, and equal ones as given.

    Raises:
        UserError: a value out of its range, or windows too short for the convolutions.
    """

    def __init__(
        self,
        feature_shapes: Sequence[Sequence[int]],
        num_classes: int,
        fusion_type: str = "late",
        filters: int = 64,
        kernel: int = 5,
        conv_layers: int = 4,
        hidden: int = 128,
        lstm_layers: int = 2,
        dropout: float = 0.5,
        dropout_places: Sequence[str] = ("lstm1", "lstm2", "classifier"),
        initialisation: str = "orthogonal",
    ) -> None:
        super().__init__()
        require_choice("backbone.fusion_type", fusion_type, FUSION_TYPES)
        require_choice("backbone.initialisation", initialisation, INITIALISATIONS)
        sizes = {"filters": filters, "kernel": kernel, "conv_layers": conv_layers}
        sizes |= {"hidden": hidden, "lstm_layers": lstm_layers}
        for key, size in sizes.items():
            require_number(f"backbone.{key}", size, positive=True, integer=True)
        self.fusion_type = fusion_type
        self.joint = fusion_type != "late"
        *self.lstm_dropout, self.classifier_dropout = _dropout_rates(dropout, dropout_places, lstm_layers)

        def convolutions() -> list[nn.Conv2d]:
            inputs = [1] + [filters] * (conv_layers - 1)
            return [_initialised(nn.Conv2d(i, filters, (kernel, 1)), initialisation) for i in inputs]

        def head(width: int) -> tuple[list[nn.LSTM], nn.Linear]:
            inputs = [filters * width] + [hidden] * (lstm_layers - 1)
            lstms = [_initialised(nn.LSTM(i, hidden), initialisation) for i in inputs]
            return lstms, _initialised(nn.Linear(hidden, num_classes), initialisation)

        widths = _channels(feature_shapes, conv_layers, kernel)
        if fusion_type == "early":
            widths = [sum(widths)]
        stacks, heads = [], []
        for width in widths:
            stacks.append(convolutions())
            if fusion_type != "intermediate":
                heads.append(head(width))
        if fusion_type == "intermediate":
            heads.append(head(sum(widths)))

        self.groups = [[m for m, w in enumerate(widths) if w == width] for width in sorted(set(widths))]
        by_width = [modality for group in self.groups for modality in group]
        self.places = [by_width.index(modality) for modality in range(len(widths))]
        self.convolutions = nn.ModuleList(GroupedConvolutions([stacks[m] for m in group]) for group in self.groups)
        first = [[0]] if fusion_type == "intermediate" else self.groups
        order = [branch for group in first for branch in group]
        # Only the first layer's inputs differ in width; those of the others are one group.
        self.lstms = nn.ModuleList(
            BatchedLSTM([[heads[b][0][layer] for b in group] for group in (first if layer == 0 else [order])])
            for layer in range(lstm_layers)
        )
        self.classifier_weight = _stacked([heads[b][1].weight for b in order])
        self.classifier_bias = _stacked([heads[b][1].bias for b in order])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if self.fusion_type == "early":
            inputs = [torch.cat(tuple(inputs), dim=-1)]
        stacked = [torch.stack([inputs[modality] for modality in group], dim=1) for group in self.groups]
        sequences = [convolve(x) for convolve, x in zip(self.convolutions, stacked, strict=True)]
        if self.fusion_type == "intermediate":
            sequences = [torch.cat(self._in_order(sequences), dim=-1)[None]]
        for lstm, rate in zip(self.lstms, self.lstm_dropout, strict=True):
            sequences = [lstm([F.dropout(x, rate, self.training) for x in sequences])]
        last = F.dropout(sequences[0][:, -1], self.classifier_dropout, self.training)
        scores = torch.baddbmm(self.classifier_bias[:, None], last, self.classifier_weight.transpose(1, 2))
        return scores.transpose(0, 1) if self.joint else torch.stack(self._in_order([scores]), dim=1)

    def modality_parameters(self) -> ModalityParameters:
        """The slices of the stacked parameters that are a modality's; all parameters where it is `joint`."""
        if self.joint:
            return of_modules([[self]])
        found: ModalityParameters = [[] for _ in self.places]
        parameters: list[tuple[list[int], nn.Parameter]] = []  # with the modalities that a parameter stacks
        by_width = [modality for group in self.groups for modality in group]
        for group, convolutions in zip(self.groups, self.convolutions, strict=True):
            parameters += [(group, parameter) for parameter in convolutions.parameters()]
        for lstm in self.lstms:
            assert isinstance(lstm, BatchedLSTM)
            of_groups = self.groups if len(lstm.weight_ih) > 1 else [by_width]
            parameters += zip(of_groups, lstm.weight_ih, strict=True)
            parameters += [(by_width, p) for p in (lstm.weight_hh, lstm.bias_ih, lstm.bias_hh)]
        parameters += [(by_width, self.classifier_weight), (by_width, self.classifier_bias)]
        for modalities, parameter in parameters:
            rows = len(parameter) // len(modalities)
            for place, modality in enumerate(modalities):
                found[modality].append((parameter, slice(place * rows, (place + 1) * rows)))
        return found

    def _in_order(self, stacked: Sequence[Tensor]) -> list[Tensor]:
        """One tensor for each modality, in the order given, from tensors that stack the sorted ones."""
        rows = [row for tensor in stacked for row in tensor.unbind(0)]
        return [rows[place] for place in self.places]


class GroupedConvolutions(nn.Module):
    """The convolution stacks of G equally wide modalities as one: each layer has one weight (G * filters, inputs,
    kernel, 1) and one bias (G * filters,).
    """

    def __init__(self, stacks: Sequence[Sequence[nn.Conv2d]]) -> None:
        super().__init__()
        self.stacks = len(stacks)
        layers = list(zip(*stacks, strict=True))
        self.weights = nn.ParameterList(torch.cat([conv.weight.detach() for conv in layer]) for layer in layers)
        self.biases = nn.ParameterList(
            torch.cat([conv.bias.detach() for conv in layer if conv.bias is not None]) for layer in layers
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, G, T, d) to (G, T', B, filters * d); in a time step's features, the d channels of a map lie together."""
        pieces = [self._maps(piece) for piece in x.split(CHANNELS_AT_ONCE, dim=-1)]
        return torch.cat([piece.permute(1, 3, 0, 2, 4) for piece in pieces], dim=-1).flatten(3)

    def _maps(self, maps: Tensor) -> Tensor:
        """(B, G, T, d) to (B, G, filters, T', d)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            maps = F.conv2d(maps, weight, bias, groups=self.stacks).relu_()
        stacks: Tensor = maps.unflatten(1, (self.stacks, -1))
        return stacks


class BatchedLSTM(nn.Module):
    """Independent LSTMs (M of them, equal hidden size H) over sequences of equal length, in PyTorch's gate order i, f,
    g, o and with its two biases: `weight_ih[group]` (G, 4H, inputs), `weight_hh` (M, 4H, H), `bias_ih` and `bias_hh`
    (M, 4H).

    Args:
        groups: one-layer LSTMs by group; the members of a group take equally wide inputs.
    """

    def __init__(self, groups: Sequence[Sequence[nn.LSTM]]) -> None:
        super().__init__()
        self.weight_ih = nn.ParameterList(_stacked([lstm.all_weights[0][0] for lstm in group]) for group in groups)
        every = [lstm.all_weights[0] for group in groups for lstm in group]
        self.weight_hh, self.bias_ih, self.bias_hh = map(_stacked, list(zip(*every, strict=True))[1:])

    def forward(self, sequences: Sequence[Tensor]) -> Tensor:
        """Outputs (M, T, B, H) of every step, from (G, T, B, inputs) for each group and a state of zeros."""
        steps, batch = sequences[0].shape[1:3]
        biases = (self.bias_ih + self.bias_hh).split([len(x) for x in sequences])
        projected = [
            torch.baddbmm(bias[:, None], x.flatten(1, 2), weight.transpose(1, 2))
            for x, weight, bias in zip(sequences, self.weight_ih, biases, strict=True)
        ]
        gates = torch.cat(projected).unflatten(1, (steps, batch))
        recurrent = self.weight_hh.transpose(1, 2).contiguous()  # as a view, the product takes twice as long on a CPU
        hidden = cell = gates.new_zeros(len(recurrent), batch, recurrent.shape[1])
        outputs = []
        for step in gates.unbind(1):
            entry, forget, candidate, output = torch.baddbmm(step, hidden, recurrent).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
            hidden = output.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


def _channels(feature_shapes: Sequence[Sequence[int]], conv_layers: int, kernel: int) -> list[int]:
    """d_m of each modality, from shapes that fit together and the convolutions."""
    shapes = [tuple(shape) for shape in feature_shapes]
    if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
        raise UserError(
            f"backbone deep_conv_lstm: samples have shapes {', '.join(map(str, shapes))}; it takes windows "
            "(time, channels) of equal time: choose another backbone or dataset"
        )
    lost = conv_layers * (kernel - 1)
    if shapes[0][0] <= lost:
        raise UserError(
            f"backbone.conv_layers={conv_layers}, backbone.kernel={kernel}: they take {lost} time steps of a window of "
            f"{shapes[0][0]}; use longer windows, fewer layers or a shorter kernel"
        )
    return [shape[1] for shape in shapes]


def _dropout_rates(dropout: float, places: Sequence[str], lstm_layers: int) -> list[float]:
    """The probability at the inputs of each LSTM layer and of the classifier, 0 where not asked for."""
    require_number("backbone.dropout", dropout)
    if dropout >= 1:
        raise UserError(f"backbone.dropout={dropout}: must be below 1")
    choices = [*(f"lstm{layer + 1}" for layer in range(lstm_layers)), "classifier"]
    for place in places:
        require_choice("backbone.dropout_places", place, choices)
    return [float(dropout) if place in places else 0.0 for place in choices]


def _stacked(parameters: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([parameter.detach() for parameter in parameters]))


def _initialised(layer: Layer, initialisation: str) -> Layer:
    if initialisation == "default" or (initialisation != "orthogonal" and isinstance(layer, nn.Conv2d)):
        return layer
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layer
