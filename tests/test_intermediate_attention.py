"""Intermediate Attention and its trunk in float64 against what the released code says, read literally."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.backbones import IntermediateAttention
from multimodal_loss.backbones.efficient_face import EfficientFace, LocalBranch, Modulator, Unit
from multimodal_loss.backbones.intermediate_attention import FROM_SCRATCH, TimeAttention
from multimodal_loss.errors import UserError

AUDIO, VIDEO = (10, 156), (3, 15, 224, 224)
SMALL = {"channels": (2, 8, 12, 16, 20), "units": (2, 2, 1)}
GATE_C, GATE_S = "modulator.channel_att.gate_c.gate_c", "modulator.spatial_att.gate_s.gate_s"


def shaken(module: nn.Module) -> nn.Module:
    """In float64 and evaluation, with normalisations that do something, whatever training would have made of them."""
    for one in module.modules():
        if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (one.weight, one.bias, one.running_mean):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
            nn.init.uniform_(one.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return module.double().eval()


# --- the trunk, from a file under the names of the released one


def released(trunk: EfficientFace) -> dict[str, Tensor]:
    """The trunk's weights under the names of the released file: with a classifier, and layers for quarters 1 to 4."""
    modulator = {"channel.0": "_fc_0", "channel.1": "_bn_1", "channel.3": "_fc_final", "spatial.0": "_conv_reduce0"}
    modulator |= {"spatial.1": "_bn_reduce0", "spatial.3": "_conv_di_0", "spatial.4": "_bn_di_0"}
    modulator |= {"spatial.6": "_conv_di_1", "spatial.7": "_bn_di_1", "spatial.9": "_conv_final"}
    local = {"0": "conv{}_1", "1": "bn{}_1", "3": "conv{}_2", "4": "bn{}_2"}
    weights: dict[str, Tensor] = {"fc.weight": torch.zeros(7, 20), "fc.bias": torch.zeros(7)}
    for name, tensor in trunk.state_dict().items():
        part, _, rest = name.partition(".")
        layer, _, kind = rest.rpartition(".")
        if part == "modulator":
            prefix = GATE_C if layer.startswith("channel") else GATE_S
            weights[f"{prefix}{modulator[layer]}.{kind}"] = tensor
        elif part == "local":
            quarters = [tensor] * 4 if tensor.dim() == 0 else tensor.chunk(4)
            theirs = local[layer.removeprefix("layers.")]
            weights |= {f"local.{theirs.format(q)}.{kind}": one for q, one in enumerate(quarters, 1)}
        else:
            weights[name] = tensor
    return {f"module.{name}": tensor for name, tensor in weights.items()}


