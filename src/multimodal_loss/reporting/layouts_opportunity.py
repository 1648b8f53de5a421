"""The cells of Table 3: OPPORTUNITY, whose two tasks are learned by early, intermediate and late fusion of 19 devices.

The quick profile runs one task on a little generated data, which is not OPPORTUNITY: its dataset has another name.
"""

from collections.abc import Iterable, Iterator

from multimodal_loss.reporting.layout import METHOD_TITLES, Cell, Column, Condition, Layout, Overrides, Row, Shown

TASK_TITLES = {"locomotion": "Locomotion", "gestures": "Gestures"}
QUICK_TASK = "locomotion"  # five classes: a few minutes of data hold each of them
# FW follows ACC closely: it stands in the tables, and is left out of the overview and the terminal.
METRICS = {"ACC": True, "FM": True, "FW": False, "MCC": True}

# Row key, as in the paper's numbers; fusion type; what the fusion is and reads.
_LOGITS = "fusion.input=logits"
METHODS: dict[str, tuple[str, Overrides]] = {
    "early": ("early", ("fusion=unimodal", _LOGITS)),
    "intermediate": ("intermediate", ("fusion=unimodal", _LOGITS)),
    "late/sum_ce": ("late", ("fusion=sum_ce", _LOGITS)),
    "late/nn_ce": ("late", ("fusion=nn_ce", _LOGITS)),
    "late/mulmix": ("late", ("fusion=mulmix", _LOGITS, "fusion.combine_in=scores")),
    "late/soft_triple": ("late", ("fusion=soft_triple",)),
    "late/proxy_anchor": ("late", ("fusion=proxy_anchor",)),
    "late/multimodal": ("late", ("fusion=multimodal",)),
}
EXTENSION = "late/mulmix"
FULL: Overrides = ("dataset=opportunity",)
QUICK: Overrides = ("experiment=quick_table_3", "dataset=opportunity_like")
SEEDS = {FULL: 5, QUICK: 1}
METRICS_TEXT = (
    "ACC, macro F1 (FM), weighted F1 (FW) and Matthews correlation (MCC) in percent, Null counted as a class, five "
    "seeds. Early and intermediate fusion have one output; late fusion has one for each of the 19 devices. "
)


def layouts() -> list[Layout]:
    return [table_3(), table_3_samples()]


def table_3() -> Layout:
    return Layout(
        name="table_3",
        title="Table 3: activities from 19 wearable devices, OPPORTUNITY",
        description=METRICS_TEXT
        + "One prediction for each window of 0.8 s, a window every 0.4 s. Mulmix, over all 524,287 subsets of the "
        "devices, is an extension: the paper left it out.",
        command="make reproduce-table-3",
        rows=_rows(),
        columns=_columns(*TASK_TITLES),
        cells=tuple(_cells(TASK_TITLES, "test")),
        conditions=tuple(_condition(f"table_3_{task}", title, FULL, task) for task, title in TASK_TITLES.items()),
        corner="Method",
        dataset="opportunity",
        kind="table_3",
    )


def table_3_samples() -> Layout:
    return Layout(
        name="table_3_samples",
        title="Beyond the paper: Table 3 scored sample by sample, OPPORTUNITY",
        description=METRICS_TEXT
        + "The runs of Table 3, scored at each of the 30 samples a second: a sample takes the prediction of the first "
        "window that ends with it or after it. Part of the literature scores so; the paper's numbers are of windows.",
        command="make reproduce-table-3",
        rows=_rows(),
        columns=_columns(*TASK_TITLES, split="test_samples"),
        cells=tuple(_cells(TASK_TITLES, "test_samples")),
        corner="Method",
        dataset="opportunity",
    )


def quick_table_3() -> Layout:
    return Layout(
        name="quick_table_3",
        title="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY: the chain of Table 3",
        description="A short run of the whole chain on a little data that a script makes up in OPPORTUNITY's format: a "
        "smaller network, three epochs, one seed. Its numbers show that the installation works and say nothing about "
        "OPPORTUNITY, the paper or the methods. Percent, window by window and sample by sample.",
        command="make quick-table-3",
        rows=_rows(),
        columns=(*_columns(QUICK_TASK), *_columns(QUICK_TASK, split="test_samples", suffix=", by sample")),
        cells=(*_cells([QUICK_TASK], "test", QUICK), *_cells([QUICK_TASK], "test_samples", QUICK)),
        conditions=(_condition("quick_table_3", "Generated data, not OPPORTUNITY", QUICK, QUICK_TASK),),
        profile="quick",
        corner="Method",
        dataset="opportunity_like",
        kind="table_3",
        notice="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY",
    )


def _rows() -> tuple[Row, ...]:
    def title(key: str) -> str:
        return METHOD_TITLES[_method(key)] + (" (extension)" if key == EXTENSION else "")

    return tuple(Row(key, title(key), "Late fusion" if kind == "late" else "") for key, (kind, _) in METHODS.items())


def _columns(*tasks: str, split: str = "test", suffix: str = "") -> tuple[Column, ...]:
    return tuple(
        Column(_column(task, metric, split), metric, f"{TASK_TITLES[task]}{suffix}", decimals=2, drawn=drawn)
        for task in tasks
        for metric, drawn in METRICS.items()
    )


def _cells(tasks: Iterable[str], split: str, data: Overrides = FULL) -> Iterator[Cell]:
    compared = data == FULL and split == "test"
    for task in tasks:
        for row in METHODS:
            for metric in METRICS:
                yield Cell(
                    row,
                    _column(task, metric, split),
                    _run(data, task, row),
                    metric=f"{split}/fused/{metric}",
                    paper=("3", row, f"{task}/{metric}") if compared else None,
                    expected=SEEDS[data],
                )


def _column(task: str, metric: str, split: str) -> str:
    """The paper's name of the column; sample-wise scores, which it does not have, need another."""
    return f"{task}/{metric}" if split == "test" else f"{task}/samples/{metric}"


def _condition(key: str, title: str, data: Overrides, task: str) -> Condition:
    return Condition(
        key,
        title,
        tuple(Shown(_method(row), METHOD_TITLES[_method(row)], row, _run(data, task, row)) for row in METHODS),
    )


def _method(row: str) -> str:
    return row.rpartition("/")[2]


def _run(data: Overrides, task: str, row: str) -> Overrides:
    kind, fusion = METHODS[row]
    backbone = ("backbone=deep_conv_lstm", f"backbone.fusion_type={kind}")
    return (*data, f"dataset.task={task}", *backbone, "trainer=mini_batch", *fusion)
