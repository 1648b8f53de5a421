"""DeepConvLSTM against plain modules in a loop, the paper's sizes, and what dropout and initialisation say they do."""

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import benchmark_deep_conv_lstm as benchmark
from benchmark_deep_conv_lstm import STEPS, WIDTHS, Convolutions, Head, Loop, multiply_accumulates
from conftest import ROOT
from multimodal_loss.backbones.deep_conv_lstm import DeepConvLSTM
from multimodal_loss.errors import UserError

SHAPES = [(STEPS, width) for width in WIDTHS]
SMALL: dict[str, Any] = {"filters": 4, "kernel": 3, "conv_layers": 2, "hidden": 5, "lstm_layers": 2}
SMALL_SHAPES = [(9, 2), (9, 5), (9, 2), (9, 1), (9, 5)]  # widths neither sorted nor distinct


class Early(nn.Module):
    """One branch on all channels."""

    def __init__(self, widths: Sequence[int], num_classes: int, **options: Any) -> None:
        super().__init__()
        self.loop = Loop([sum(widths)], num_classes, **options)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.loop([torch.cat(list(inputs), dim=2)])
        return scores


class Intermediate(nn.Module):
    """Convolutions for each modality, one head on their outputs side by side."""

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        filters: int = 64,
        kernel: int = 5,
        conv_layers: int = 4,
        hidden: int = 128,
        lstm_layers: int = 2,
    ) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(Convolutions(filters, kernel, conv_layers) for _ in widths)
        self.head = Head(filters * sum(widths), num_classes, hidden, lstm_layers)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.head(torch.cat([s(x) for s, x in zip(self.stacks, inputs, strict=True)], dim=2))
        return scores[:, None]


REFERENCES: dict[str, Any] = {"early": Early, "intermediate": Intermediate, "late": Loop}


def pair(
    fusion_type: str, shapes: Sequence[tuple[int, int]], classes: int, seed: int = 0, **options: Any
) -> tuple[nn.Module, nn.Module]:
    """Ours without dropout, and the reference, each drawn from the same seed."""
    torch.manual_seed(seed)
    ours = DeepConvLSTM(shapes, classes, fusion_type=fusion_type, dropout_places=[], **options)
    torch.manual_seed(seed)
    return ours, REFERENCES[fusion_type]([width for _, width in shapes], classes, **options)


def windows(shapes: Sequence[tuple[int, int]], batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.rand(batch, *shape, dtype=dtype) for shape in shapes]