class Literal:
    """The released network, layer by layer, from the weights of its file."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, padding, dilation, groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.weights[f"{name}.{kind}"].reshape([1, -1] + [1] * (x.dim() - 2))
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def unit(self, x: Tensor, name: str, stride: int) -> Tensor:
        half = x.shape[1] // 2
        left, right = (x, x) if stride == 2 else (x[:, :half], x[:, half:])
        if stride == 2:
            left = self.norm(self.conv(left, f"{name}.branch1.0", 2, 1), f"{name}.branch1.1")
            left = self.norm(self.conv(left, f"{name}.branch1.2"), f"{name}.branch1.3").relu()
        right = self.norm(self.conv(right, f"{name}.branch2.0"), f"{name}.branch2.1").relu()
        right = self.norm(self.conv(right, f"{name}.branch2.3", stride, 1), f"{name}.branch2.4")
        right = self.norm(self.conv(right, f"{name}.branch2.5"), f"{name}.branch2.6").relu()
        return torch.stack([side[:, c] for c in range(left.shape[1]) for side in (left, right)], dim=1)

    def stage(self, x: Tensor, name: str, units: int) -> Tensor:
        for i in range(units):
            x = self.unit(x, f"{name}.{i}", 2 if i == 0 else 1)
        return x

    def modulator(self, x: Tensor) -> Tensor:
        w = self.weights
        mean = x.mean(dim=(2, 3))
        inner = self.norm(mean @ w[f"{GATE_C}_fc_0.weight"].T + w[f"{GATE_C}_fc_0.bias"], f"{GATE_C}_bn_1").relu()
        channel = inner @ w[f"{GATE_C}_fc_final.weight"].T + w[f"{GATE_C}_fc_final.bias"]
        s = self.norm(self.conv(x, f"{GATE_S}_conv_reduce0"), f"{GATE_S}_bn_reduce0").relu()
        for i in range(2):
            s = self.norm(self.conv(s, f"{GATE_S}_conv_di_{i}", 1, 4, 4), f"{GATE_S}_bn_di_{i}").relu()
        spatial = self.conv(s, f"{GATE_S}_conv_final")
        return x / (1 + torch.exp(-channel[:, :, None, None] * spatial))

    def local(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] // 2, x.shape[3] // 2
        quarters = [x[:, :, :h, :w], x[:, :, h:, :w], x[:, :, :h, w:], x[:, :, h:, w:]]
        y = []
        for q, one in enumerate(quarters, 1):
            one = self.norm(self.conv(one, f"local.conv{q}_1", 2, 1), f"local.bn{q}_1").relu()
            y.append(self.norm(self.conv(one, f"local.conv{q}_2", 1, 1), f"local.bn{q}_2").relu())
        return torch.cat([torch.cat([y[0], y[1]], dim=2), torch.cat([y[2], y[3]], dim=2)], dim=3)

    def trunk(self, x: Tensor, units: tuple[int, ...]) -> Tensor:
        x = F.max_pool2d(self.norm(self.conv(x, "conv1.0", 2, 1), "conv1.1").relu(), 3, 2, 1)
        x = self.modulator(self.stage(x, "stage2", units[0])) + self.local(x)
        x = self.stage(self.stage(x, "stage3", units[1]), "stage4", units[2])
        return self.norm(self.conv(x, "conv5.0"), "conv5.1").relu().mean(dim=(2, 3))


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file such as the released one, of a small trunk, and its weights."""
    torch.manual_seed(0)
    trunk = shaken(EfficientFace(**SMALL))
    assert isinstance(trunk, EfficientFace)
    weights = released(trunk)
    torch.save({"epoch": 3, "state_dict": weights, "best_acc": torch.tensor(63.7)}, tmp_path / "face.pth.tar")
    return tmp_path / "face.pth.tar", weights


