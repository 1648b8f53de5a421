"""Table 3: OPPORTUNITY, whose two tasks are learned by early, intermediate and late fusion of 19 devices.

The quick profile runs one task on a little generated data, which is not OPPORTUNITY: its dataset has another name.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from multimodal_loss.reporting.figures.activities import pictures
from multimodal_loss.reporting.figures.runs import training_curves
from multimodal_loss.reporting.figures.tables import overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, Row, Shown
from multimodal_loss.reporting.layouts.conf import experiment, method_title, swept

DATASET = "opportunity"
TASK_TITLES = {"locomotion": "Locomotion", "gestures": "Gestures"}
QUICK_TASK = "locomotion"  # of conf/experiment/quick_table_3.yaml: a few minutes of data hold each of its five classes
# FW follows ACC closely: it stands in the tables, and is left out of the overview and the terminal.
METRICS = {"ACC": True, "FM": True, "FW": False, "MCC": True}
EXTENSION = "late_mulmix"
PICTURES = (
    partial(
        pictures,
        featured=("early", "late_sum_ce", "late_multimodal"),  # where there is room for few methods
        inputs=("late_multimodal", "late_sum_ce"),
        input_name="device",
    ),
    training_curves,
)
METRICS_TEXT = (
    "ACC, macro F1 (FM), weighted F1 (FW) and Matthews correlation (MCC) in percent, Null counted as a class, five "
    "seeds. Early and intermediate fusion have one output; late fusion has one for each of the 19 devices. "
)


def layouts() -> list[Layout]:
    return [table_3(), table_3_samples(), quick_table_3()]


def table_3() -> Layout:
    tasks = swept("table_3", "dataset.task")
    return Layout(
        name="table_3",
        title="Table 3: activities from 19 wearable devices, OPPORTUNITY",
        description=METRICS_TEXT
        + "One prediction for each window of 0.8 s, a window every 0.4 s. Mulmix, over all 524,287 subsets of the "
        "devices, is an extension: the paper left it out.",
        command="make reproduce-table-3",
        rows=_rows("table_3"),
        columns=_columns(tasks),
        cells=tuple(_cells("table_3", tasks)),
        conditions=tuple(_condition("table_3", task, f"table_3_{task}", TASK_TITLES[task]) for task in tasks),
        corner="Method",
        dataset=DATASET,
        pictures=(overview,),
    )


def table_3_samples() -> Layout:
    tasks = swept("table_3", "dataset.task")
    return Layout(
        name="table_3_samples",
        title="Beyond the paper: Table 3 scored sample by sample, OPPORTUNITY",
        description=METRICS_TEXT
        + "The runs of Table 3, scored at each of the 30 samples a second: a sample takes the prediction of the first "
        "window that ends with it or after it. Part of the literature scores so; the paper's numbers are of windows.",
        command="make reproduce-table-3",
        rows=_rows("table_3"),
        columns=_columns(tasks, split="test_samples"),
        cells=tuple(_cells("table_3", tasks, "test_samples")),
        corner="Method",
        dataset=DATASET,
    )


def quick_table_3() -> Layout:
    name, tasks = "quick_table_3", (QUICK_TASK,)
    return Layout(
        name=name,
        title="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY: the chain of Table 3",
        description="A short run of the whole chain on a little data that a script makes up in OPPORTUNITY's format: a "
        "smaller network, three epochs, one seed. Its numbers show that the installation works and say nothing about "
        "OPPORTUNITY, the paper or the methods. Percent, window by window and sample by sample.",
        command="make quick-table-3",
        rows=_rows(name),
        columns=(*_columns(tasks), *_columns(tasks, split="test_samples", suffix=", by sample")),
        cells=(*_cells(name, tasks), *_cells(name, tasks, "test_samples")),
        conditions=(_condition(name, QUICK_TASK, name, "Generated data, not OPPORTUNITY"),),
        profile="quick",
        corner="Method",
        dataset="opportunity_like",
        notice="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY",
    )


def _rows(name: str) -> tuple[Row, ...]:
    def row(method: str) -> Row:
        title = method_title(method) + (" (extension)" if method == EXTENSION else "")
        return Row(_key(method), title, "Late fusion" if _is_late(method) else "")

    return tuple(row(method) for method in swept(name, "method"))


def _columns(tasks: Iterable[str], split: str = "test", suffix: str = "") -> tuple[Column, ...]:
    return tuple(
        Column(_column(task, metric, split), metric, f"{TASK_TITLES[task]}{suffix}", decimals=2, drawn=drawn)
        for task in tasks
        for metric, drawn in METRICS.items()
    )


def _cells(name: str, tasks: Iterable[str], split: str = "test") -> Iterator[Cell]:
    compared = name == "table_3" and split == "test"
    for task in tasks:
        for method in swept(name, "method"):
            for metric in METRICS:
                yield Cell(
                    _key(method),
                    _column(task, metric, split),
                    _run(name, task, method),
                    metric=f"{split}/fused/{metric}",
                    paper=("3", _key(method), f"{task}/{metric}") if compared else None,
                )


def _column(task: str, metric: str, split: str) -> str:
    """The paper's name of the column; sample-wise scores, which it does not have, need another."""
    return f"{task}/{metric}" if split == "test" else f"{task}/samples/{metric}"


def _condition(name: str, task: str, key: str, title: str) -> Condition:
    shown = (Shown(m, method_title(m), _run(name, task, m)) for m in swept(name, "method"))
    return Condition(key, title, tuple(shown), PICTURES)


def _is_late(method: str) -> bool:
    return method.startswith("late_")


def _key(method: str) -> str:
    """The paper's name of the row."""
    return method.replace("late_", "late/", 1) if _is_late(method) else method


def _run(name: str, task: str, method: str) -> Overrides:
    """The quick experiment has one task."""
    chosen = (f"dataset.task={task}",) if "dataset.task" in experiment(name).hydra.sweeper.params else ()
    return (f"experiment={name}", *chosen, f"method={method}")
