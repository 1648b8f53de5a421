"""The cells of Tables 5 and 6, Figure 5 and Appendix C: on the paper's 34 TCGA classes, and on smaller real datasets.

Replicates are the five folds. The smaller datasets are not the paper's: their titles say so, and the paper's numbers
stand beside theirs as a reference only.
"""

from multimodal_loss.reporting.layout import (
    METHOD_TITLES,
    PAPER_METHODS,
    Cell,
    Column,
    Condition,
    Layout,
    LayoutKind,
    Overrides,
    Row,
    Shown,
)
from multimodal_loss.reporting.paper import PaperKey, paper_numbers

PAPER_DATASET = "tcga"
DATASET_TITLES = {
    PAPER_DATASET: "TCGA cancer types, 34 classes",
    "tcga_subtypes": "Subtypes of breast, kidney and brain tumours, 11 classes",
    "tcga_brca": "Subtypes of breast tumours (PAM50), 5 classes",
    "tcga_kipan": "Histology of kidney tumours, 3 classes",
}
MODALITIES = ("GE", "DM")
PROXIES_PER_CLASS = (1, 2, 5, 10, 20, 50, 100)

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

# Table 6: row key, title, group, the switches, and the paper's row. Where the paper's words have two readings, both.
VARIANTS = (
    ("multimodal", "MultiModal, full", "", (), "multimodal"),
    ("hard_global", "the closest proxy of all", "Hard attention", ("fusion.attention=hard_global",), "hard_attention"),
    (
        "hard_per_class",
        "the closest of each class",
        "Hard attention",
        ("fusion.attention=hard_per_class",),
        "hard_attention",
    ),
    ("proxy", "as written", "Normalised over proxies", ("fusion.class_score=proxy",), "norm_axis_proxy"),
    ("proxy_times_k", "times K (control)", "Normalised over proxies", ("fusion.class_score=proxy_times_k",), ""),
    ("none_sum", "the sum of outputs stays", "Without attention", ("fusion.attention=none_sum",), "no_attention"),
    ("none_zero", "no attended output", "Without attention", ("fusion.attention=none_zero",), "no_attention"),
    (
        "proxy+none_sum",
        "the sum of outputs stays",
        "Both",
        ("fusion.class_score=proxy", "fusion.attention=none_sum"),
        "norm_axis_proxy+no_attention",
    ),
    (
        "proxy+none_zero",
        "no attended output",
        "Both",
        ("fusion.class_score=proxy", "fusion.attention=none_zero"),
        "norm_axis_proxy+no_attention",
    ),
)


def layouts() -> list[Layout]:
    """All of them, for every dataset; the paper's own first."""
    return [make(dataset) for make in (table_5, table_6, figure_5, appendix_c) for dataset in DATASET_TITLES]


def table_5(dataset: str) -> Layout:
    multitask = _moma(dataset, "multitask")
    # Row, run, where in the run its prediction is, and the paper's row.
    methods: list[tuple[Row, Overrides, str, str]] = [
        *(
            (Row(f"multitask/{m}", f"Multitask {m}"), multitask, f"modalities/{m}", f"multitask/{m}")
            for m in MODALITIES
        ),
        (Row("ensemble", "Ensemble"), multitask, "fused", "ensemble/GE_DM"),
        *((Row(m, METHOD_TITLES[m]), _moma(dataset, m), "fused", m) for m in PAPER_METHODS[1:]),
        *((Row(f"alone/{m}", f"MOMA {m} alone"), _alone(dataset, m), "fused", "") for m in MODALITIES),
        *(
            (Row(f"logistic/{key}", f"Logistic regression {title}"), _logistic(dataset, names), "fused", "")
            for key, title, names in (("GE", "GE", "GE"), ("DM", "DM", "DM"), ("GE_DM", "GE + DM", "GE,DM"))
        ),
    ]
    cells = [
        Cell(
            row.key,
            column.key,
            overrides,
            metric="seconds" if column is TIME else f"test/{source}/{column.key}",
            paper=_paper("5", paper, column.key),
        )
        for row, overrides, source, paper in methods
        for column in TABLE_5_COLUMNS
    ]
    shown = [
        Shown("multitask", "Multitask and ensemble", "Multitask", multitask),
        *(Shown(m, METHOD_TITLES[m], METHOD_TITLES[m], _moma(dataset, m)) for m in PAPER_METHODS[1:]),
        *(Shown("unimodal", f"MOMA {m} alone", "MOMA alone", _alone(dataset, m)) for m in MODALITIES),
        *(
            Shown("logistic", f"Logistic regression {title}", "Logistic regression", _logistic(dataset, names))
            for title, names in (("GE", "GE"), ("DM", "DM"), ("GE + DM", "GE,DM"))
        ),
    ]
    return _layout(
        "table_5",
        dataset,
        "accuracy of the fusions",
        "Test metrics in percent over five folds; gene expression (GE) and DNA methylation (DM) through MOMA. AUC and "
        "AP: one class against the rest, plain mean over classes. The multitask rows and the ensemble are one run. "
        "Networks of one modality alone, and logistic regression, are not in the paper.",
        tuple(row for row, *_ in methods),
        TABLE_5_COLUMNS,
        cells,
        shown,
        compared="ACC",
    )


