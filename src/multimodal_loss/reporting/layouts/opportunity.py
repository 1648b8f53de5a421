"""Table 3: OPPORTUNITY, whose two tasks are learned by early, intermediate and late fusion of 19 devices.

The quick profile runs one task on a little generated data, which is not OPPORTUNITY: its dataset has another name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from multimodal_loss.reporting.figures.activities import Words, pictures
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
        words=Words("device", "devices", "an activity", "windows", "seeds"),
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
    return _layout(
        "table_3",
        tasks,
        {"test": ""},
        title="Table 3: activities from 19 wearable devices, OPPORTUNITY",
        description=METRICS_TEXT
        + "One prediction for each window of 0.8 s, a window every 0.4 s. Mulmix, over all 524,287 subsets of the "
        "devices, is an extension: the paper left it out.",
        command="make reproduce-table-3",
        conditions=tuple(_condition("table_3", task, f"table_3_{task}", TASK_TITLES[task]) for task in tasks),
        pictures=(overview,),
    )


def table_3_samples() -> Layout:
    layout = _layout(
        "table_3",
        swept("table_3", "dataset.task"),
        {"test_samples": ""},
        title="Beyond the paper: Table 3 scored sample by sample, OPPORTUNITY",
        description=METRICS_TEXT
        + "The runs of Table 3, scored at each of the 30 samples a second: a sample takes the prediction of the first "
        "window that ends with it or after it. Part of the literature scores so; the paper's numbers are of windows.",
        command="make reproduce-table-3",
    )
    return replace(layout, name="table_3_samples")


def quick_table_3() -> Layout:
    return _layout(
        "quick_table_3",
        [QUICK_TASK],
        {"test": "", "test_samples": ", by sample"},
        title="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY: the chain of Table 3",
        description="A short run of the whole chain on a little data that a script makes up in OPPORTUNITY's format: a "
        "smaller network, three epochs, one seed. Its numbers show that the installation works and say nothing about "
        "OPPORTUNITY, the paper or the methods. Percent, window by window and sample by sample.",
        command="make quick-table-3",
        conditions=(_condition("quick_table_3", QUICK_TASK, "quick_table_3", "Generated data, not OPPORTUNITY"),),
        profile="quick",
        dataset="opportunity_like",
        notice="QUICK PROFILE, GENERATED DATA, NOT OPPORTUNITY",
    )


def _layout(name: str, tasks: Sequence[str], splits: Mapping[str, str], **more: Any) -> Layout:
    """A row for each method of an experiment, a column for each split, task and metric. `splits`: what is scored, and
    what the columns' headings add for it.
    """
    rows, columns, cells = [], [], []
    for method in swept(name, "method"):
        title = method_title(method) + (" (extension)" if method == EXTENSION else "")
        rows.append(Row(_key(method), title, "Late fusion" if method.startswith("late_") else ""))
    for (split, suffix), task in product(splits.items(), tasks):
        # The paper's name of the column; sample-wise scores, which it does not have, need another.
        keys = {metric: f"{task}/{metric}" if split == "test" else f"{task}/samples/{metric}" for metric in METRICS}
        for metric, drawn in METRICS.items():
            columns.append(Column(keys[metric], metric, TASK_TITLES[task] + suffix, decimals=2, drawn=drawn))
        for method, metric in product(swept(name, "method"), METRICS):
            paper = ("3", _key(method), keys[metric]) if name == "table_3" and split == "test" else None
            run = _run(name, task, method)
            cells.append(Cell(_key(method), keys[metric], run, f"{split}/fused/{metric}", paper))
    whole: dict[str, Any] = {"corner": "Method", "dataset": DATASET, **more}
    return Layout(name, rows=tuple(rows), columns=tuple(columns), cells=tuple(cells), **whole)


def _condition(name: str, task: str, key: str, title: str) -> Condition:
    shown = (Shown(m, method_title(m), _run(name, task, m)) for m in swept(name, "method"))
    return Condition(key, title, tuple(shown), PICTURES)


def _key(method: str) -> str:
    """The paper's name of the row."""
    return method.replace("late_", "late/", 1)


def _run(name: str, task: str, method: str) -> Overrides:
    """The quick experiment has one task."""
    chosen = (f"dataset.task={task}",) if "dataset.task" in experiment(name).hydra.sweeper.params else ()
    return (f"experiment={name}", *chosen, f"method={method}")
