"""What the functions of the rivals' authors give for a few inputs: rivals.json, which says where from."""

import json
from pathlib import Path

import torch
from torch import Tensor

FILE = Path(__file__).with_name("rivals.json")


def golden(case: str) -> dict[str, Tensor]:
    """The inputs and outputs of one case, float64 but for whole numbers."""
    values = json.loads(FILE.read_text())[case]
    return {name: _tensor(value) for name, value in values.items()}


def _tensor(value: object) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    whole = json.dumps(value).replace("-", "").translate(str.maketrans("", "", "[], ")).isdigit()
    return tensor.long() if whole else tensor
