"""The losses stand alone: importing them needs torch and nothing that the experiments need."""

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
