"""What every fusion promises, whatever it computes."""

import inspect
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
import yaml
from torch import Tensor

import multimodal_loss
from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion, base

CONFIGS = sorted((Path(__file__).parents[1] / "conf" / "fusion").glob("*.yaml"))
CLASSES, BATCH = 5, 6


def build(config: Path) -> Fusion:
    """The fusion of a config file, with as many modalities as suits it."""
    options = yaml.safe_load(config.read_text())["fusion"]
    kind = getattr(fusions, options.pop("_target_").rsplit(".", 1)[1])
    torch.manual_seed(0)
    fusion: Fusion = kind(CLASSES, 1 if kind is fusions.Unimodal else 3, **options)
    return fusion


def mulmix_over_subsets() -> Fusion:
    """The one fusion whose computation depends on the number of modalities."""
    return fusions.Mulmix(CLASSES, 7)


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


@pytest.fixture(params=[*CONFIGS, None], ids=lambda path: path.stem if path else "mulmix_over_subsets")
def any_fusion(request: pytest.FixtureRequest) -> Fusion:
    return mulmix_over_subsets() if request.param is None else build(request.param)


def with_exact_gradient(fusion: Fusion) -> Fusion:
    """The fusion, without what carries no gradient by definition, which finite differences do not know."""
    if isinstance(fusion, fusions.Mulmix):
        fusion.beta = 0.0  # of q
    elif isinstance(fusion, fusions.OGMGE):
        fusion.alpha = 0.0  # of k
    elif isinstance(fusion, fusions.QMF):
        fusion.variant = "rgbd"  # of the weights, and of a history that there is none of yet
    return fusion.double()


def gradients(fusion: Fusion, scores: Tensor, target: Tensor) -> list[Tensor]:
    return [*torch.autograd.grad(fusion(scores, target), [scores, *fusion.parameters()])]


def test_config_lists_every_option_with_its_default_and_says_what_it_is(config: Path) -> None:
    text = config.read_text()
    values: dict[str, Any] = yaml.safe_load(text)
    assert text.startswith("# ")
    assert values["facts"]["fusion"]["name"] == config.stem and values["fusion_input"] in ("probabilities", "logits")
    kind = getattr(fusions, values["fusion"].pop("_target_").rsplit(".", 1)[1])
    parameters = inspect.signature(kind).parameters
    # No dataset here has samples to ignore; the reduction is training's; the others may be added on the command line.
    left_out = {"num_classes", "num_modalities", "ignore_index", "reduction", "weight", "label_smoothing"}
    assert values["fusion"] == {name: value.default for name, value in parameters.items() if name not in left_out}


