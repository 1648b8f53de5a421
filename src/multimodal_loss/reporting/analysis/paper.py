"""The paper's numbers as data: Moon and Lee, arXiv 2308.10486, Tables 1 to 6 and the tuning table of Appendix B."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from multimodal_loss.reporting.layouts.base import PaperKey


@dataclass(frozen=True)
class PaperNumber:
    """In the paper's unit (percent, minutes). None is what the paper leaves empty; `note` says why."""

    mean: float | None
    sd: float | None
    note: str = ""


@cache
def paper_numbers() -> dict[PaperKey, PaperNumber]:
    text = resources.files("multimodal_loss.reporting").joinpath("paper_tables.csv").read_text(encoding="utf-8")
    return {
        (row["table"], row["row"], row["column"]): PaperNumber(_number(row["mean"]), _number(row["std"]), row["note"])
        for row in csv.DictReader(text.splitlines())
    }


def _number(text: str) -> float | None:
    return float(text) if text else None
