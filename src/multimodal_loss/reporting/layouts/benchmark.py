"""Table 7: losses, rivals and plain baselines on six real datasets, ten splits each.

One table of accuracies over all datasets, with the tests; one of all metrics for each dataset; accuracy where a
modality of some samples was replaced, and whether a method trusts it less.
"""

from collections.abc import Iterator
from functools import partial

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.analysis.ranks import behind, rank, sentence
from multimodal_loss.reporting.figures.ranks import critical_difference
from multimodal_loss.reporting.figures.runs import reliability
from multimodal_loss.reporting.figures.trust import trust_picture
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, Row, Shown
from multimodal_loss.reporting.layouts.conf import backbone_title, dataset_title, method_title, swept

NETWORKS, PLAIN, CORRUPTED, QUICK = "table_7", "table_7_plain", "table_7_corrupted", "quick_table_7"
KINDS = {
    "noisy": "one modality of a share of the training and test samples is noise",
    "conflicting": "one modality of a share of the test samples is that of another class",
}
REFERENCE = "concat_logistic"
COMMAND = "make reproduce-table-7"
CORRUPTED_COMMAND = f"{COMMAND}-corrupted"
PROTOCOL = (
    "Ten splits of each dataset, two shuffled five-fold cross-validations. For every split and network eight settings "
    "are tried on a quarter of the training samples (learning rate, weight decay, a knob of the method's own); the one "
    "with the least NLL there is trained on all training samples. "
)
METRICS = (
    Column("ACC", "ACC", decimals=2),
    Column("FM", "macro F1", decimals=2),
    Column("NLL", "NLL", scale=1.0, decimals=3, unit="nats"),
    Column("Brier", "Brier", scale=1.0, decimals=3, unit="from 0 to 2"),
    Column("ECE", "ECE", decimals=2),
    Column("NLL_tempered", "NLL, tempered", scale=1.0, decimals=3, unit="nats"),
    Column("Brier_tempered", "Brier, tempered", scale=1.0, decimals=3, unit="from 0 to 2"),
    Column("ECE_tempered", "ECE, tempered", decimals=2),
    Column("seconds", "Time (s)", scale=1.0, unit="seconds"),
)


def layouts() -> list[Layout]:
    kinds = swept(CORRUPTED, "dataset.corrupt")
    harder = [make(kind) for kind in kinds for make in (corrupted, trust)]
    return [overview(), *(of_dataset(name) for name in swept(NETWORKS, "dataset")), *harder, quick()]


def overview() -> Layout:
    datasets = swept(NETWORKS, "dataset")
    rows = list(_rows())
    keys = [row.key for _, _, row in rows]
    networks = {backbone: [row.key for _, b, row in rows if b == backbone] for backbone in swept(NETWORKS, "backbone")}
    plain = [row.key for _, backbone, row in rows if not backbone]
    ranked = {backbone: [*of_one, *plain] for backbone, of_one in networks.items()}
    return Layout(
        name=NETWORKS,
        title="Table 7: losses, published rivals and plain baselines on six real datasets",
        description=f"Test accuracy in percent. {PROTOCOL}On each dataset every row is compared with MultiModal and "
        "with logistic regression on all modalities (corrected resampled t-test, Holm).",
        command=COMMAND,
        rows=tuple(row for _, _, row in rows),
        columns=tuple(Column(name, name, decimals=1) for name in datasets),
        cells=tuple(Cell(row.key, name, _run(name, m, b), "test/fused/ACC") for m, b, row in rows for name in datasets),
        corner="Method",
        compared=tuple(datasets),
        against=(*(key for key in keys if key.startswith("multimodal/")), REFERENCE),
        verdicts=(
            *(partial(_ranks_in_words, keys=of, backbone=name) for name, of in ranked.items()),
            partial(behind, reference=REFERENCE, keys=[key for of_one in networks.values() for key in of_one]),
        ),
        pictures=tuple(
            partial(critical_difference, keys=of, name=f"ranks_{name}", title=f"Ranks, {backbone_title(name)}")
            for name, of in ranked.items()
        ),
    )


def of_dataset(name: str) -> Layout:
    rows = list(_rows())
    shown = tuple(Shown(row.key, row.title, _run(name, m, b)) for m, b, row in rows)
    return Layout(
        name=f"{NETWORKS}_{name}",
        title=f"Every metric of Table 7 on {name}: {dataset_title(name)}",
        description="Test metrics, ACC, F1 and ECE in percent. Tempered: after one temperature, fitted where the "
        f"settings were chosen. {PROTOCOL}Time: of a network, the last training of a split alone, without its trials; "
        "what is fitted chooses its penalty in that time.",
        command=f'{COMMAND} ARGS="dataset={name}"',
        rows=tuple(row for _, _, row in rows),
        columns=METRICS,
        cells=tuple(Cell(row.key, c.key, _run(name, m, b), _metric(c)) for m, b, row in rows for c in METRICS),
        conditions=(Condition(f"{NETWORKS}_{name}", dataset_title(name), shown, (reliability,)),),
        corner="Method",
        dataset=name,
    )


