"""Tables 5 and 6, Figure 5 and Appendix C: on the paper's 34 TCGA classes, and on smaller real datasets.

Replicates are the five folds. The smaller datasets are not the paper's: their titles say so, and the paper's numbers
stand beside theirs as a reference only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.figures import proxies
from multimodal_loss.reporting.figures.base import Picture
from multimodal_loss.reporting.figures.runs import RUN_PICTURES
from multimodal_loss.reporting.figures.tables import against_rows, overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, Row, Shown
from multimodal_loss.reporting.layouts.conf import dataset_title, in_group, method_title, swept

PAPER_DATASET = "tcga"
DATASETS = (PAPER_DATASET, "tcga_subtypes", "tcga_brca", "tcga_kipan")

ACC = Column("ACC", "ACC", decimals=2)
TIME = Column("time_min", "Time (min)", scale=1 / 60, unit="minutes")
TABLE_5_COLUMNS = (
    ACC,
    *(Column(metric, metric, decimals=2) for metric in ("FW", "AUC", "MCC", "AP")),
    TIME,
    *(
        Column(f"{metric}_{average}", f"{metric} {average}", group="Other averages", decimals=2, drawn=False)
        for metric in ("AUC", "AP")
        for average in ("weighted", "micro")
    ),
)
PROXY_COLUMNS = tuple(
    Column(kind, f"{kind} proxies", scale=1.0, unit="proxies per class") for kind in ("used", "distinct")
)

PROXY_COUNTS = ("alive", "used", "distinct")


class Line(NamedTuple):
    """A row, its run, the paper's row, and where in the run the prediction is."""

    row: Row
    run: Overrides
    paper: str = ""
    source: str = "fused"


# Keys of rows that the paper does not have.
EXTRA = {
    "unimodal_1": "alone/GE",
    "unimodal_2": "alone/DM",
    "logistic_1": "logistic/GE",
    "logistic_2": "logistic/DM",
    "logistic": "logistic/GE_DM",
}
LAST = {"logistic": "Logistic regression", "unimodal": "MOMA alone"}  # rows that stand last, and share a panel

# Key in Table 6, and the paper's row. Where the paper's words have two readings, both.
VARIANTS = {
    "multimodal": ("multimodal", "multimodal"),
    "hard_global": ("hard_global", "hard_attention"),
    "hard_per_class": ("hard_per_class", "hard_attention"),
    "over_proxies": ("proxy", "norm_axis_proxy"),
    "over_proxies_times_k": ("proxy_times_k", ""),
    "no_attention": ("none_sum", "no_attention"),
    "no_attended_output": ("none_zero", "no_attention"),
    "over_proxies_no_attention": ("proxy+none_sum", "norm_axis_proxy+no_attention"),
    "over_proxies_no_attended_output": ("proxy+none_zero", "norm_axis_proxy+no_attention"),
}
NOTHING_STORED = (
    "No pictures: none of these runs has stored its training outputs and proxies. To draw them, delete the run "
    "directories and train again with store_training_outputs=true."
)
FIGURE_5_CAPTION = "Mean over folds, the sample standard deviation shaded, every fold a light dot."


def layouts() -> list[Layout]:
    return [make(dataset) for make in (table_5, table_6, figure_5, appendix_c) for dataset in DATASETS]


def table_5(dataset: str) -> Layout:
    lines, shown = [], []
    for method in sorted(swept("table_5", "method"), key=lambda method: [method.startswith(one) for one in LAST]):
        run = ("experiment=table_5", f"dataset={dataset}", f"method={method}")
        title = method_title(method, dataset, "moma")
        panel = next((panel for one, panel in LAST.items() if method.startswith(one)), title)
        if method == "multitask":  # one network with two heads
            for modality in ("GE", "DM"):
                key = f"multitask/{modality}"
                lines.append(Line(Row(key, f"Multitask {modality}"), run, key, f"modalities/{modality}"))
            lines.append(Line(Row("ensemble", "Ensemble"), run, "ensemble/GE_DM"))
            shown.append(Shown(method, f"{title} and ensemble", run, panel))
        else:
            key = EXTRA.get(method, method)
            lines.append(Line(Row(key, title), run, key))
            shown.append(Shown(method, title, run, panel))
    return _layout(
        "table_5",
        dataset,
        "accuracy of the fusions",
        "Test metrics in percent over five folds; gene expression (GE) and DNA methylation (DM) through MOMA. AUC and "
        "AP: one class against the rest, plain mean over classes. The multitask rows and the ensemble are one run. "
        "Networks of one modality alone, and logistic regression, are not in the paper.",
        lines,
        TABLE_5_COLUMNS,
        Condition("", "", tuple(shown), RUN_PICTURES),
        compared="ACC",
        picture=overview,
    )


