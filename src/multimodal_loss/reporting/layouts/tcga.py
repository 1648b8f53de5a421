"""Tables 5 and 6, Figure 5 and Appendix C: on the paper's 34 TCGA classes, and on smaller real datasets.

Replicates are the five folds. The smaller datasets are not the paper's: their titles say so, and the paper's numbers
stand beside theirs as a reference only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.figures import proxies
from multimodal_loss.reporting.figures.base import Picture
from multimodal_loss.reporting.figures.runs import RUN_PICTURES
from multimodal_loss.reporting.figures.tables import against_rows, overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, PaperKey, Row, Shown
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

# The rows of one network with two heads: where in its run the prediction is, and the paper's row.
HEADS = {
    "multitask": (
        (Row("multitask/GE", "Multitask GE"), "modalities/GE", "multitask/GE"),
        (Row("multitask/DM", "Multitask DM"), "modalities/DM", "multitask/DM"),
        (Row("ensemble", "Ensemble"), "fused", "ensemble/GE_DM"),
    )
}
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
    rows, cells, shown = [], [], []
    for method in sorted(swept("table_5", "method"), key=lambda method: [method.startswith(one) for one in LAST]):
        run = ("experiment=table_5", f"dataset={dataset}", f"method={method}")
        row = Row(EXTRA.get(method, method), method_title(method, dataset, "moma"))
        parts = HEADS.get(method, ((row, "fused", row.key),))
        for part, source, paper in parts:
            rows.append(part)
            cells += [
                Cell(part.key, c.key, run, _metric(c, source), _paper("5", paper, c.key)) for c in TABLE_5_COLUMNS
            ]
        label = f"{row.title} and ensemble" if len(parts) > 1 else row.title
        panel = next((panel for one, panel in LAST.items() if method.startswith(one)), row.title)
        shown.append(Shown(method, label, run, panel))
    return _layout(
        "table_5",
        dataset,
        "accuracy of the fusions",
        "Test metrics in percent over five folds; gene expression (GE) and DNA methylation (DM) through MOMA. AUC and "
        "AP: one class against the rest, plain mean over classes. The multitask rows and the ensemble are one run. "
        "Networks of one modality alone, and logistic regression, are not in the paper.",
        rows,
        TABLE_5_COLUMNS,
        cells,
        Condition("", "", tuple(shown), RUN_PICTURES),
        compared="ACC",
        picture=overview,
    )


def table_6(dataset: str) -> Layout:
    columns = (ACC, TIME, *PROXY_COLUMNS)
    return _layout(
        "table_6",
        dataset,
        "parts of the MultiModal loss",
        "Test accuracy in percent over five folds without parts of the loss. Where the paper's words have two readings "
        "both stand here, beside the same number of the paper. Times K undoes the smaller class scores that come with "
        "normalising over the proxies. Proxies: how many of a class's 20 are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes.",
        [row for _, row, _, _ in _variants(dataset)],
        columns,
        [
            Cell(row.key, column.key, run, _metric(column), _paper("6", paper, column.key))
            for _, row, run, paper in _variants(dataset)
            for column in columns
        ],
        compared="ACC",
        picture=overview,
    )


def figure_5(dataset: str) -> Layout:
    columns = (ACC, TIME, *PROXY_COLUMNS)
    numbers = swept("figure_5", "fusion.proxies_per_class")
    cells = [
        Cell(
            f"proxies_per_class={k}",
            column.key,
            ("experiment=figure_5", f"dataset={dataset}", f"fusion.proxies_per_class={k}"),
            _metric(column),
            _paper("6", "multimodal" if k == "20" else "", column.key),
        )
        for k in numbers
        for column in columns
    ]
    return _layout(
        "figure_5",
        dataset,
        "accuracy and time against proxies per class",
        f"MultiModal with {numbers[0]} to {numbers[-1]} proxies per class: test accuracy in percent and minutes to "
        "early stopping over five folds. The paper gives numbers for 20 alone.",
        [Row(f"proxies_per_class={k}", k) for k in numbers],
        columns,
        cells,
        corner="Proxies per class",
        picture=partial(against_rows, title="Figure 5", caption=FIGURE_5_CAPTION, png="figure_5"),
    )


def appendix_c(dataset: str) -> Layout:
    columns = tuple(Column(kind, kind, scale=1.0, unit="per class") for kind in ("alive", "used", "distinct"))
    variants = list(_variants(dataset))
    return _layout(
        "appendix_c",
        dataset,
        "what the proxies learn",
        "Of the 20 proxies of a class: how many are not zero (alive), are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes, five folds. The "
        "paper judges by eye, on its own data: about 10 in full, 1 to 3 with the other axis, 1 without attention too. "
        "Its pictures are drawn below, for the first fold.",
        [row for _, row, _, _ in variants],
        columns,
        [Cell(row.key, c.key, run, metric=f"proxies/{c.key}") for _, row, run, _ in variants for c in columns],
        Condition(
            "",
            "",
            tuple(Shown(method, row.full_title, run) for method, row, run, _ in variants),
            (partial(proxies.pictures, png="appendix_c"),),
            judged=False,
            without_pictures=NOTHING_STORED,
        ),
    )


def _layout(
    name: str,
    dataset: str,
    subject: str,
    description: str,
    rows: Sequence[Row],
    columns: tuple[Column, ...],
    cells: Sequence[Cell],
    condition: Condition | None = None,
    corner: str = "Method",
    compared: str = "",
    picture: Callable[..., Iterator[Picture]] | None = None,
) -> Layout:
    """The layout under the name and title that its dataset gives it."""
    item, command = name.replace("_", " ").capitalize(), f"make reproduce-{name.replace('_', '-')}"
    item = item.replace(" c", " C")
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
        tuple(rows),
        columns,
        tuple(cells),
        (replace(condition, key=key, title=data),) if condition else (),
        corner=corner,
        dataset=dataset,
        reference=not is_papers,
        compared=compared,
        focus=method_title("multimodal"),
        pictures=(picture,) if picture else (),
    )


def _variants(dataset: str) -> Iterator[tuple[str, Row, Overrides, str]]:
    """Method, row, run and the paper's row of each variant of the loss."""
    for method in swept("table_6", "method"):
        key, paper = VARIANTS.get(method, (method, ""))
        yield (
            method,
            Row(key, *in_group(method_title(method))),
            ("experiment=table_6", f"dataset={dataset}", f"method={method}"),
            paper,
        )


def _metric(column: Column, source: str = "fused") -> str:
    if column is TIME:
        return "seconds"
    return f"proxies/{column.key}" if column in PROXY_COLUMNS else f"test/{source}/{column.key}"


def _paper(table: str, row: str, column: str) -> PaperKey | None:
    """The key of the paper's number; None where its table has no such place."""
    key = (table, row, column)
    return key if key in paper_numbers() else None