def corrupted(kind: str) -> Layout:
    methods, (columns, runs) = swept(CORRUPTED, "method"), _corrupted(kind)
    return Layout(
        name=f"{CORRUPTED}_{kind}",
        title=f"Table 7, {kind} modalities: {KINDS[kind]}",
        description="Test accuracy in percent, linear networks, the first five splits; columns name the share of "
        f"samples. {PROTOCOL}",
        command=CORRUPTED_COMMAND,
        rows=tuple(Row(method, method_title(method)) for method in methods),
        columns=columns,
        cells=tuple(Cell(m, key, (*run, f"method={m}")) for m in methods for key, run in runs.items()),
        corner="Method",
        compared=tuple(runs),
        against=("multimodal", REFERENCE),
        focus=method_title("multimodal"),
    )


def trust(kind: str) -> Layout:
    from multimodal_loss.configuration import method_facts  # here: Hydra takes a while to import

    methods, (columns, runs) = swept(CORRUPTED, "method"), _corrupted(kind)
    methods = [method for method in methods if method_facts(method).get("weighs")]
    return Layout(
        name=f"{NETWORKS}_trust_{kind}",
        title=f"Table 7, {kind} modalities: does trust follow?",
        description="AUROC in percent: of all modalities of all test samples, how well little trust tells those that "
        "were replaced; 50 is chance. Trust is a modality's share: MultiModal and SUM, of what all add to the "
        "predicted class's logit; TMC and ECML, of certainty (1 - u); QMF, of confidence; FUML, of its weights. The "
        f"runs of {CORRUPTED}_{kind}.",
        command=CORRUPTED_COMMAND,
        rows=tuple(Row(method, method_title(method)) for method in methods),
        columns=columns,
        cells=tuple(
            Cell(m, key, (*run, f"method={m}"), "test/distrust/AUC") for m in methods for key, run in runs.items()
        ),
        corner="Method",
        pictures=(partial(trust_picture, name="trust"),),
    )


def _corrupted(kind: str) -> tuple[tuple[Column, ...], dict[str, Overrides]]:
    """A column for each dataset and share, and by its key what its runs have in common."""
    shares, datasets = (swept(CORRUPTED, key) for key in ("dataset.corrupt_share", "dataset"))
    places = {f"{name}/{share}": (name, share) for name in datasets for share in shares}
    common = (f"experiment={CORRUPTED}", f"dataset.corrupt={kind}")
    return tuple(Column(key, share, group=name) for key, (name, share) in places.items()), {
        key: (*common, f"dataset={name}", f"dataset.corrupt_share={share}") for key, (name, share) in places.items()
    }


def quick() -> Layout:
    runs = [(method, QUICK) for method in swept(QUICK, "method")]
    runs += [(method, f"{QUICK}_plain") for method in swept(f"{QUICK}_plain", "method")]
    return Layout(
        name=QUICK,
        title="QUICK PROFILE: the chain of Table 7 on activities at home",
        description="Two of the ten splits, linear networks, two trials each. Its numbers show that the installation "
        "works and say nothing about the methods.",
        command="make quick-table-7",
        rows=tuple(Row(method, method_title(method)) for method, _ in runs),
        columns=METRICS,
        cells=tuple(
            Cell(method, column.key, (f"experiment={name}", f"method={method}"), _metric(column))
            for method, name in runs
            for column in METRICS
        ),
        profile="quick",
        corner="Method",
        dataset="htad",
        notice="QUICK PROFILE",
    )


def _ranks_in_words(table: FilledTable, keys: list[str], backbone: str) -> str:
    return sentence(rank(table, keys), backbone_title(backbone))


def _rows() -> Iterator[tuple[str, str, Row]]:
    """Method, backbone (none for what is fitted) and row."""
    for backbone in swept(NETWORKS, "backbone"):
        for method in swept(NETWORKS, "method"):
            yield method, backbone, Row(f"{method}/{backbone}", f"{method_title(method)}, {backbone_title(backbone)}")
    for method in swept(PLAIN, "method"):
        yield method, "", Row(method, method_title(method))


def _run(dataset: str, method: str, backbone: str) -> Overrides:
    if not backbone:
        return (f"experiment={PLAIN}", f"dataset={dataset}", f"method={method}")
    return (f"experiment={NETWORKS}", f"dataset={dataset}", f"backbone={backbone}", f"method={method}")


def _metric(column: Column) -> str:
    if column.key == "seconds":
        return "seconds"
    metric, _, tempered = column.key.partition("_")
    return f"test{'_tempered' if tempered else ''}/fused/{metric}"