def test_every_fusion_has_a_config_and_is_exported() -> None:
    targets = {yaml.safe_load(path.read_text())["fusion"]["_target_"].rsplit(".", 1)[1] for path in CONFIGS}
    assert targets == set(fusions.__all__) - {"Fusion", "ReadOut"}
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
    scores, target = draw(with_exact_gradient(fusion), torch.float64)
    names, parameters = zip(*fusion.named_parameters(), strict=True) if list(fusion.parameters()) else ((), ())

    def call(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        own = dict(zip(names, inputs[1:], strict=True))
        with torch.nn.utils.stateless._reparametrize_module(fusion, own):
            return fusion(inputs[0], target), fusion.logits(inputs[0])

    assert torch.autograd.gradcheck(call, (scores, *parameters), fast_mode=True)


def test_state_dict_round_trip(config: Path) -> None:
    first, second = build(config), build(config)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_()
            else:
                tensor.fill_(7)
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


def with_value(value: float) -> Tensor:
    scores = torch.rand(4, 3, 5)
    scores[2, 1, 3] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (torch.rand(4, 2, 5), torch.zeros(4, dtype=torch.int64), "expects scores of shape"),
        (torch.rand(4, 3 * 5), torch.zeros(4, dtype=torch.int64), "expects scores of shape"),
        (torch.ones(4, 3, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "floating-point"),
        (torch.rand(4, 3, 5), torch.zeros(3, dtype=torch.int64), "4 class indices"),
        (torch.rand(4, 3, 5), torch.zeros(4), "type int64, got .* type torch.float32"),
        (
            [torch.rand(4, 5)] * 3,
            torch.zeros(4, dtype=torch.int64),
            "scores must be a tensor, .* got a list: torch.stack",
        ),
        (torch.rand(4, 3, 5), [0, 1, 2, 3], "target must be a tensor, 4 class indices, got a list"),
        (
            torch.rand(4, 3, 5),
            torch.zeros(4, dtype=torch.int64, device="meta"),
            "target must be .* cpu, got meta: move",
        ),
        (torch.rand(4, 3, 5), torch.tensor([0, 1, 5, 2]), "classes from 0 to 4, or -100 for a sample to ignore, got 5"),
        (torch.rand(4, 3, 5), torch.tensor([0, 1, -1, 2]), "classes from 0 to 4, .* got -1"),
        (with_value(math.nan), torch.zeros(4, dtype=torch.int64), "scores of modality 1 .* must be finite, got nan"),
        (with_value(-math.inf), torch.zeros(4, dtype=torch.int64), "scores of modality 1 .* must be finite, got -inf"),
    ],
)
def test_wrong_inputs_raise_one_line(scores: Any, target: Any, message: str) -> None:
    for config in CONFIGS:
        fusion = build(config)
        if isinstance(fusion, fusions.Unimodal):
            continue
        kind = TypeError if "must be a tensor" in message else ValueError
        with pytest.raises(kind, match=message) as error:
            fusion(scores, target)
        assert "\n" not in str(error.value)
        if "scores" in message:
            with pytest.raises(kind, match=message):
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
        ("MultiModalLoss", {"attends_to": "them"}, "attends_to must be one of logits, got 'them'"),
        ("MultiModalLoss", {"gamma": 0.0}, "gamma must be a number above 0, got 0"),
        ("MultiModalLoss", {"proxies_per_class": 0}, "proxies_per_class must be a whole number of at least 1"),
        ("SoftTriple", {"gamma": -1.0}, "gamma must be a number above 0, got -1"),
        ("SoftTriple", {"tau": 0.2, "proxies_per_class": 1}, "at least 2 proxies"),
        ("Mulmix", {"candidates": "heads", "num_modalities": 5}, "at most 4 modalities"),
        ("Mulmix", {"candidates": "mean", "num_modalities": 11}, "at most 10 modalities"),
        ("Mulmix", {"num_modalities": 21}, "at most 20 modalities"),
        ("Mulmix", {"beta": -0.1}, "beta must be a number of at least 0"),
        ("TMC", {"annealing_epochs": 0}, "annealing_epochs must be a whole number of at least 1, got 0"),
        ("ECML", {"aggregation": "sum"}, "aggregation must be one of released, mean, by_uncertainty, got 'sum'"),
        ("ECML", {"gamma": -1.0}, "gamma must be a number of at least 0, got -1"),
        ("QMF", {"variant": "text"}, "variant must be one of text_image, rgbd, got 'text'"),
        ("QMF", {"rank_margin": "none"}, "rank_margin must be one of released, required, got 'none'"),
        ("FUML", {"norm": 0.5}, "norm must be a number of at least 1, got 0.5"),
        ("MMPareto", {"gamma": 0.0}, "gamma must be a number above 0, got 0"),
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
    "proxy_lr_multiplier": ("abc", 0, -1, None, math.inf),
    "ignore_index": ("abc", 2.5, None, True),
    "annealing_epochs": ("abc", 2.5, None, True),
    "norm": ("abc", None, math.inf, True),
    "rank_weight": ("abc", -0.1, None, math.nan),
    "noise": ("abc", -0.1, None, math.inf),
    "modulated_epochs": ("abc", 2.5, -1, True),
    "num_features": ("abc", 2.5, 0, True),
    "weights": ("abc", 0.5, [0.5, "abc"], [0.5, None], [0.5, math.inf]),
    "weight": ("abc", 0.5, [1.0, -0.5, 1.0], [1.0, math.nan, 1.0], [1.0, 1.0]),
    "label_smoothing": ("abc", None, -0.1, 1.1, math.nan),
}
# The other options are chosen from named values.
CHOICES = {"variant", "attention", "class_score", "candidates", "candidate_reduction", "loss", "ensemble", "reduction"}
CHOICES |= {"aggregation", "attends_to", "rank_margin"}