def after_steps(network: nn.Module, inputs: Sequence[Tensor], target: Tensor, steps: int) -> Tensor:
    """Scores after some steps of gradient descent: equal only if every parameter's gradient is."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs).flatten(0, 1), target).backward()
        optimizer.step()
    scores: Tensor = network(inputs)
    return scores.detach()


# --- the paper's sizes


@pytest.mark.parametrize(
    ("fusion_type", "classes", "parameters"),
    [
        ("early", 18, 3_965_778),
        ("early", 5, 3_964_101),
        ("intermediate", 18, 5_082_066),
        ("intermediate", 5, 5_080_389),
        ("late", 18, 8_699_670),
        ("late", 5, 8_667_807),
    ],
)
def test_parameter_counts_are_the_papers(fusion_type: str, classes: int, parameters: int) -> None:
    network = DeepConvLSTM(SHAPES, classes, fusion_type=fusion_type, initialisation="default")
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("width", "parameters"), [(3, 361_298), (9, 557_906), (16, 787_282)])
def test_parameter_counts_of_one_branch(width: int, parameters: int) -> None:
    network = DeepConvLSTM([(24, width)], 18, initialisation="default")
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_arithmetic_of_a_window() -> None:
    counts = {}
    for kind in REFERENCES:
        counts[kind] = multiply_accumulates(DeepConvLSTM(SHAPES, 18, fusion_type=kind, initialisation="default").eval())
    convolutions = 113 * 64 * 5 * (20 + 64 * (16 + 12 + 8))
    assert counts["early"] == convolutions + 8 * 512 * (7232 + 3 * 128) + 128 * 18
    assert counts["intermediate"] == counts["early"]
    assert counts["late"] == convolutions + 8 * 512 * (7232 + 19 * 3 * 128) + 19 * 128 * 18
    # 115.7 M was printed by another implementation, which counts activations and biases too.
    assert counts["early"] == pytest.approx(115.7e6, rel=0.005)
    assert counts["late"] == pytest.approx(143.5e6, rel=0.001)


# --- equal to plain modules


@pytest.mark.parametrize("fusion_type", REFERENCES)
def test_equals_plain_modules_of_the_same_seed_at_full_size(fusion_type: str) -> None:
    ours, reference = pair(fusion_type, SHAPES, 18)
    inputs = windows(SHAPES, 3)
    torch.testing.assert_close(ours(inputs), reference(inputs), rtol=0, atol=1e-5)
    inputs = [x.double() for x in inputs]
    torch.testing.assert_close(ours.double()(inputs), reference.double()(inputs), rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    fusion_type=st.sampled_from(sorted(REFERENCES)),
    widths=st.lists(st.sampled_from([1, 2, 3, 40]), min_size=1, max_size=5),
    classes=st.integers(1, 4),
    filters=st.integers(1, 4),
    kernel=st.integers(1, 4),
    conv_layers=st.integers(1, 3),
    hidden=st.integers(1, 5),
    lstm_layers=st.integers(1, 3),
    spare=st.integers(1, 4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_equals_plain_modules_before_and_after_training(
    fusion_type: str, widths: list[int], classes: int, spare: int, batch: int, seed: int, **options: Any
) -> None:
    steps = options["conv_layers"] * (options["kernel"] - 1) + spare
    shapes = [(steps, width) for width in widths]
    ours, reference = (n.double() for n in pair(fusion_type, shapes, classes, seed, **options))
    inputs = windows(shapes, batch, torch.float64)
    scores = ours(inputs)
    assert scores.shape == (batch, len(widths) if fusion_type == "late" else 1, classes)
    torch.testing.assert_close(scores, reference(inputs), rtol=0, atol=1e-10)
    target = torch.randint(classes, (scores.shape[0] * scores.shape[1],))
    torch.testing.assert_close(
        after_steps(ours, inputs, target, 2), after_steps(reference, inputs, target, 2), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("fusion_type", REFERENCES)
def test_gradients_of_the_inputs(fusion_type: str) -> None:
    gradients = []
    for network in pair(fusion_type, SMALL_SHAPES, 3, **SMALL):
        torch.manual_seed(1)
        inputs = [x.requires_grad_() for x in windows(SMALL_SHAPES, 2, torch.float64)]
        network.double()(inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for ours, reference in zip(*gradients, strict=True):
        assert ours.abs().max() > 1e-6
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


def test_only_early_and_intermediate_fusion_are_joint() -> None:
    joint = {kind: DeepConvLSTM(SMALL_SHAPES, 3, fusion_type=kind, **SMALL).joint for kind in REFERENCES}
    assert joint == {"early": True, "intermediate": True, "late": False}


def test_late_scores_depend_on_their_own_modality_alone() -> None:
    network = DeepConvLSTM(SMALL_SHAPES, 3, **SMALL).eval()
    inputs = windows(SMALL_SHAPES, 4)
    before = network(inputs)
    inputs[1] = inputs[1] + 1
    changed = (network(inputs) != before).any(dim=2).any(dim=0)
    assert changed.tolist() == [False, True, False, False, False]


class CountOperations(TorchDispatchMode):
    """Counts calls of the operations that compute; those that only shape tensors are free."""

    COMPUTING = ("convolution", "bmm", "baddbmm", "sigmoid", "tanh", "mul", "relu_", "convolution_backward")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.COMPUTING:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fusion_type", ["intermediate", "late"])
def test_modalities_of_equal_width_cost_no_further_operations(fusion_type: str) -> None:
    calls = []
    for modalities in (2, 13):
        shapes = [(9, 3)] * modalities
        network = DeepConvLSTM(shapes, 3, fusion_type=fusion_type, dropout=0.0, **SMALL)
        with CountOperations() as counter:
            network(windows(shapes, 2)).sum().backward()
        calls.append(counter.calls)
    assert calls[0] == calls[1]
    assert calls[0]["convolution"] == SMALL["conv_layers"] and calls[0]["baddbmm"] > 0


# --- initialisation


def is_orthogonal(matrix: Tensor) -> bool:
    matrix = matrix.detach().double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-4)


def weights_and_biases(network: DeepConvLSTM) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """The matrices of every modality and layer, and the biases, of `convolutions` and of the `rest`."""
    matrices: dict[str, list[Tensor]] = {"convolutions": [], "rest": []}
    biases: dict[str, list[Tensor]] = {"convolutions": [], "rest": []}
    for name, parameter in network.named_parameters():
        part = "convolutions" if "convolutions" in name else "rest"
        if "bias" in name:
            biases[part].append(parameter)
        elif part == "convolutions":
            matrices[part] += parameter.flatten(1).split(SMALL["filters"])
        else:
            matrices[part] += parameter.unbind(0)
    return matrices, biases


@pytest.mark.parametrize("fusion_type", REFERENCES)
def test_orthogonal_is_every_matrix_of_every_modality(fusion_type: str) -> None:
    network = DeepConvLSTM(SMALL_SHAPES, 3, fusion_type=fusion_type, **SMALL)
    matrices, biases = weights_and_biases(network)
    stacks, branches = (1 if fusion_type == "early" else 5), (5 if fusion_type == "late" else 1)
    assert len(matrices["convolutions"]) == 2 * stacks and len(matrices["rest"]) == 5 * branches
    assert all(is_orthogonal(m) for part in matrices.values() for m in part)
    assert not any(b.any() for part in biases.values() for b in part)


def test_orthogonal_but_for_the_convolutions() -> None:
    network = DeepConvLSTM(SMALL_SHAPES, 3, initialisation="orthogonal_lstm_and_linear", **SMALL)
    matrices, biases = weights_and_biases(network)
    assert all(is_orthogonal(m) for m in matrices["rest"]) and not any(b.any() for b in biases["rest"])
    assert not any(is_orthogonal(m) for m in matrices["convolutions"]) and all(b.all() for b in biases["convolutions"])


def test_default_initialisation_is_that_of_plain_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "orthogonal", lambda layer: layer)
    torch.manual_seed(4)
    ours = DeepConvLSTM(SMALL_SHAPES, 3, initialisation="default", **SMALL).eval()
    torch.manual_seed(4)
    reference = Loop([width for _, width in SMALL_SHAPES], 3, **SMALL)
    inputs = windows(SMALL_SHAPES, 4)
    torch.testing.assert_close(ours(inputs), reference(inputs), rtol=0, atol=1e-6)


# --- dropout

NEARLY_ALL = 1 - 1e-12


@pytest.mark.parametrize("fusion_type", REFERENCES)
@pytest.mark.parametrize("place", ["lstm1", "lstm2", "classifier"])
def test_a_place_drops_the_inputs_of_its_layer(fusion_type: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "orthogonal", lambda layer: layer)  # biases, so that no layer gives zeros for zeros
    torch.manual_seed(2)
    ours = DeepConvLSTM(
        SMALL_SHAPES,
        3,
        fusion_type=fusion_type,
        dropout=NEARLY_ALL,
        dropout_places=[place],
        initialisation="default",
        **SMALL,
    )
    torch.manual_seed(2)
    reference = REFERENCES[fusion_type]([width for _, width in SMALL_SHAPES], 3, **SMALL)
    inputs = windows(SMALL_SHAPES, 4)
    torch.testing.assert_close(ours.eval()(inputs), reference(inputs), rtol=0, atol=1e-6)
    for head in (module for module in reference.modules() if isinstance(module, Head)):
        layer = {"lstm1": head.lstms[0], "lstm2": head.lstms[1], "classifier": head.classifier}[place]
        layer.register_forward_pre_hook(lambda _, arguments: (torch.zeros_like(arguments[0]),))
    torch.testing.assert_close(ours.train()(inputs), reference(inputs), rtol=0, atol=1e-6)


def test_dropout_keeps_the_mean_and_is_drawn_anew_for_each_window() -> None:
    torch.manual_seed(0)
    network = DeepConvLSTM(SMALL_SHAPES, 3, dropout=0.25, dropout_places=["classifier"], **SMALL)
    inputs = [x.expand(4000, -1, -1) for x in windows(SMALL_SHAPES, 1)]
    dropped, kept = network.train()(inputs).detach(), network.eval()(inputs).detach()[0]
    error = dropped.std(dim=0) / 4000**0.5
    assert (error > 0).all() and ((dropped.mean(dim=0) - kept).abs() < 5 * error).all()
    # Five hidden units, each dropped with probability 1/4: one window in 4.2 keeps all, and its scores are scaled.
    intact = torch.isclose(dropped, kept / 0.75, atol=1e-6).all(dim=2).double().mean(dim=0)
    assert ((intact - 0.75**5).abs() < 5 * (0.24 * 0.76 / 4000) ** 0.5).all()


def test_evaluation_is_deterministic_and_training_follows_the_seed() -> None:
    network = DeepConvLSTM(SMALL_SHAPES, 3, **SMALL)
    inputs = windows(SMALL_SHAPES, 4)
    assert not torch.equal(network(inputs), network(inputs))
    torch.manual_seed(5)
    first = network(inputs)
    torch.manual_seed(5)
    assert torch.equal(first, network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))


# --- number formats and devices


@pytest.mark.parametrize("fusion_type", REFERENCES)
def test_bfloat16_autocast(fusion_type: str) -> None:
    network, _ = pair(fusion_type, SMALL_SHAPES, 3, **SMALL)
    inputs = windows(SMALL_SHAPES, 4)
    expected = network(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(inputs)
    torch.testing.assert_close(scores.float(), expected, rtol=0, atol=0.02)
    scores.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("fusion_type", REFERENCES)
def test_no_tensor_is_made_on_another_device(fusion_type: str) -> None:
    network = DeepConvLSTM(SMALL_SHAPES, 3, fusion_type=fusion_type, **SMALL).to("meta")
    scores = network([x.to("meta") for x in windows(SMALL_SHAPES, 4)])
    assert scores.shape == (4, 5 if fusion_type == "late" else 1, 3) and scores.is_meta


# --- what a user can get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion_type": "middle"}, "backbone.fusion_type=middle: must be one of late, early, intermediate"),
        ({"initialisation": "xavier"}, "backbone.initialisation=xavier: must be one of orthogonal"),
        ({"dropout_places": ["lstm3"]}, "backbone.dropout_places=lstm3: must be one of lstm1, lstm2, classifier"),
        ({"lstm_layers": 1}, "backbone.dropout_places=lstm2: must be one of lstm1, classifier"),
        ({"dropout": 1.0}, "backbone.dropout=1.0: must be below 1"),
        ({"dropout": -0.1}, "backbone.dropout=-0.1: must be a number of at least 0"),
        ({"dropout": float("nan")}, "backbone.dropout=NaN: must be a number"),
        ({"filters": 0}, "backbone.filters=0: must be a whole number above 0"),
        ({"hidden": 2.5}, "backbone.hidden=2.5: must be a whole number above 0"),
        ({"lstm_layers": 0}, "backbone.lstm_layers=0: must be a whole number above 0"),
        ({"kernel": True}, "backbone.kernel=true: must be a whole number above 0"),
        ({"kernel": 7}, "take 24 time steps of a window of 24"),
        ({"feature_shapes": [(24, 3), (2000,)]}, "samples have shapes (24, 3), (2000,); it takes windows"),
        ({"feature_shapes": [(24, 3), (30, 3)]}, "samples have shapes (24, 3), (30, 3); it takes windows"),
        ({"feature_shapes": [(16, 3)]}, "take 16 time steps of a window of 16"),
    ],
)
def test_wrong_values_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        DeepConvLSTM(**{"feature_shapes": [(24, 3)], "num_classes": 3, **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_config_names_every_option_with_its_default() -> None:
    config = OmegaConf.load(ROOT / "conf/backbone/deep_conv_lstm.yaml")
    config.backbone.fusion_type = "early"
    assert config.facts.backbone.name == "deep_conv_lstm_early"
    assert config.backbone.pop("_target_").split(".")[-1] == "DeepConvLSTM"
    config.backbone.fusion_type = "late"
    parameters = inspect.signature(DeepConvLSTM).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    defaults["dropout_places"] = list(defaults["dropout_places"])
    assert OmegaConf.to_container(config.backbone) == defaults
