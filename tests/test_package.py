"""The losses stand alone: importing them needs torch and nothing that the experiments need."""

import ast
import graphlib
import subprocess
import sys

from conftest import ROOT

EXPERIMENTS_ONLY = "hydra omegaconf sklearn pandas scipy matplotlib wandb jinja2 rich yaml PIL"

PROGRAM = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXPERIMENTS_ONLY.split()}:
            raise ImportError("not installed: " + name)
sys.meta_path.insert(0, Refuse())
import torch
from multimodal_loss import MultiModalLoss
loss = MultiModalLoss(num_classes=4, num_modalities=2, proxies_per_class=3)
scores = torch.rand(5, 2, 4).softmax(-1)
loss(scores, torch.tensor([0, 1, 2, 3, 0])).backward()
assert loss.proxies.shape == (4, 3, 2, 4) and loss.proxies.grad is not None
print(loss.probabilities(scores).shape)
"""


def test_the_losses_need_torch_alone() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "torch.Size([5, 4])"


# What each part of the package may import of the others: whatever stands below it.
BELOW = {
    "errors": set(),
    "files": {"errors"},
    "options": {"errors"},
    "command": {"errors", "files"},
    "fusion": set(),
    "backbones": {"errors", "fusion"},
    "datasets": {"errors", "files", "options"},
    "configuration": {"errors", "options"},
    "results": {"errors", "files"},
    "trackers": {"errors", "results"},
    "training": {"command", "errors", "files", "fusion", "datasets", "configuration", "results", "trackers"},
    "prediction": {"errors", "files", "options", "fusion", "datasets", "configuration", "results", "training"},
    "predict": {"command", "errors", "options", "prediction"},
    "train": {"command", "errors", "files", "configuration", "training"},
    "reporting": {"errors", "files", "results"},
    "report": {"command", "errors", "files", "results", "reporting"},
}


def test_nothing_imports_upwards_and_no_modules_import_each_other() -> None:
    """At import time; what a function imports when it is called may lie anywhere."""
    root = ROOT / "src" / "multimodal_loss"
    files = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        pairs = [(node.module or "", alias.name) for node in nodes for alias in node.names]
        found = {f"{module}.{item}" if f"{module}.{item}" in modules else module for module, item in pairs}
        graph[name] = {one for one in found if one in modules and one != name}
        part, *_ = name.split(".")[1:] or ["fusion"]  # the package itself offers the fusions
        parts = {one.split(".")[1] for one in graph[name] if "." in one}
        assert parts - {part} <= BELOW[part] | ({"fusion"} if "." not in name else set()), name
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a circle


def test_training_knows_no_dataset_backbone_or_fusion_by_name() -> None:
    """Hooks instead: nothing of theirs occurs as a word in its code. The report's half is tested beside it."""
    groups = ("dataset", "backbone", "fusion", "method", "experiment")
    names = {path.stem for group in groups for path in (ROOT / "conf" / group).glob("*.yaml")}
    classes = {
        "MultiModalLoss",
        "Mulmix",
        "Unimodal",
        "Multitask",
        "MLP",
        "MOMA",
        "OpportunityDataset",
        "WindowSplit",
        "EpicDataset",
    }
    package = ROOT / "src" / "multimodal_loss"
    for path in [package / "train.py", *(package / "training").glob("*.py"), *(package / "results").glob("*.py")]:
        tree = ast.parse(path.read_text())
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert not names & set(texts), path
        assert not classes & {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}, path
