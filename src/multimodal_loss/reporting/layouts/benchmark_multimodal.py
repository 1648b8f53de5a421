"""Beside Table 7: MultiModal with fewer proxies and by both readings of the loss; what becomes of its proxies."""

from functools import partial

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.analysis.ranks import rank, sentence
from multimodal_loss.reporting.figures.ranks import critical_difference
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Overrides, Row
from multimodal_loss.reporting.layouts.benchmark import PROTOCOL
from multimodal_loss.reporting.layouts.conf import swept

NAME = "table_7_multimodal"
VARIANT, NUMBER = "fusion.variant", "fusion.proxies_per_class"
VARIANTS = {"released": "As released", "paper": "As printed"}
WHICH = (
    "An MLP of 64 ReLUs per modality. As printed: free proxies and dot products in the place of rectified unit proxies "
    "and cosines. "
)
COUNTS = ("alive", "used", "inverted", "distinct")


def layouts() -> list[Layout]:
    return [accuracy(), proxies()]


def accuracy() -> Layout:
    datasets, rows = swept(NAME, "dataset"), _rows()
    keys = [row.key for row in rows.values()]
    return Layout(
        name=NAME,
        title="Table 7, inside MultiModal: proxies per class, as released and as printed",
        description=f"Test accuracy in percent. {WHICH}{PROTOCOL}",
        command="make reproduce-table-7-multimodal",
        rows=tuple(rows.values()),
        columns=tuple(Column(name, name) for name in datasets),
        cells=tuple(Cell(row.key, name, _run(name, *which)) for which, row in rows.items() for name in datasets),
        corner="Loss",
        compared=tuple(datasets),
        against=(keys[0],),
        focus=next(iter(rows.values())).full_title,
        verdicts=(partial(_ranks_in_words, keys=keys),),
        pictures=(partial(critical_difference, keys=keys, name="ranks", title="Ranks"),),
    )


def proxies() -> Layout:
    lines = {
        (name, *which): Row(f"{name}/{row.key}", row.full_title, name)
        for name in swept(NAME, "dataset")
        for which, row in _rows().items()
    }
    return Layout(
        name=f"{NAME}_proxies",
        title="Table 7, inside MultiModal: what becomes of the proxies",
        description="Of a class's K proxies, mean over classes: not clamped to zero in every entry, which would end "
        "their training (alive); the closest of their class to at least one of its training samples (used); of these, "
        "more in favour of another class in at least one modality (inverted); groups that point elsewhere than the "
        f"others, of cosines up to 0.99 (distinct). {WHICH}",
        command="make reproduce-table-7-multimodal",
        rows=tuple(lines.values()),
        columns=tuple(Column(count, count, scale=1.0, unit="per class") for count in COUNTS),
        cells=tuple(
            Cell(row.key, count, _run(*which), f"proxies/{count}") for which, row in lines.items() for count in COUNTS
        ),
        corner="Loss",
    )


def _rows() -> dict[tuple[str, str], Row]:
    """By variant and number of proxies."""
    variants, numbers = swept(NAME, VARIANT), swept(NAME, NUMBER)
    return {(v, k): Row(f"{v}/{k}", f"K = {k}", VARIANTS[v]) for v in variants for k in numbers}


def _run(dataset: str, variant: str, number: str) -> Overrides:
    return (f"experiment={NAME}", f"dataset={dataset}", f"{VARIANT}={variant}", f"{NUMBER}={number}")


def _ranks_in_words(table: FilledTable, keys: list[str]) -> str:
    return sentence(rank(table, keys), table.layout.corner)