def table_6(dataset: str) -> Layout:
    columns = (ACC, TIME, *PROXY_COLUMNS)
    cells = [
        Cell(
            key,
            column.key,
            _moma(dataset, "multimodal", *switches),
            metric=_metric(column),
            paper=_paper("6", paper, column.key),
        )
        for key, _, _, switches, paper in VARIANTS
        for column in columns
    ]
    return _layout(
        "table_6",
        dataset,
        "parts of the MultiModal loss",
        "Test accuracy in percent over five folds without parts of the loss. Where the paper's words have two readings "
        "both stand here, beside the same number of the paper. Times K undoes the smaller class scores that come with "
        "normalising over the proxies. Proxies: how many of a class's 20 are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes.",
        tuple(Row(key, title, group) for key, title, group, *_ in VARIANTS),
        columns,
        cells,
        compared="ACC",
    )


def figure_5(dataset: str) -> Layout:
    columns = (ACC, TIME, *PROXY_COLUMNS)
    cells = [
        Cell(
            f"proxies_per_class={k}",
            column.key,
            _moma(dataset, "multimodal", f"fusion.proxies_per_class={k}"),
            metric=_metric(column),
            paper=_paper("6", "multimodal" if k == 20 else "", column.key),
        )
        for k in PROXIES_PER_CLASS
        for column in columns
    ]
    return _layout(
        "figure_5",
        dataset,
        "accuracy and time against proxies per class",
        "MultiModal with 1 to 100 proxies per class: test accuracy in percent and minutes to early stopping over five "
        "folds. The paper gives numbers for 20 alone.",
        tuple(Row(f"proxies_per_class={k}", f"{k}") for k in PROXIES_PER_CLASS),
        columns,
        cells,
        kind="figure_5",
        corner="Proxies per class",
    )


def appendix_c(dataset: str) -> Layout:
    columns = tuple(Column(kind, kind, scale=1.0, unit="per class") for kind in ("alive", "used", "distinct"))
    runs = {key: _moma(dataset, "multimodal", *switches) for key, _, _, switches, _ in VARIANTS}
    rows = tuple(Row(key, title, group) for key, title, group, *_ in VARIANTS)
    return _layout(
        "appendix_c",
        dataset,
        "what the proxies learn",
        "Of the 20 proxies of a class: how many are not zero (alive), are the closest of their class to one of its "
        "training samples (used), and point elsewhere than the others (distinct); mean over classes, five folds. The "
        "paper judges by eye, on its own data: about 10 in full, 1 to 3 with the other axis, 1 without attention too. "
        "Its pictures are drawn below, for the first fold.",
        rows,
        columns,
        [
            Cell(row.key, column.key, runs[row.key], metric=f"proxies/{column.key}")
            for row in rows
            for column in columns
        ],
        [Shown("multimodal", row.full_title, row.full_title, runs[row.key]) for row in rows],
        kind="appendix_c",
    )


def _layout(
    name: str,
    dataset: str,
    subject: str,
    description: str,
    rows: tuple[Row, ...],
    columns: tuple[Column, ...],
    cells: list[Cell],
    shown: list[Shown] | None = None,
    compared: str = "",
    kind: LayoutKind = "table",
    corner: str = "Method",
) -> Layout:
    """The layout under the name and title that its dataset gives it."""
    item, command = name.replace("_", " ").capitalize(), f"make reproduce-{name.replace('_', '-')}"
    item = "Appendix C" if name == "appendix_c" else item
    if dataset == PAPER_DATASET:
        key, title = name, f"{item}: {subject}, {DATASET_TITLES[dataset]}"
        others = ", ".join(other for other in DATASET_TITLES if other != PAPER_DATASET)
        description += f" DATASET={{{others}}} behind the command computes it on smaller data."
    else:
        key, title = f"{name}_{dataset}", f"{item} on {dataset}, not the paper's data: {DATASET_TITLES[dataset]}"
        command += f" DATASET={dataset}"
    conditions = (Condition(key, DATASET_TITLES[dataset], tuple(shown)),) if shown else ()
    return Layout(
        key,
        title,
        description,
        command,
        rows,
        columns,
        tuple(cells),
        conditions,
        corner=corner,
        dataset=dataset,
        reference=dataset != PAPER_DATASET,
        compared=compared,
        kind=kind,
        shared_runs=0 if name == "table_5" else 1,  # that of the full MultiModal loss
    )


def _moma(dataset: str, fusion: str, *overrides: str) -> Overrides:
    return (f"dataset={dataset}", "backbone=moma", "trainer=moma", f"fusion={fusion}", *overrides)


def _alone(dataset: str, modality: str) -> Overrides:
    return _moma(dataset, "unimodal", "fusion.input=logits", f"dataset.modalities=[{modality}]")


def _logistic(dataset: str, modalities: str) -> Overrides:
    network = (f"dataset={dataset}", "backbone=linear", "trainer=logistic")
    return (*network, "fusion=unimodal", "fusion.input=logits", f"dataset.modalities=[{modalities}]")


def _metric(column: Column) -> str:
    if column is TIME:
        return "seconds"
    return f"proxies/{column.key}" if column in PROXY_COLUMNS else f"test/fused/{column.key}"


def _paper(table: str, row: str, column: str) -> PaperKey | None:
    """The key of the paper's number; None where its table has no such place."""
    key = (table, row, column)
    return key if key in paper_numbers() else None
