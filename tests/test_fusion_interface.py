"""What every fusion promises, whatever it computes."""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import multimodal_loss
from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion

CONFIGS = sorted((Path(__file__).parents[1] / "conf" / "fusion").glob("*.yaml"))
NOT_OPTIONS = {"_target_", "name", "input", "proxy_lr_multiplier"}
CLASSES, BATCH = 5, 6


def build(config: Path) -> Fusion:
    """The fusion of a config file, with as many modalities as suits it."""
    values = yaml.safe_load(config.read_text())
    kind = getattr(fusions, values["_target_"].rsplit(".", 1)[1])
    options = {key: value for key, value in values.items() if key not in NOT_OPTIONS}
    torch.manual_seed(0)
    fusion: Fusion = kind(CLASSES, 1 if kind is fusions.Unimodal else 3, **options)
    return fusion


def draw(fusion: Fusion, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(BATCH, fusion.num_modalities, CLASSES, generator=generator, dtype=torch.float64)
    target = torch.randint(CLASSES, (BATCH,), generator=generator)
    return (2 * raw).softmax(dim=-1).to(dtype).requires_grad_(), target


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def fusion(config: Path) -> Fusion:
    return build(config)


def test_config_lists_every_option_with_its_default_and_says_what_it_is(config: Path) -> None:
    text = config.read_text()
    values: dict[str, Any] = yaml.safe_load(text)
    assert text.startswith("# ")
    assert values["name"] == config.stem and values["input"] in ("probabilities", "logits")
    assert values["proxy_lr_multiplier"] == 1.0
    kind = getattr(fusions, values["_target_"].rsplit(".", 1)[1])
    parameters = inspect.signature(kind).parameters
    options = {name: value.default for name, value in parameters.items() if not name.startswith("num_")}
    assert {key: value for key, value in values.items() if key not in NOT_OPTIONS} == options


def test_every_fusion_has_a_config_and_is_exported() -> None:
    targets = {yaml.safe_load(path.read_text())["_target_"].rsplit(".", 1)[1] for path in CONFIGS}
    assert targets == set(fusions.__all__) - {"Fusion"}
    assert set(fusions.__all__) == set(multimodal_loss.__all__)


def test_shapes_and_gradients(fusion: Fusion) -> None:
    scores, target = draw(fusion)
    loss = fusion(scores, target)
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    assert scores.grad is not None and scores.grad.isfinite().all() and scores.grad.any()
    for parameter in fusion.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
    assert fusion.logits(scores).shape == (BATCH, CLASSES)
    probabilities = fusion.probabilities(scores)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(BATCH))
    assert torch.equal(probabilities.argmax(dim=1), fusion.logits(scores).argmax(dim=1))


def test_loss_is_the_same_without_autograd_and_with_frozen_parameters(fusion: Fusion) -> None:
    scores, target = draw(fusion)
    loss = fusion(scores, target)
    with torch.no_grad():
        torch.testing.assert_close(fusion(scores, target), loss.detach())
    (expected,) = torch.autograd.grad(loss, scores)
    fusion.requires_grad_(False)
    (got,) = torch.autograd.grad(fusion(scores, target), scores)
    torch.testing.assert_close(got, expected)


