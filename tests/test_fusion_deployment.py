"""Where a loss goes after it is written: compiled, exported, to ONNX, and into several processes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion, MultiModalLoss

CLASSES, MODALITIES, BATCH, WIDTH = 3, 3, 8, 5
KINDS = [name for name in fusions.__all__ if name not in ("Fusion", "ReadOut", "Unimodal")]
EVERY: list[tuple[str, dict[str, Any]]] = [(kind, {}) for kind in KINDS]
EVERY += [
    ("MultiModalLoss", {"variant": "paper", "attention": "hard_per_class"}),
    ("Mulmix", {"candidates": "heads"}),
    ("ECML", {"aggregation": "by_uncertainty"}),
    ("SoftTriple", {"tau": 0.2}),
    ("QMF", {"rank_margin": "required"}),
    ("OGMGE", {"noise": 0.0}),
]


def build(kind: str, options: dict[str, Any]) -> Fusion:
    torch.manual_seed(0)
    fusion: Fusion = getattr(fusions, kind)(CLASSES, MODALITIES, **options)
    fusion.begin_epoch(20, 0)
    return fusion


def draw() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(BATCH, MODALITIES, CLASSES, generator=generator).softmax(-1)
    mask = torch.rand(BATCH, MODALITIES, generator=generator) > 0.4
    mask[:, 1] |= ~mask.any(dim=1)
    return scores, torch.randint(CLASSES, (BATCH,), generator=generator), mask


class Prediction(nn.Module):
    """A module's forward, the form in which torch exports."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return self.fusion.probabilities(scores, mask)


def exported(kind: str, options: dict[str, Any]) -> torch.export.ExportedProgram:
    scores, _, mask = draw()
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(Prediction(build(kind, options)), (scores, mask), dynamic_shapes=(batch, batch))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "options"), EVERY, ids=str)
def test_exports_with_missing_modalities_for_batches_of_any_size(kind: str, options: dict[str, Any]) -> None:
    scores, _, mask = draw()
    got = exported(kind, options).module()(scores[:5], mask[:5])
    torch.testing.assert_close(got, build(kind, options).probabilities(scores[:5], mask[:5]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["MultiModalLoss", "Mulmix"])
def test_goes_to_onnx(kind: str) -> None:
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    program = torch.onnx.export(exported(kind, {}), dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    scores, _, mask = draw()
    names = [given.name for given in model.graph.input]
    (got,) = ReferenceEvaluator(model).run(None, dict(zip(names, (scores[:5].numpy(), mask[:5].numpy()), strict=True)))
    torch.testing.assert_close(torch.from_numpy(got), build(kind, {}).probabilities(scores[:5], mask[:5]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trains_compiled() -> None:
    """The graphs of both ways, as inductor is given them."""
    fusion = MultiModalLoss(CLASSES, MODALITIES, 2)
    scores, target, mask = draw()
    inputs = [scores.requires_grad_(), fusion.proxies]
    expected = torch.autograd.grad(fusion(scores, target, mask=mask), inputs)
    torch.compiler.reset()
    compiled: Any = torch.compile(fusion, backend="aot_eager", fullgraph=True)
    for ours, wanted in zip(torch.autograd.grad(compiled(scores, target, mask=mask), inputs), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++")
def test_predicts_compiled_by_inductor() -> None:
    fusion = MultiModalLoss(CLASSES, MODALITIES, 2)
    scores, _, mask = draw()
    torch.compiler.reset()
    with torch.no_grad():
        got = torch.compile(Prediction(fusion), fullgraph=True)(scores, mask)
        torch.testing.assert_close(got, fusion.probabilities(scores, mask))


class Network(nn.Module):
    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.fusion = nn.Linear(WIDTH, MODALITIES * CLASSES), fusion

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.fusion(self.layer(inputs).view(-1, MODALITIES, CLASSES).softmax(-1), target)
        return loss


def gradients(kind: str, options: dict[str, Any], rows: slice, parallel: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    _, target, _ = draw()
    network = Network(build(kind, options)).double()
    model = DistributedDataParallel(network) if parallel else network  # averages gradients as long as it lives
    model(inputs[rows], target[rows]).backward()
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rows = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    found = [gradients(kind, options, rows, parallel=True) for kind, options in EVERY]
    if rank == 0:
        torch.save(found, folder / "gradients.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """For all but those whose loss looks at a batch as a whole; SoftTriple's regulariser counts once."""
    torch.multiprocessing.spawn(work, args=(tmp_path,), nprocs=2)
    of_batch = set()
    for (kind, options), found in zip(EVERY, torch.load(tmp_path / "gradients.pt"), strict=True):
        expected = gradients(kind, options, slice(None), parallel=False)
        if not all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True)):
            of_batch.add(kind)
    assert of_batch == {"ProxyAnchor", "QMF", "OGMGE"}