@pytest.mark.parametrize("sides", [(32, 32), (64, 48), (16, 16)])
def test_the_trunk_is_the_released_network_with_the_weights_of_its_file(
    file: tuple[Path, dict[str, Tensor]], sides: tuple[int, int]
) -> None:
    trunk = EfficientFace(**SMALL).double()
    trunk.load_weights(file[0])
    images = torch.rand(3, 3, *sides, dtype=torch.float64)
    expected = Literal(file[1]).trunk(images, SMALL["units"])
    torch.testing.assert_close(trunk.eval()(images), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 0.01


def test_the_parts_of_the_trunk_are_those_of_the_released_network(file: tuple[Path, dict[str, Tensor]]) -> None:
    """Each alone: a mistake in one could drown in the sum of a whole network."""
    trunk = EfficientFace(**SMALL).double()
    trunk.load_weights(file[0])
    trunk.eval()
    literal = Literal(file[1])
    stem, first = (torch.randn(2, channels, 8, 8, dtype=torch.float64) for channels in (2, 8))
    assert isinstance(trunk.local, LocalBranch) and isinstance(trunk.modulator, Modulator)
    torch.testing.assert_close(trunk.local(stem), literal.local(stem))
    torch.testing.assert_close(trunk.modulator(first), literal.modulator(first))
    for x, i, stride in ((stem, 0, 2), (first, 1, 1)):
        unit = trunk.stage2[i]
        assert isinstance(unit, Unit)
        torch.testing.assert_close(unit(x), literal.unit(x, f"stage2.{i}", stride))


def test_half_of_the_channels_pass_a_unit_untouched() -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(Unit(8, 8, 1)(x)[:, ::2], x[:, :4])


def test_a_quarter_sees_nothing_of_the_others() -> None:
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    local = LocalBranch(2, 4).double().eval()
    before = local(x)
    x[:, :, 8:, :8] += 1.0  # bottom left
    changed = (local(x) != before).any(dim=1)[0]
    assert changed[4:, :4].any() and not changed[:4].any() and not changed[:, 4:].any()


# --- files that are not what they should be


@pytest.mark.parametrize("name", ["RecorderMeter", "RecorderMeter1"])
def test_a_file_that_holds_its_training_log_too_is_read(
    tmp_path: Path, file: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Released files may hold an object of a class that their training script defines."""
    recorder = type(name, (), {"__module__": "__main__"})()
    recorder.losses, recorder.total_epoch = np.ones((2, 3), dtype=np.float32), 2
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["__main__"], name, type(recorder), raising=False)
        torch.save({"state_dict": file[1], "recorder": recorder}, tmp_path / "logged")
    trunk = EfficientFace(**SMALL).double()
    trunk.load_weights(tmp_path / "logged")
    assert torch.equal(trunk.conv1[0].weight, file[1]["module.conv1.0.weight"])  # type: ignore[arg-type]


def test_a_file_of_bare_weights_is_read(tmp_path: Path, file: tuple[Path, dict[str, Tensor]]) -> None:
    torch.save({name.removeprefix("module."): one for name, one in file[1].items()}, tmp_path / "bare")
    EfficientFace(**SMALL).load_weights(tmp_path / "bare")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def content(kind: str, weights: dict[str, Tensor]) -> Any:
    if kind == "code":
        return {"state_dict": weights, "evil": Evil()}
    if kind == "lacking":
        return {"state_dict": {name: one for name, one in weights.items() if "bn2_1.weight" not in name}}
    if kind == "more":
        return {"state_dict": weights | {"module.stage5.0.weight": torch.zeros(1)}}
    if kind == "other shape":
        return {"state_dict": weights | {"module.conv5.0.weight": torch.zeros(20, 16, 3, 3)}}
    return {"list": [1, 2], "text": "text", "none": None, "numbers": {"state_dict": {"a": 1}}, "empty": {}}[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("code", "not a file of weights that torch.load reads with weights_only=True"),
        ("lacking", "it lacks local.layers.1.weight"),
        ("more", "it has also stage5.0.weight"),
        ("other shape", r"conv5.0.weight has shape \(20, 16, 3, 3\), and not \(20, 16, 1, 1\); is backbone.channels"),
        *((kind, "holds no weights by name") for kind in ("list", "text", "none", "numbers", "empty")),
    ],
)
def test_a_file_of_something_else_is_refused_on_one_line(
    tmp_path: Path, file: tuple[Path, dict[str, Tensor]], kind: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.pth.tar"
    torch.save(content(kind, file[1]), path)
    trunk = EfficientFace(**SMALL).double()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        trunk.load_weights(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["absent", "folder", "text", "cut"])
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, file: tuple[Path, dict[str, Tensor]], damage: str
) -> None:
    path = tmp_path / "damaged"
    if damage == "folder":
        path.mkdir()
    elif damage != "absent":
        path.write_bytes(b"<html>quota exceeded</html>" if damage == "text" else file[0].read_bytes()[:2000])
    with pytest.raises(UserError, match=r"backbone.pretrained=.*damaged: ") as caught:
        IntermediateAttention([(3, 2, 32, 32)], 3, pretrained=path, **SMALL)
    assert "\n" not in str(caught.value)


def test_the_released_sizes_load_into_the_original_network(tmp_path: Path) -> None:
    weights = released(EfficientFace())
    torch.save({"state_dict": weights}, tmp_path / "face")
    assert weights["module.local.conv3_1.weight"].shape == (116, 1, 3, 3)
    network = IntermediateAttention([VIDEO], 7, pretrained=tmp_path / "face")
    assert torch.equal(network.state_dict()["branches.video.trunk.conv5.0.weight"], weights["module.conv5.0.weight"])
    assert network.description() == {}
    with pytest.raises(UserError, match=r"has shape .* is backbone.channels the original's"):
        IntermediateAttention([VIDEO], 7, pretrained=tmp_path / "face", channels=(29, 58, 116, 232, 512))


# --- the exchange


def literal_attention(layer: TimeAttention, asking: Tensor, asked: Tensor) -> Tensor:
    """(B, S): for each head and each asking step, the softmax over the asked steps; mean over heads, sum over steps."""
    width = len(layer.query.weight) // layer.heads
    samples = []
    for b in range(len(asking)):
        total = torch.zeros(asked.shape[2], dtype=asked.dtype)
        for head in range(layer.heads):
            rows = slice(head * width, (head + 1) * width)
            for t in range(asking.shape[2]):
                query = layer.query.weight[rows] @ asking[b, :, t]
                keys = [layer.key.weight[rows] @ asked[b, :, s] for s in range(asked.shape[2])]
                powers = torch.stack([torch.exp(query @ key / math.sqrt(width)) for key in keys])
                total = total + powers / powers.sum() / layer.heads
        samples.append(total)
    return torch.stack(samples)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_equals_loops(heads: int) -> None:
    torch.manual_seed(0)
    layer = TimeAttention(8, 6, heads).double()
    asking, asked = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    given, expected = layer(asking, asked), literal_attention(layer, asking, asked)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(given.sum(dim=1), torch.full((2,), 5.0, dtype=torch.float64))


def network(shapes: list[tuple[int, ...]], classes: int = 4, **options: Any) -> IntermediateAttention:
    torch.manual_seed(0)
    return IntermediateAttention(shapes, classes, **SMALL | options)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("head", ["per_modality", "joint"])
def test_scores_are_those_of_branches_that_weigh_each_others_moments(head: str, swapped: bool) -> None:
    shapes = [(5, 20), (3, 4, 32, 32)]
    model = network(shapes[::-1] if swapped else shapes, head=head, attention_heads=2)
    shaken(model)
    inputs = [torch.rand(2, *shape, dtype=torch.float64) for shape in shapes]
    audio, video = model._branch("audio"), model._branch("video")
    a, v = audio.stage1(inputs[0]), video.stage1(inputs[1])
    assert a.shape == (2, 128, 14) and v.shape == (2, 64, 4)
    of_video, of_audio = literal_attention(model.of_video, a, v), literal_attention(model.of_audio, v, a)
    a = audio.stage2(torch.stack([a[:, :, t] * of_audio[:, None, t] for t in range(14)], dim=2)).mean(dim=2)
    v = video.stage2(torch.stack([v[:, :, t] * of_video[:, None, t] for t in range(4)], dim=2)).mean(dim=2)
    if head == "joint":
        expected = (torch.cat([a, v], dim=1) @ model.head.weight.T + model.head.bias)[:, None]
    else:
        expected = torch.stack([x @ b.head.weight.T + b.head.bias for x, b in ((a, audio), (v, video))], dim=1)
    scores = model(inputs[::-1] if swapped else inputs)
    torch.testing.assert_close(scores, expected.flip(1) if swapped else expected, rtol=1e-9, atol=1e-9)


def test_frames_go_through_the_trunk_one_by_one_and_keep_their_order() -> None:
    video = network([(3, 5, 32, 32)])._branch("video").eval()
    clip = torch.rand(2, 3, 5, 32, 32)
    features = torch.stack([video.trunk(clip[:, :, t]) for t in range(5)], dim=2)  # type: ignore[operator]
    torch.testing.assert_close(video.stage1(clip), video.over_time(features))  # type: ignore[operator]


def test_shapes_and_mean_gains_are_those_of_the_released_network() -> None:
    model = network([AUDIO, (3, 15, 32, 32)])
    a = model._branch("audio").stage1(torch.randn(2, *AUDIO))
    v = model._branch("video").stage1(torch.rand(2, 3, 15, 32, 32))
    assert a.shape == (2, 128, 150) and v.shape == (2, 64, 15)
    weighed = model.exchange(torch.ones_like(a), torch.ones_like(v))
    assert weighed["video"].mean().item() == pytest.approx(10)
    assert weighed["audio"].mean().item() == pytest.approx(0.1)
    spread = model.exchange(a, v)["video"] / v  # one gain per frame, the same for all its channels
    torch.testing.assert_close(spread.nanmean(dim=1), model.of_video(a, v), rtol=1e-4, atol=1e-4)


# --- the whole


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("classes", "total"), [(7, 1_854_251), (8, 1_854_766)])
def test_parameters_are_the_released_networks_less_what_never_matters(classes: int, total: int) -> None:
    joint = IntermediateAttention([AUDIO, VIDEO], classes, head="joint")
    heads = 128 * classes + classes
    audio, video = joint._branch("audio"), joint._branch("video")
    assert parameters(audio) + heads == {7: 225_735, 8: 225_864}[classes]
    assert parameters(video) + heads == {7: 1_552_797, 8: 1_552_926}[classes]
    assert isinstance(video.trunk, EfficientFace) and parameters(video.trunk) == 1_268_118
    # The value half of each map from keys and values, and the projection of what it would yield: left out.
    values, projections = (64 * 128, 128 * 64), (128 * 128 + 128, 64 * 64 + 64)
    assert parameters(joint.of_video) + values[0] + projections[0] == 49_280
    assert parameters(joint.of_audio) + values[1] + projections[1] == 24_640
    assert parameters(joint.head) == {7: 1_799, 8: 2_056}[classes]
    # The released network has both modalities' heads, which its output does not depend on.
    assert parameters(joint) + sum(values) + sum(projections) + 2 * heads == total
    separate = IntermediateAttention([AUDIO, VIDEO], classes)
    assert parameters(separate) == parameters(joint) - parameters(joint.head) + 2 * heads


@pytest.mark.parametrize("head", ["per_modality", "joint"])
def test_every_parameter_gets_a_gradient(head: str) -> None:
    model = network([(5, 20), (3, 4, 32, 32)], head=head)
    model([torch.randn(3, 5, 20), torch.rand(3, 3, 4, 32, 32)]).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not without


@pytest.mark.parametrize(("shape", "kind"), [((5, 20), "audio"), ((3, 4, 32, 32), "video")])
def test_one_modality_is_its_branch_alone_whatever_the_head(shape: tuple[int, ...], kind: str) -> None:
    for head in ("per_modality", "joint"):
        model = network([shape], head=head).eval()
        branch = model._branch(kind)
        x = torch.rand(2, *shape)
        torch.testing.assert_close(model([x]), branch.head(branch.stage2(branch.stage1(x)).mean(dim=2))[:, None])
        assert not model.joint and not hasattr(model, "of_video")


def test_only_a_trunk_that_was_drawn_is_from_scratch() -> None:
    assert network([(5, 20)]).description() == {}
    assert network([(5, 20), (3, 4, 32, 32)]).description() == {"notice": FROM_SCRATCH}


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(10,)], {}, r"samples have shapes \(10,\); it takes sound"),
        ([AUDIO, AUDIO], {}, "one of each"),
        ([(3, 15, 224, 220)], {}, "multiples of 16"),
        ([(1, 15, 224, 224)], {}, "it takes sound"),
        ([(10, 12)], {}, "it takes more than 12"),
        ([AUDIO], {"head": "both"}, "backbone.head=both: must be one of per_modality, joint"),
        ([AUDIO], {"attention_heads": 3}, "must divide 64"),
        ([AUDIO], {"attention_heads": 0}, "above 0"),
        ([VIDEO], {"channels": (3, 8, 12, 16)}, "backbone.channels=.*must be 5 numbers"),
        ([VIDEO], {"channels": (3, 8, 12, 16, 20)}, "a multiple of the first"),
        ([VIDEO], {"channels": (2, 8, 13, 16, 20)}, "must be even"),
        ([VIDEO], {"units": (1, 0, 1)}, "backbone.units=0: must be a whole number above 0"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: list[tuple[int, ...]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network(shapes, **options)