def test_loss_can_be_scaled_and_walked_back_twice(fusion: Fusion) -> None:
    scores, target = draw(fusion, torch.float64)
    fusion.double()
    loss = 3 * fusion(scores, target)
    inputs = [scores, *fusion.parameters()]
    tripled = torch.autograd.grad(loss, inputs, retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    once = torch.autograd.grad(fusion(scores, target), inputs)
    for a, b, c in zip(tripled, again, once, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, 3 * c)


def test_gradcheck_of_loss_and_logits(fusion: Fusion) -> None:
    if isinstance(fusion, fusions.Mulmix):
        fusion.beta = 0.0  # its q carries no gradient by definition, which finite differences do not know
    scores, target = draw(fusion, torch.float64)
    fusion.double()
    names, parameters = zip(*fusion.named_parameters(), strict=True) if list(fusion.parameters()) else ((), ())

    def call(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        own = dict(zip(names, inputs[1:], strict=True))
        with torch.nn.utils.stateless._reparametrize_module(fusion, own):
            return fusion(inputs[0], target), fusion.logits(inputs[0])

    assert torch.autograd.gradcheck(call, (scores, *parameters))


def test_state_dict_round_trip(config: Path) -> None:
    first, second = build(config), build(config)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.uniform_()
    second.load_state_dict(first.state_dict())
    scores, target = draw(first)
    assert torch.equal(first(scores, target), second(scores, target))
    assert torch.equal(first.logits(scores), second.logits(scores))
    assert {name for name, _ in first.named_parameters()} <= set(first.state_dict())


def test_bfloat16_autocast_matches_float32(fusion: Fusion) -> None:
    scores, target = draw(fusion, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fusion(scores, target)
        logits = fusion.logits(scores)
    loss.backward()
    assert scores.grad is not None and scores.grad.dtype == torch.bfloat16 and scores.grad.isfinite().all()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, fusion(scores.float(), target))
    torch.testing.assert_close(logits, fusion.logits(scores.float()))


def test_one_sample_and_one_class() -> None:
    for config in CONFIGS:
        kind = type(build(config))
        fusion = kind(1, 1)
        assert fusion(torch.rand(1, 1, 1), torch.zeros(1, dtype=torch.int64)).isfinite()


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (torch.rand(4, 2, 5), torch.zeros(4, dtype=torch.int64), "expects scores of shape"),
        (torch.rand(4, 3 * 5), torch.zeros(4, dtype=torch.int64), "expects scores of shape"),
        (torch.ones(4, 3, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "floating-point"),
        (torch.rand(4, 3, 5), torch.zeros(3, dtype=torch.int64), "4 class indices"),
        (torch.rand(4, 3, 5), torch.zeros(4), "type int64"),
    ],
)
def test_wrong_inputs_raise_one_line(scores: Tensor, target: Tensor, message: str) -> None:
    for config in CONFIGS:
        fusion = build(config)
        if isinstance(fusion, fusions.Unimodal):
            continue
        with pytest.raises(ValueError, match=message) as error:
            fusion(scores, target)
        assert "\n" not in str(error.value)
        if message.startswith("expects"):
            with pytest.raises(ValueError, match=message):
                fusion.logits(scores)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Unimodal", {"num_modalities": 2}, "exactly one modality"),
        ("SumCrossEntropy", {"num_modalities": 0}, "num_modalities must be a whole number of at least 1, got 0"),
        ("SumCrossEntropy", {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ("WeightedSumCrossEntropy", {"weights": [1.0]}, "one number per modality"),
        ("MultiModalLoss", {"attention": "sotf"}, "attention must be one of soft, "),
        ("MultiModalLoss", {"variant": "code"}, "variant must be one of"),
        ("MultiModalLoss", {"class_score": "k"}, "class_score must be one of"),
        ("MultiModalLoss", {"gamma": 0.0}, "gamma must be a number above 0, got 0"),
        ("MultiModalLoss", {"proxies_per_class": 0}, "proxies_per_class must be a whole number of at least 1"),
        ("SoftTriple", {"gamma": -1.0}, "gamma must be a number above 0, got -1"),
        ("SoftTriple", {"tau": 0.2, "proxies_per_class": 1}, "at least 2 proxies"),
        ("Mulmix", {"candidates": "heads", "num_modalities": 5}, "at most 4 modalities"),
        ("Mulmix", {"candidates": "mean", "num_modalities": 11}, "at most 10 modalities"),
        ("Mulmix", {"num_modalities": 21}, "at most 20 modalities"),
        ("Mulmix", {"beta": -0.1}, "beta must be a number of at least 0"),
        ("Mulmix", {"combine_in": "logit"}, "combine_in must be one of"),
    ],
)
def test_wrong_options_raise_one_line(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        getattr(fusions, kind)(**({"num_classes": 3, "num_modalities": 2} | options))
    assert "\n" not in str(error.value)


NUMBERS = {
    "num_classes": (2.5, "2", None, True),
    "num_modalities": (2.5, "2", None, True),
    "proxies_per_class": (2.5, "abc", None, True, [3]),
    "gamma": ("abc", None, math.inf, math.nan, True, [0.1]),
    "alpha": ("abc", 0, -1, None, math.inf),
    "scale": ("abc", 0, -1, None, math.inf),
    "margin": ("abc", None, math.nan, [0.1]),
    "tau": ("abc", -0.1, None, math.inf),
    "beta": ("abc", None, math.nan, True),
    "weights": ("abc", 0.5, [0.5, "abc"], [0.5, None], [0.5, math.inf]),
}
# The other options are chosen from named values.
CHOICES = {"variant", "attention", "class_score", "candidates", "combine_in", "candidate_reduction", "loss", "ensemble"}


@pytest.mark.parametrize("kind", sorted(set(fusions.__all__) - {"Fusion"}))
def test_a_numeric_option_refuses_what_is_no_such_number(kind: str) -> None:
    for name in inspect.signature(getattr(fusions, kind)).parameters.keys() - CHOICES:
        for value in NUMBERS[name]:
            with pytest.raises(ValueError, match=rf"^{name}(\[1\])? must (be|hold) .*number.*, got ") as error:
                getattr(fusions, kind)(**({"num_classes": 3, "num_modalities": 2} | {name: value}))
            assert "\n" not in str(error.value)


def test_numbers_of_other_kinds_are_numbers() -> None:
    fusions.MultiModalLoss(np.int64(3), 2, proxies_per_class=np.int32(2), gamma=np.float32(0.5))
    fusions.ProxyAnchor(3, 2, alpha=32, margin=-0.1)
    fusions.WeightedSumCrossEntropy(3, 2, weights=np.array([0, 1.5]))  # type: ignore[arg-type]
    fusions.MultiModalLoss(3, 2, gamma=torch.tensor(0.5))  # type: ignore[arg-type]
    of_tensor = fusions.WeightedSumCrossEntropy(3, 2, weights=torch.tensor([0.25, 0.75]))  # type: ignore[arg-type]
    assert of_tensor.weights == [0.25, 0.75]


def test_no_value_is_read_back_to_the_host(fusion: Fusion) -> None:
    """Tensors on the meta device have no values: reading one, or making a tensor on a fixed device, would raise."""
    scores, target = draw(fusion)
    fusion = fusion.to("meta")
    x = scores.detach().to("meta").requires_grad_()
    fusion(x, target.to("meta")).backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert fusion.probabilities(x).shape == (BATCH, CLASSES)
