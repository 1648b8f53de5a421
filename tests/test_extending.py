"""What the README's section "Extend" promises: how many files a loss, a backbone, a dataset and a table take.

They are added to a copy of the package, which is not changed otherwise; then a sweep trains them and the report shows
them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

FUSION = {
    "src/multimodal_loss/fusion/toy_fusion.py": '''"""The mean of the scores, sharpened."""
from torch import Tensor

from multimodal_loss.fusion import Fusion


class ToyFusion(Fusion):
    def __init__(self, num_classes: int, num_modalities: int, sharpness: float = 2.0) -> None:
        super().__init__(num_classes, num_modalities)
        self.sharpness = sharpness

    def compute_logits(self, scores: Tensor) -> Tensor:
        return self.sharpness * scores.mean(dim=1)
''',
    "conf/fusion/toy_fusion.yaml": """# @package _global_
# The mean of the scores, sharpened.
fusion:
  _target_: multimodal_loss.fusion.toy_fusion.ToyFusion
  sharpness: 3.0
fusion_input: logits
facts:
  fusion: {name: toy_fusion, title: Toy fusion, colour: null}
""",
    "tests/test_toy_fusion.py": """import torch
from multimodal_loss.fusion.toy_fusion import ToyFusion

def test_logits() -> None:
    scores = torch.randn(4, 2, 3)
    torch.testing.assert_close(ToyFusion(3, 2).logits(scores), scores[:, 0] + scores[:, 1])
""",
}
BACKBONE = {
    "src/multimodal_loss/backbones/toy_backbone.py": '''"""One linear layer for each modality."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ToyBackbone(nn.Module):
    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(shape[0], num_classes) for shape in feature_shapes)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.stack([layer(x) for layer, x in zip(self.layers, inputs, strict=True)], dim=1)
''',
    "conf/backbone/toy_backbone.yaml": """# @package _global_
# One linear layer for each modality.
backbone:
  _target_: multimodal_loss.backbones.toy_backbone.ToyBackbone
facts:
  backbone: {name: toy_backbone, title: Toy backbone}
""",
    "tests/test_toy_backbone.py": """import torch
from multimodal_loss.backbones.toy_backbone import ToyBackbone

def test_shape() -> None:
    assert ToyBackbone([(3,), (5,)], 4)([torch.zeros(2, 3), torch.zeros(2, 5)]).shape == (2, 2, 4)
""",
}
DATASET = {
    "src/multimodal_loss/datasets/toy_dataset.py": '''"""Two modalities around class centres."""
from pathlib import Path

import torch

from multimodal_loss.datasets import Dataset, MultimodalData, Split
from multimodal_loss.errors import MissingData


class ToyDataset(Dataset):
    version = 1

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def require_files(self) -> None:
        if not self.path.exists():
            raise MissingData(f"{self.path} does not exist")

    def fingerprint(self) -> str:
        return self.path.read_text()

    def load(self, fold: int | None = None) -> MultimodalData:
        generator = torch.Generator().manual_seed(int(self.path.read_text()))
        target = torch.arange(60) % 3
        inputs = tuple(3 * torch.eye(3)[target] + torch.randn(60, 3, generator=generator) for _ in range(2))
        split = Split(inputs, target)
        return MultimodalData(split, None, split, ("left", "right"), ("x", "y", "z"), self.fingerprint())
''',
    "conf/dataset/toy_dataset.yaml": """# @package _global_
# Two modalities around class centres.
dataset:
  _target_: multimodal_loss.datasets.toy_dataset.ToyDataset
  path: ${data_dir}/toy.txt
facts:
  dataset:
    name: toy_dataset
    title: Toy data
    run_name: toy
    how_to_get: python scripts/get_toy.py
    modalities: [left, right]
""",
    "scripts/get_toy.py": """from pathlib import Path

Path("data").mkdir(exist_ok=True)
Path("data/toy.txt").write_text("5")
""",
    "tests/test_toy_dataset.py": """from pathlib import Path
from multimodal_loss.datasets.toy_dataset import ToyDataset

def test_shapes(tmp_path: Path) -> None:
    (tmp_path / "toy.txt").write_text("1")
    assert ToyDataset(str(tmp_path / "toy.txt")).load().feature_shapes == ((3,), (3,))
""",
}
TABLE = {
    "conf/experiment/toy_table.yaml": """# @package _global_
# A table of the toys: 2 runs of two seeds.
defaults:
  - _self_
  - override /dataset: toy_dataset
  - override /backbone: toy_backbone
experiment_name: toy_table
seeds: [0, 1]
trainer:
  max_epochs: 30
hydra:
  sweeper:
    params:
      fusion: toy_fusion,sum_ce
""",
    "src/multimodal_loss/reporting/layouts/toy_table.py": '''"""The toys beside SUM + CE."""
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row


def layouts() -> list[Layout]:
    names = ("toy_fusion", "sum_ce")
    return [
        Layout(
            name="toy_table",
            title="Toy table",
            description="Accuracy in percent.",
            command="python -m multimodal_loss.train -m experiment=toy_table",
            rows=tuple(Row(name, name) for name in names),
            columns=(Column("ACC", "ACC"),),
            cells=tuple(Cell(name, "ACC", ("experiment=toy_table", f"fusion={name}")) for name in names),
        )
    ]
''',
}
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
KINDS = {"loss": FUSION, "backbone": BACKBONE, "dataset": DATASET, "table": TABLE}


def test_the_readme_says_how_many_files_each_takes() -> None:
    said = re.findall(r"\*\*An? (\w+), (\d) files\*\*", (ROOT / "README.md").read_text())
    assert said == [(kind, str(len(files))) for kind, files in KINDS.items()]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=IGNORED)
    for path, text in [item for files in KINDS.values() for item in files.items()]:
        file = tmp_path / path
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_toys_train_and_show_up_in_the_report(copy: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy / "src")}

    def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)

    options = ["-m", "multimodal_loss.train", "-m", "experiment=toy_table", "threads=1", "progress=false"]
    missing = python(*options)
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[0].endswith("does not exist; to get it: python scripts/get_toy.py")
    assert python("scripts/get_toy.py").returncode == 0
    trained = python(*options)
    assert (trained.returncode, len(trained.stdout.splitlines())) == (0, 2), trained.stderr
    alone = python("-m", "multimodal_loss.train", "dataset=toy_dataset", "fusion=toy_fusion", "trainer.max_epochs=2")
    assert alone.returncode == 0, alone.stderr
    report = python("-m", "multimodal_loss.report")
    assert report.returncode == 0, report.stderr
    assert "Toy table" in report.stdout and "2 of 2 cells are complete" in report.stdout
    # A run that no table asks for is listed by itself, under the loss's own title.
    assert "Your runs: Toy data" in report.stdout and "MLP, Toy fusion" in report.stdout
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert "3 passed" in tests.stdout, tests.stdout
