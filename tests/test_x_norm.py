"""X-Norm: sizes as counted in the original, each piece against its formula, the released weights, and less memory."""

import copy
import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from multimodal_loss.backbones import XNorm, XNormEnds, i3d
from multimodal_loss.backbones.i3d import I3D, MaxPool, Unit3D, git_blob, same_padding
from multimodal_loss.backbones.x_norm import BranchEnd, NormExchange, notices, start
from multimodal_loss.configuration import RunConfig, compose_config, run_hash
from multimodal_loss.datasets.cache import sha256
from multimodal_loss.errors import UserError
from multimodal_loss.training.run import pretrained_weights

SHAPES = ((3, 16, 224, 224), (2, 16, 224, 224))
SMALL = ((3, 16, 32, 32), (2, 16, 32, 32))
NARROW = 1 / 16

# Counted in the original: channels, time, side; thousands of multiply-accumulates of RGB; parameters of RGB.
STAGES: dict[str, tuple[tuple[int, int, int], float | None, int]] = {
    "Conv3d_1a_7x7": ((64, 8, 112), 6.609, 65_984),
    "MaxPool3d_2a_3x3": ((64, 8, 56), None, 0),
    "Conv3d_2b_1x1": ((64, 8, 56), 0.103, 4_224),
    "Conv3d_2c_3x3": ((192, 8, 56), 8.324, 332_160),
    "MaxPool3d_3a_3x3": ((192, 8, 28), None, 0),
    "Mixed_3b": ((256, 8, 28), 2.418, 386_272),
    "Mixed_3c": ((480, 8, 28), 5.247, 837_888),
    "MaxPool3d_4a_3x3": ((480, 4, 14), None, 0),
    "Mixed_4b": ((512, 4, 14), 0.577, 737_760),
    "Mixed_4c": ((512, 4, 14), 0.708, 904_464),
    "Mixed_4d": ((512, 4, 14), 0.864, 1_103_664),
    "Mixed_4e": ((528, 4, 14), 1.063, 1_356_672),
    "Mixed_4f": ((832, 4, 14), 1.409, 1_799_168),
    "MaxPool3d_5a_2x2": ((832, 2, 7), None, 0),
    "Mixed_5b": ((832, 2, 7), 0.193, 1_974_272),
    "Mixed_5c": ((1024, 2, 7), 0.273, 2_784_736),
}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def giga_macs(module: nn.Module, *inputs: Any) -> tuple[float, Any]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = module(*inputs)
    return counter.get_total_flops() / 2e9, out


def small(**options: Any) -> XNorm:
    torch.manual_seed(0)
    given: dict[str, Any] = {"feature_shapes": SMALL, "num_classes": 5, "hidden": 6, "width": NARROW} | options
    network = XNorm(**given).double()
    for module in network.modules():  # statistics as of a trained network: none at its initial value
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


def clips(shapes: Sequence[Sequence[int]] = SMALL, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, *shape, generator=generator, dtype=torch.float64) * 2 - 1 for shape in shapes]


# --- sizes


def test_the_stages_have_the_originals_shapes_work_and_parameters() -> None:
    with torch.device("meta"):
        network, maps = I3D(3, 400).eval(), torch.empty(1, *SHAPES[0])
        assert size(network) == 12_697_264 and size(I3D(2, 400)) == 12_675_312
        assert [stage for part in i3d.PARTS for stage in part] == list(STAGES)
        for name, ((channels, time, side), work, parameters) in STAGES.items():
            macs, maps = giga_macs(network.get_submodule(name), maps)
            assert maps.shape == (1, channels, time, side, side), name
            assert macs == pytest.approx(work or 0, abs=6e-4), name
            assert size(network.get_submodule(name)) == parameters, name


def test_the_whole_network_has_the_originals_parameters_and_work() -> None:
    with torch.device("meta"):
        both, inputs = XNorm(SHAPES, 8).eval(), [torch.empty(1, *shape) for shape in SHAPES]
        assert size(both) == 30_395_280
        assert [size(stream) for stream in both.streams] == [12_418_464, 12_396_512]
        assert {name: size(one) // 2 for name, one in both.exchanges.items()} == {
            "Mixed_3b": 131_584,
            "Mixed_4d": 525_312,
            "Mixed_5c": 2_099_200,
        }
        assert size(both.classifiers) == 2 * 34_056
        macs, scores = giga_macs(both, inputs)
        assert macs == pytest.approx(56.2, abs=0.05) and scores.shape == (1, 2, 8)
        late = XNorm(SHAPES, 8, exchange="none").eval()
        assert giga_macs(late, inputs)[0] == pytest.approx(27.79 + 25.58, abs=0.01)
        for m, work in enumerate((27.79, 25.58)):
            macs, scores = giga_macs(XNorm(SHAPES[m : m + 1], 8).eval(), inputs[m : m + 1])
            assert macs == pytest.approx(work, abs=0.005) and scores.shape == (1, 1, 8)