def table_6(dataset: str) -> Layout:
    return _layout(
        "table_6",
        dataset,
        "parts of the MultiModal loss",
        "Test accuracy in percent over five folds without parts of the loss. Where the paper's words have two readings "
        "both stand here, beside the same number of the paper. Times K undoes the smaller class scores that come with "
        "normalising over the proxies. Proxies: how many of a class's 20 are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes.",
        list(_variants(dataset).values()),
        (ACC, TIME, *PROXY_COLUMNS),
        compared="ACC",
        picture=overview,
    )


def figure_5(dataset: str) -> Layout:
    numbers = swept("figure_5", "fusion.proxies_per_class")
    common = ("experiment=figure_5", f"dataset={dataset}")
    return _layout(
        "figure_5",
        dataset,
        "accuracy and time against proxies per class",
        f"MultiModal with {numbers[0]} to {numbers[-1]} proxies per class: test accuracy in percent and minutes to "
        "early stopping over five folds. The paper gives numbers for 20 alone.",
        [
            Line(
                Row(f"proxies_per_class={k}", k),
                (*common, f"fusion.proxies_per_class={k}"),
                "multimodal" if k == "20" else "",
            )
            for k in numbers
        ],
        (ACC, TIME, *PROXY_COLUMNS),
        corner="Proxies per class",
        picture=partial(against_rows, title="Figure 5", caption=FIGURE_5_CAPTION, png="figure_5"),
    )


def appendix_c(dataset: str) -> Layout:
    variants = _variants(dataset)
    shown = tuple(Shown(method, line.row.full_title, line.run) for method, line in variants.items())
    pictures = (partial(proxies.pictures, png="appendix_c"),)
    return _layout(
        "appendix_c",
        dataset,
        "what the proxies learn",
        "Of the 20 proxies of a class: how many are not zero (alive), are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes, five folds. The "
        "paper judges by eye, on its own data: about 10 in full, 1 to 3 with the other axis, 1 without attention too. "
        "Its pictures are drawn below, for the first fold.",
        list(variants.values()),
        tuple(Column(kind, kind, scale=1.0, unit="per class") for kind in PROXY_COUNTS),
        Condition("", "", shown, pictures, judged=False, without_pictures=NOTHING_STORED),
    )


def _layout(
    name: str,
    dataset: str,
    subject: str,
    description: str,
    lines: Sequence[Line],
    columns: tuple[Column, ...],
    condition: Condition | None = None,
    picture: Callable[..., Iterator[Picture]] | None = None,
    **more: Any,
) -> Layout:
    """The layout under the name and title that its dataset gives it, with a cell for each line and column."""
    item = {"appendix_c": "Appendix C"}.get(name, name.replace("_", " ").capitalize())
    command = f"make reproduce-{name.replace('_', '-')}"
    data, is_papers = dataset_title(dataset), dataset == PAPER_DATASET
    if is_papers:
        key, title = name, f"{item}: {subject}, {data}"
        description += f" DATASET={{{', '.join(DATASETS[1:])}}} behind the command computes it on smaller data."
    else:
        key, title = f"{name}_{dataset}", f"{item} on {dataset}, not the paper's data: {data}"
        command += f" DATASET={dataset}"
    return Layout(
        key,
        title,
        description,
        command,
        tuple(line.row for line in lines),
        columns,
        tuple(_cell(name, line, column) for line in lines for column in columns),
        (replace(condition, key=key, title=data),) if condition else (),
        **{"corner": "Method", **more},
        dataset=dataset,
        reference=not is_papers,
        pictures=(picture,) if picture else (),
    )


def _cell(name: str, line: Line, column: Column) -> Cell:
    """With the paper's number where its table has such a place: variants and Figure 5 repeat those of Table 6."""
    paper = ("5" if name == "table_5" else "6", line.paper, column.key)
    metric = f"proxies/{column.key}" if column.key in PROXY_COUNTS else f"test/{line.source}/{column.key}"
    metric = "seconds" if column is TIME else metric
    return Cell(line.row.key, column.key, line.run, metric, paper if paper in paper_numbers() else None)


def _variants(dataset: str) -> dict[str, Line]:
    """Each variant of the loss by its method."""
    variants = {}
    for method in swept("table_6", "method"):
        key, paper = VARIANTS.get(method, (method, ""))
        run = ("experiment=table_6", f"dataset={dataset}", f"method={method}")
        variants[method] = Line(Row(key, *in_group(method_title(method))), run, paper)
    return variants