@pytest.mark.parametrize("kind", sorted(set(fusions.__all__) - {"Fusion", "ReadOut"}))
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


def test_another_device_than_that_of_the_parameters_raises_one_line() -> None:
    scores, target = torch.rand(2, 3, 5, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(
        ValueError, match="scores must be on the device of the parameters of MultiModalLoss, cpu, got meta"
    ):
        fusions.MultiModalLoss(5, 3)(scores, target)


def test_scores_whose_sum_overflows_are_finite() -> None:
    scores, target = torch.full((4, 2, 3), 3e38), torch.zeros(4, dtype=torch.int64)
    assert fusions.WeightedSumCrossEntropy(3, 2)(scores, target).isfinite()


def test_mixed_precisions_raise_one_line(any_fusion: Fusion) -> None:
    scores, target = draw(any_fusion, torch.float64)
    if not list(any_fusion.parameters()):
        assert any_fusion(scores, target).dtype == torch.float64
        return
    for method, arguments in ((any_fusion, (scores, target)), (any_fusion.logits, (scores,))):
        with pytest.raises(ValueError, match=r"parameters of torch.float32 and got scores of torch.float64: convert"):
            method(*arguments)


def test_an_empty_batch_has_the_loss_zero_with_a_graph(any_fusion: Fusion) -> None:
    scores, target = draw(any_fusion)
    for size, value in ((0, 0), (BATCH, -100)):  # without samples, and with ignored ones alone
        x = scores[:size].detach().requires_grad_()
        loss = any_fusion(x, torch.full_like(target[:size], value))
        assert loss.item() == 0
        loss.backward()
        for tensor in (x, *any_fusion.parameters()):
            assert tensor.grad is not None and not tensor.grad.any()
    assert any_fusion.logits(scores[:0]).shape == any_fusion.probabilities(scores[:0]).shape == (0, CLASSES)


@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_ignored_samples_are_as_if_not_in_the_batch(
    any_fusion: Fusion, ignored: int, look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host cannot look at the targets, as on an accelerator."""
    any_fusion.double().ignore_index = ignored
    scores, target = draw(any_fusion, torch.float64)
    target = torch.tensor([0, 1, 3, 3, 4, 1])
    expected = gradients(any_fusion, scores[[1, 4, 5]].detach().requires_grad_(), target[[1, 4, 5]])
    loss = any_fusion(scores[[1, 4, 5]], target[[1, 4, 5]])
    target[[0, 2, 3]] = ignored
    if look:
        with torch.no_grad():
            scores[0] = math.nan
    else:
        monkeypatch.setattr(base, "_can_look", lambda values: False)
    torch.testing.assert_close(any_fusion(scores, target), loss)
    of_scores, *of_parameters = gradients(any_fusion, scores, target)
    assert not of_scores[[0, 2, 3]].any()
    for got, wanted in zip([of_scores[[1, 4, 5]], *of_parameters], expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("halves", ["both", "fusion", "scores"])
def test_half_precision_counts_as_float32(any_fusion: Fusion, dtype: torch.dtype, halves: str) -> None:
    scores, target = draw(any_fusion, torch.float32 if halves == "fusion" else dtype)
    if halves != "scores":
        any_fusion.to(dtype)
    loss = any_fusion(scores, target)
    got = torch.autograd.grad(loss, [scores, *any_fusion.parameters()])
    logits, probabilities = any_fusion.logits(scores), any_fusion.probabilities(scores)
    assert loss.dtype == logits.dtype == probabilities.dtype == torch.float32
    any_fusion.float()
    x = scores.detach().float().requires_grad_()
    assert torch.equal(loss, any_fusion(x, target)) and torch.equal(logits, any_fusion.logits(x))
    for ours, wanted, tensor in zip(
        got, gradients(any_fusion, x, target), [scores, *any_fusion.parameters()], strict=True
    ):
        assert ours.dtype == (
            dtype if halves == "both" or (tensor is scores) == (halves == "scores") else torch.float32
        )
        assert torch.equal(ours, wanted.to(ours.dtype))


@pytest.mark.parametrize("order", ["ti", "it", "iti", "sit"])
def test_inference_mode_leaves_no_mark_on_later_calls(any_fusion: Fusion, order: str) -> None:
    """t: a training step; i: a call in inference mode; s: from here on the scores were made in inference mode.

    In a thread of its own, whose working memory is fresh.
    """
    scores, target = draw(any_fusion)
    expected = gradients(any_fusion, scores, target)[1:]

    def call() -> None:
        x = scores
        for step in order:
            if step == "t":
                any_fusion.zero_grad()
                loss = any_fusion(x, target)
                if loss.requires_grad:
                    loss.backward()
                for parameter, wanted in zip(any_fusion.parameters(), expected, strict=True):
                    assert parameter.grad is not None and torch.equal(parameter.grad, wanted)
            with torch.inference_mode():
                if step == "i":
                    any_fusion(x, target)
                    any_fusion.logits(x)
                elif step == "s":
                    x = scores.detach() * 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def test_second_derivatives(fusion: Fusion) -> None:
    scores, target = draw(with_exact_gradient(fusion), torch.float64)
    names, parameters = zip(*fusion.named_parameters(), strict=True) if list(fusion.parameters()) else ((), ())

    def call(*inputs: Tensor) -> Tensor:
        own = dict(zip(names, inputs[1:], strict=True))
        with torch.nn.utils.stateless._reparametrize_module(fusion, own):
            loss: Tensor = fusion(inputs[0], target)
            return loss**2  # so that the incoming gradient is a function of the inputs, too

    assert torch.autograd.gradgradcheck(call, (scores, *parameters), fast_mode=True)


def test_a_missing_second_derivative_is_an_error() -> None:
    fusion = mulmix_over_subsets()
    scores, target = draw(fusion)
    (expected,) = torch.autograd.grad(fusion(scores, target), scores)
    (gradient,) = torch.autograd.grad(fusion(scores, target), scores, create_graph=True)
    assert torch.equal(gradient, expected)
    with pytest.raises(RuntimeError, match=r"no second derivative .* without create_graph=True"):
        gradient.square().sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_into_one_graph(fusion: Fusion) -> None:
    scores, target = draw(fusion)
    target[1] = -100
    torch.compiler.reset()
    compiled: Callable[..., Tensor] = torch.compile(fusion, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(scores, target), fusion(scores, target))


def test_parameter_groups(fusion: Fusion) -> None:
    parameters = list(fusion.parameters())
    groups = fusion.parameter_groups(0.5)
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in parameters]
    assert all(group["lr"] == 0.5 for group in groups)
    if "proxy_lr_multiplier" in inspect.signature(type(fusion)).parameters:
        (group,) = type(fusion)(CLASSES, 3, proxy_lr_multiplier=100.0).parameter_groups(0.5)
        assert group["lr"] == 50.0


def test_hooks_say_json_numbers_and_tensors(fusion: Fusion) -> None:
    scores, target = draw(fusion)
    target[0] = -100
    fusion.after_training(lambda: scores.detach(), target)
    assert set(fusion.diagnostics(lambda: scores.detach(), target)) == set(fusion.extra_arrays())
    assert fusion.extra_arrays().keys() <= {"proxies"}


def test_repr_shows_the_options() -> None:
    assert repr(fusions.SumCrossEntropy(3, 2)) == "SumCrossEntropy(num_classes=3, num_modalities=2, ignore_index=-100)"
    assert "gamma=0.2, variant='paper'" in repr(fusions.MultiModalLoss(3, 2, gamma=0.2, variant="paper"))


@pytest.mark.parametrize("reentrant", [True, False])
def test_goes_through_checkpointing(any_fusion: Fusion, reentrant: bool) -> None:
    scores, target = draw(any_fusion)
    expected = gradients(any_fusion, scores, target)
    torch.utils.checkpoint.checkpoint(any_fusion, scores, target, use_reentrant=reentrant).backward()
    for tensor, wanted in zip([scores, *any_fusion.parameters()], expected, strict=True):
        assert tensor.grad is not None and torch.equal(tensor.grad, wanted)


@pytest.mark.parametrize("kind", ["TMC", "ECML", "FUML", "QMF", "OGMGE", "MMPareto", "MMCosine"])
def test_float32_is_near_float64_with_many_modalities(kind: str) -> None:
    """19 modalities with large scores, where evidence multiplies to 1e7 and more."""
    torch.manual_seed(0)
    fusion = getattr(fusions, kind)(18, 19).double()
    fusion.begin_epoch(50, BATCH)
    scores, target = 10 * torch.randn(BATCH, 19, 18, dtype=torch.float64), torch.randint(18, (BATCH,))
    exact, logits = fusion(scores, target), fusion.logits(scores)
    fusion.float()
    assert fusion(scores.float(), target).item() == pytest.approx(exact.item(), rel=1e-4)
    torch.testing.assert_close(fusion.logits(scores.float()).double(), logits, rtol=1e-4, atol=1e-4)


def test_weights_are_shares(any_fusion: Fusion) -> None:
    scores, _ = draw(any_fusion)
    weights = any_fusion.modality_weights(scores)
    if weights is None:
        return
    assert weights.shape == scores.shape[:2] and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(BATCH))
    assert any_fusion.modality_weights(scores[:0]).shape == (0, any_fusion.num_modalities)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["TMC", "ECML", "SumCrossEntropy"])
@pytest.mark.parametrize("log_size", [-30.0, -46.0, -100.0])
def test_weights_are_shares_where_next_to_nothing_is_known(kind: str, log_size: float) -> None:
    """Of one modality as much as of another, twice of the next, and the last is missing."""
    scores = log_size + torch.tensor([0, 0, math.log(2), 5], dtype=torch.float64)[None, :, None].expand(1, 4, 2)
    if kind == "SumCrossEntropy":
        scores = scores.exp() * torch.tensor([1, -1])
    weights = getattr(fusions, kind)(2, 4).modality_weights(scores, torch.tensor([[True, True, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[1, 1, 2, 0]], dtype=torch.float64) / 4)


def test_weights_of_no_certainty_are_equal() -> None:
    scores, mask = torch.full((1, 3, 2), -1e4), torch.tensor([[True, True, False]])
    for fusion in (fusions.TMC(2, 3), fusions.ECML(2, 3)):
        assert fusion.modality_weights(scores, mask).tolist() == [[0.5, 0.5, 0]]  # type: ignore[union-attr]


def test_what_is_monitored_does_not_move_with_the_epoch(any_fusion: Fusion) -> None:
    scores, target = draw(any_fusion)
    scores = scores.detach()
    watched = []
    for epoch in range(1, 4):
        any_fusion.begin_epoch(epoch, BATCH)
        loss = any_fusion(scores, target, torch.arange(BATCH))
        watched += [any_fusion.monitored(scores, target, loss).item(), any_fusion.monitored(scores, target).item()]
    assert len(set(watched)) == 1
    likelihood = any_fusion.negative_log_likelihood(scores, target)
    expected = -any_fusion.probabilities(scores)[torch.arange(BATCH), target].log().mean()
    torch.testing.assert_close(likelihood, expected)