def test_its_config_is_the_original() -> None:
    from hydra.utils import instantiate

    node = compose_config(["backbone=x_norm"]).backbone
    with torch.device("meta"):
        network = instantiate(node, _convert_="all", feature_shapes=SHAPES, num_classes=8)
    assert size(network) == 30_395_280 and all(one.sequential for one in network.exchanges.values())


# --- pieces, against their formulas


def places(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Number of windows and where the first begins, by TensorFlow's rule for an axis: as many as strides fit, the
    padding half in front, rounded down.
    """
    windows = len(range(0, size, stride))
    total = max((windows - 1) * stride + kernel - size, 0)
    return windows, -(total // 2)


def windows(x: NDArray[np.float64], kernel: Sequence[int], stride: Sequence[int]) -> dict[tuple[int, ...], Any]:
    """Of maps (C, T, H, W): the window (C, kt, kh, kw) at each output place, zeros outside the map."""
    found = {}
    axes = [places(n, k, s) for n, k, s in zip(x.shape[1:], kernel, stride, strict=True)]
    for place in itertools.product(*(range(number) for number, _ in axes)):
        window = np.zeros((x.shape[0], *kernel))
        for offset in itertools.product(*(range(k) for k in kernel)):
            at = [first + p * s + o for (_, first), p, s, o in zip(axes, place, stride, offset, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                window[(slice(None), *offset)] = x[(slice(None), *at)]
        found[place] = window
    return found


@pytest.mark.parametrize("sizes", [(4, 6, 7), (3, 5, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1), (3, 2)])
def test_a_unit_is_its_formula(sizes: tuple[int, int, int], kernel: int, stride: int) -> None:
    torch.manual_seed(kernel)
    unit, x = Unit3D(2, 3, kernel, stride).double().eval(), torch.randn(1, 2, *sizes, dtype=torch.float64)
    assert unit.bn.running_mean is not None and unit.bn.running_var is not None
    unit.bn.running_mean.uniform_(-1, 1)
    unit.bn.running_var.uniform_(0.5, 2)
    nn.init.uniform_(unit.bn.weight)
    nn.init.uniform_(unit.bn.bias)
    weight = unit.conv3d.weight.detach().numpy()
    mean, variance, scale, shift = (
        t.detach().numpy() for t in (unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias)
    )
    ours = unit(x)[0].detach().numpy()
    found = windows(x[0].numpy(), (kernel,) * 3, (stride,) * 3)
    assert ours.shape[1:] == tuple(n + 1 for n in max(found))
    for place, window in found.items():
        value = (weight * window).sum(axis=(1, 2, 3, 4))
        expected = np.maximum((value - mean) / np.sqrt(variance + 1e-3) * scale + shift, 0)
        np.testing.assert_allclose(ours[(slice(None), *place)], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 6, 7), (3, 5, 2)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_pools_count_the_zeros_around_a_map(sizes: Any, kernel: Any, stride: Any) -> None:
    """Maps below zero, as an exchange makes them: padding by minus infinity would give other maxima."""
    x = -torch.rand(1, 2, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 0.1
    ours = MaxPool(kernel, stride)(x)[0].numpy()
    for place, window in windows(x[0].numpy(), kernel, stride).items():
        np.testing.assert_array_equal(ours[(slice(None), *place)], window.max(axis=(1, 2, 3)))


def test_an_odd_padding_goes_behind() -> None:
    assert same_padding((224, 16, 7), (7, 7, 3), (2, 2, 2)) == [(2, 3), (2, 3), (1, 1)]
    assert same_padding((112, 14, 28), (3, 2, 1), (2, 2, 1)) == [(0, 1), (0, 0), (0, 0)]


def exchanged(first: NDArray[Any], second: NDArray[Any], layer: NormExchange) -> tuple[NDArray[Any], NDArray[Any]]:
    """The formula, sample by sample in NumPy."""

    def parameters(convolution: nn.Conv3d, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        assert convolution.bias is not None
        weight = convolution.weight.detach().numpy()[:, :, 0, 0, 0]
        every = np.einsum("oc,cthw->othw", weight, x) + convolution.bias.detach().numpy()[:, None, None, None]
        return every[: len(x)], every[len(x) :]

    def changed(x: NDArray[Any], shift: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        return x + (x - x.mean()) / (x.std(ddof=1) + 1e-8) * scale + shift

    both = []
    for one, other in zip(first, second, strict=True):
        new = changed(one, *parameters(layer.to_first, other))
        both.append((new, changed(other, *parameters(layer.to_second, new if layer.sequential else one))))
    return np.stack([one for one, _ in both]), np.stack([other for _, other in both])


@pytest.mark.parametrize("sequential", [True, False])
def test_an_exchange_is_its_formula(sequential: bool) -> None:
    torch.manual_seed(3)
    layer = NormExchange(4, sequential).double()
    first, second = (torch.randn(3, 4, 2, 3, 5, dtype=torch.float64) * 3 + 1 for _ in range(2))
    second[1] = 2.0  # a map without any spread is divided by next to nothing, and stays finite
    for ours, theirs in zip(layer(first, second), exchanged(first.numpy(), second.numpy(), layer), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("exchange", ["sequential", "simultaneous", "none"])
def test_the_streams_meet_after_three_stages(exchange: str) -> None:
    """Stage by stage, with the formula of the exchange; the end of each branch written out."""
    network, inputs = small(exchange=exchange).eval(), clips()
    with torch.no_grad():
        maps = list(inputs)
        for name in STAGES:
            maps = [stream.get_submodule(name)(x) for stream, x in zip(network.streams, maps, strict=True)]
            if exchange != "none" and name in ("Mixed_3b", "Mixed_4d", "Mixed_5c"):
                layer = network.exchanges[name]
                assert isinstance(layer, NormExchange) and layer.sequential == (exchange == "sequential")
                maps = [torch.from_numpy(x) for x in exchanged(maps[0].numpy(), maps[1].numpy(), layer)]
        for m, (stream, head) in enumerate(zip(network.streams, network.classifiers, strict=True)):
            assert isinstance(stream, I3D) and isinstance(head, nn.Sequential)
            x = stream.logits.conv3d(maps[m].mean((2, 3, 4), keepdim=True)).flatten(1)  # type: ignore[operator]
            linear = [layer for layer in head if isinstance(layer, nn.Linear)]
            x = linear[2](linear[1](linear[0](x).tanh()).tanh())
            torch.testing.assert_close(network(inputs)[:, m], x, rtol=0, atol=1e-7)  # the 1e-8 beside sd


def test_dropout_stands_before_each_tanh_and_on_the_scores() -> None:
    end = BranchEnd(7, 5, 6, 0.1)
    kinds = [type(layer).__name__ for layer in end.modules() if not isinstance(layer, (nn.Sequential, BranchEnd))]
    assert kinds == ["Dropout", "Linear", *["Linear", "Dropout", "Tanh"] * 2, "Linear", "Dropout"]
    assert size(BranchEnd(1024, 8, 128, 0.1)) == 131_200 + 34_056


def test_late_fusion_is_two_networks_alone() -> None:
    late, inputs = small(exchange="none").eval(), clips()
    for m in range(2):
        alone = small(feature_shapes=SMALL[m : m + 1]).eval()
        parts = {k.replace(f".{m}.", ".0.", 1): v for k, v in late.state_dict().items() if k.split(".")[1] == str(m)}
        alone.load_state_dict(parts)
        torch.testing.assert_close(alone(inputs[m : m + 1])[:, 0], late(inputs)[:, m], rtol=0, atol=1e-12)


def test_other_sizes_of_clips_work_and_every_parameter_learns() -> None:
    shapes = ((3, 8, 40, 36), (2, 8, 40, 36))
    network = small(feature_shapes=shapes, dropout=0.0).train()
    network(clips(shapes)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_features_pooled_before_go_through_the_same_ends() -> None:
    whole, ends = small(exchange="none").eval(), XNormEnds([(64,), (64,)], 5, hidden=6).double().eval()
    for stream, head, end in zip(whole.streams, whole.classifiers, ends.ends, strict=True):
        assert isinstance(stream, I3D) and isinstance(end, BranchEnd)
        conv = stream.logits.conv3d
        assert isinstance(conv, nn.Conv3d)
        weights = {"1.weight": conv.weight.flatten(1), "1.bias": conv.bias}
        weights |= {f"2.{name}": value for name, value in head.state_dict().items()}
        end.layers.load_state_dict(weights)
    inputs = clips()
    torch.testing.assert_close(ends(whole.pooled_features(inputs)), whole(inputs), rtol=0, atol=1e-12)


# --- memory


def test_recomputed_activations_change_neither_gradients_nor_statistics() -> None:
    """Dropout draws the same, and batch normalisation counts a batch once."""
    plain, inputs = small(dropout=0.3).train(), clips()
    again = copy.deepcopy(plain)
    again.recompute = True
    for network in (plain, again):
        torch.manual_seed(4)
        network(inputs).square().sum().backward()
    for (name, ours), theirs in zip(again.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12, msg=name)
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert all(layer.momentum == 0.01 for layer in again.modules() if isinstance(layer, nn.BatchNorm3d))


def test_recomputing_stores_less() -> None:
    def stored(network: XNorm) -> int:
        sizes: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        held = []  # graphs, so that no address is used twice
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            held.append(network(clips()))
        return sum(sizes.values())

    assert stored(small(recompute=True).train()) < stored(small().train()) / 3


def test_bf16_stays_near_and_gives_full_precision_scores() -> None:
    network, inputs = small().float().eval(), [x.float() for x in clips()]
    with torch.no_grad():
        plain = network(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(inputs)
    assert rough.dtype == torch.float32 and not torch.equal(rough, plain)
    torch.testing.assert_close(rough, plain, rtol=0.05, atol=0.02)


# --- released weights


def write_weights(path: Path, channels: int = 3, width: float = NARROW, **changes: Any) -> dict[str, Tensor]:
    """A file as of 2018: PyTorch's old format, 400 classes, no counts of batches."""
    torch.manual_seed(9)
    state = I3D(channels, 400, width).state_dict()
    state = {k: torch.randn_like(v) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state | changes, path, _use_new_zipfile_serialization=False)
    return state


def test_names_and_number_of_tensors_are_those_of_the_released_files() -> None:
    with torch.device("meta"):
        state = I3D(3, 400).state_dict()
    assert len(state) == 344 and sum(not name.endswith("num_batches_tracked") for name in state) == 287
    assert {
        "Conv3d_1a_7x7.conv3d.weight",
        "Mixed_3b.b1a.conv3d.weight",
        "Mixed_4f.b3b.bn.running_mean",
        "Mixed_5c.b2b.bn.bias",
        "logits.conv3d.bias",
    } <= set(state)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


def test_released_weights_are_taken_but_for_the_last_layer(tmp_path: Path) -> None:
    given = {kind: write_weights(tmp_path / f"{kind}.pt", c) for kind, c in (("rgb", 3), ("flow", 2))}
    files = {kind: tmp_path / f"{kind}.pt" for kind in given}
    network = XNorm(SMALL, 5, width=NARROW, pretrained=files)
    for kind, stream in zip(given, network.streams, strict=True):
        own = stream.state_dict()
        for name, value in given[kind].items():
            assert name.startswith("logits.") or torch.equal(own[name], value), name
        assert own["logits.conv3d.weight"].shape[0] == 128
    (alone,) = XNorm(SMALL[1:], 5, width=NARROW, pretrained=files).streams
    assert torch.equal(alone.state_dict()["Mixed_3b.b0.conv3d.weight"], given["flow"]["Mixed_3b.b0.conv3d.weight"])


def test_what_it_begins_from_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released files themselves are too large for a test: a small file's id takes the place of RGB's."""
    path = tmp_path / "mine.pt"
    assert start(I3D(3, 8, NARROW), path) is None and start(I3D(3, 8, NARROW), None) is None
    write_weights(path)
    origin = start(I3D(3, 8, NARROW), path)
    assert origin == ("mine.pt", git_blob(path))
    (both,), (one,) = notices({"rgb": None, "flow": None}), notices({"flow": None})
    assert both == one and both.startswith("I3D from scratch")
    assert notices({"rgb": origin, "flow": None}) == [
        "flow " + both,
        f"rgb I3D from mine.pt, which is not the released rgb_imagenet.pt (git blob {origin[1][:8]}, not 73a4fd1d)",
    ]
    monkeypatch.setitem(i3d.RELEASED, "rgb", i3d.Released("rgb_imagenet.pt", origin[1]))
    assert notices({"rgb": origin}) == []
    described = XNorm(SMALL[:1], 5, width=NARROW, pretrained={"rgb": path}).description()
    assert described == {"initial_weights": {"rgb": f"mine.pt, git blob {origin[1]}"}}


def test_a_network_of_full_width_says_that_it_was_drawn() -> None:
    with torch.device("meta"):
        described = XNorm(SHAPES, 8, pretrained={"rgb": "/nowhere/rgb_imagenet.pt"}).description()
    assert described["initial_weights"] == {"rgb": "drawn", "flow": "drawn"}
    assert described["notice"].startswith("I3D from scratch")


def test_a_narrow_network_has_nothing_to_begin_from_and_no_notice() -> None:
    assert "notice" not in XNorm(SMALL, 5, width=NARROW).description()


def test_the_id_of_a_file_is_gits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some\x00bytes\r\n" * 1000)
    told = subprocess.run(["git", "hash-object", "file"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert git_blob(tmp_path / "file") == told.stdout.strip()


def test_a_run_is_known_by_the_files_names_and_knows_when_they_come(tmp_path: Path) -> None:
    def settings(folder: str) -> RunConfig:
        return RunConfig.parse(compose_config(["backbone=x_norm", f"data_dir={tmp_path}/{folder}"]))

    one, other = settings("a"), settings("b")
    assert run_hash(one, one.plan(None)) == run_hash(other, other.plan(None))
    assert pretrained_weights(one) == {"pretrained": {"rgb": None, "flow": None}}
    path = tmp_path / "a" / "kinetics" / "rgb_imagenet.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert pretrained_weights(one) == {"pretrained": {"rgb": sha256(path), "flow": None}} != pretrained_weights(other)


def spoil(path: Path, how: str) -> None:
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "a page":
        path.write_text("<!DOCTYPE html><html>Not found</html>")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a whole module":
        torch.save(I3D(3, 400, NARROW), path)
    elif how == "no tensors":
        torch.save({"epoch": 3}, path)
    elif how == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "not a file of weights"),
        ("a page", "not a file of weights"),
        ("empty", "not a file of weights"),
        ("a whole module", "not a file of weights"),
        ("no tensors", "no plain dictionary of tensors"),
        ("a folder", "cannot be read"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(how: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rgb.pt"
    write_weights(path)
    spoil(path, how)
    with pytest.raises(UserError, match=message) as caught:
        I3D(3, 8, NARROW).load_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_network_change_nothing(tmp_path: Path) -> None:
    network = I3D(3, 8, NARROW)
    before = copy.deepcopy(network.state_dict())
    for name, options, message in (
        ("flow.pt", {"channels": 2}, r"Conv3d_1a_7x7\.conv3d\.weight has shape"),
        ("wide.pt", {"width": 2 * NARROW}, r"has shape .* full width"),
        ("more.pt", {"fc.weight": torch.zeros(1)}, r"has also fc\.weight \(1 in all\)"),
    ):
        write_weights(tmp_path / name, **options)
        with pytest.raises(UserError, match=message):
            network.load_weights(tmp_path / name)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"lacks Conv3d_1a_7x7\.conv3d\.weight \(\d+ in all\)"):
        network.load_weights(tmp_path / "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# --- what users may get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exchange": "both"}, r"backbone\.exchange=both: must be one of"),
        ({"width": 0}, r"backbone\.width=0"),
        ({"hidden": 2.5}, r"backbone\.hidden=2\.5"),
        ({"momentum": 0}, r"backbone\.momentum=0"),
        ({"dropout": 1.0}, r"backbone\.dropout=1\.0"),
        ({"recompute": "yes"}, r"backbone\.recompute=yes"),
        ({"feature_shapes": [(40,), (12,)]}, r"it takes clips .*choose another backbone or dataset"),
        ({"feature_shapes": [(4, 16, 32, 32)]}, r"\(4, 16, 32, 32\); it takes clips"),
        ({"feature_shapes": [(3, 16, 32, 32), (2, 8, 32, 32)]}, r"equal time.*set backbone\.exchange=none"),
        ({"pretrained": {"depth": "x.pt"}}, r"backbone\.pretrained.*depth: must be one of rgb, flow"),
    ],
)
def test_values_out_of_range_are_user_errors(options: dict[str, Any], message: str) -> None:
    given = {"feature_shapes": SMALL, "num_classes": 5, "width": NARROW} | options
    with pytest.raises(UserError, match=message):
        XNorm(**given)
