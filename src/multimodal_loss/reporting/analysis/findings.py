"""What is shown below a table for one data condition: its pictures, calibration, what is left of each modality's own
prediction, proxies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable, Runs
from multimodal_loss.reporting.figures.base import Picture, watermark
from multimodal_loss.reporting.layouts.base import Condition, Layout, Shown
from multimodal_loss.results.collect import Aggregate, Run, aggregate, is_number, lookup
from multimodal_loss.results.metrics import CALIBRATION_METRICS

FUSED = "fused"
SOFTMAX, READ_OUT = "softmax", "read-out"  # what a modality's own prediction is made of its scores by
CALIBRATION_COLUMNS = ("ACC", *CALIBRATION_METRICS)
PROXY_COUNTS = ("alive", "used", "distinct")
MOST_LISTED = 7  # modalities of one run in the calibration table
KEPT_METRICS = ("ACC", "NLL", "ECE")  # of a modality's own prediction, inside a fused model and alone
SOURCE_COLUMNS = ("condition", "method", "replicate_id", "modality", "prediction", *CALIBRATION_COLUMNS)
CALIBRATION_NOTE = (
    "Test split, fractions and nats, mean \N{PLUS-MINUS SIGN} sample standard deviation over replicates. NLL and Brier "
    "score (0 to 2) rank whole predictions, lower is better; ECE is the expected calibration error of the predicted "
    "class (15 bins); a positive confidence gap is over-confidence. A noisy modality should be unsure: its entropy is "
    "a virtue only if its accuracy is low."
)
CALIBRATION = ("Calibration", "Calibration", CALIBRATION_NOTE, ("Method", "Prediction of", *CALIBRATION_COLUMNS))
KEPT_NOTE = (
    "Is a modality's own prediction still of use after the fusion was trained? Its accuracy (fraction), NLL and ECE "
    "inside each fused model, read out of its scores by a logistic regression that is fitted to the training samples "
    "(of a run that stored no such read-out: the softmax of its scores), beside the network that was trained on this "
    "modality alone; the difference of the accuracies is formed replicate by replicate."
)
PROXIES_NOTE = (
    "Per class, mean ± sample standard deviation over replicates. Alive: not clamped to zero in every entry. Used: "
    "the nearest proxy of at least one training sample of its class. Distinct: clusters of proxies with a cosine above "
    "0.99."
)
Line = tuple[str, str, list[Aggregate]]  # method, what of it, and its numbers
Source = tuple[object, ...]  # one replicate's metrics of one prediction, a modality's own or the fused one


@dataclass(frozen=True)
class Detail:
    """A table of numbers that is folded up below the pictures. In a `signed` one the last column is a difference."""

    title: str
    summary: str
    note: str
    columns: Sequence[str]
    lines: Sequence[Line]
    decimals: int = 3
    signed: bool = False


@dataclass(frozen=True)
class Findings:
    """`pictures` lacks those for which nothing is stored; `note` says how to get them."""

    condition: Condition
    pictures: Sequence[Picture]
    details: Sequence[Detail]
    sources: Sequence[Source]
    note: str = ""


def findings(condition: Condition, layout: Layout, runs: Runs) -> Findings | None:
    """Everything that the finished runs of a condition show; None if there is none."""
    named = [(shown, runs.find(shown.run)) for shown in condition.shown]
    found = [(shown, run) for shown, run in named if run and run.state == "done" and run.profile == layout.profile]
    if not found:
        return None
    judged = found if condition.judged else []
    pictures = [picture for draw in condition.pictures for picture in draw(condition, found)]
    if layout.notice:
        for picture in pictures:
            watermark(picture.figure, layout.notice)
    sources = [line for shown, run in judged for line in per_replicate(condition.key, shown.label, run)]
    pairs = [f"{metric} {where}" for metric in KEPT_METRICS for where in ("inside", "alone")]
    alone = "Each modality's own prediction, inside a fused model and alone"
    details = (
        Detail(*CALIBRATION, calibration(sources)),
        Detail(
            *("Own predictions", alone, KEPT_NOTE),
            ("Method", "Modality", *pairs, "ACC difference"),
            kept(judged),
            signed=True,
        ),
        Detail(
            *("Proxies", "Proxies", PROXIES_NOTE),
            ("Method", "Class", *PROXY_COUNTS),
            [line for shown, run in found for line in proxies(shown.label, run)],
            decimals=1,
        ),
    )
    return Findings(
        condition,
        pictures,
        [detail for detail in details if detail.lines],
        sources,
        note="" if pictures else condition.without_pictures,
    )


def source_paths(run: Run) -> dict[tuple[str, str], str]:
    """Where each prediction's metrics are, by modality and what is made of its scores: their softmax and, where the run
    did so, what is read out of them. The fused one says nothing new where there is one modality.
    """
    paths = {}
    for name in run.modalities:
        paths[name, SOFTMAX] = f"test/modalities/{name}"
        if (own := own_path(run, name)) != paths[name, SOFTMAX]:
            paths[name, READ_OUT] = own
    return paths if len(run.modalities) == 1 else {**paths, (FUSED, ""): "test/fused"}


def own_path(run: Run, name: str) -> str:
    """Where a modality's own prediction has its metrics: read out of its scores, or, in older runs, their softmax."""
    read_out = f"test/read_out/{name}"
    return read_out if run.values(f"{read_out}/ACC") else f"test/modalities/{name}"


def calibration(sources: Iterable[Source]) -> list[Line]:
    """A line per method and prediction of which anything is known, over replicates; of a method only the fused one
    where there are too many to read.
    """
    found: dict[str, dict[tuple[str, str], list[Source]]] = {}
    for line in sources:
        found.setdefault(str(line[1]), {}).setdefault((str(line[3]), str(line[4])), []).append(line[5:])
    lines = []
    for method, of_method in found.items():
        few = len({source for source, _ in of_method} - {FUSED}) <= MOST_LISTED
        for (source, kind), metrics in of_method.items():
            values = [
                aggregate(float(str(one)) for one in metric if is_number(one)) for metric in zip(*metrics, strict=True)
            ]
            if (few or source == FUSED) and any(one.n for one in values):
                lines.append((method, f"{source}, read out" if kind == READ_OUT else source, values))
    return lines


def committed(layout: Layout, frame: pd.DataFrame) -> list[Findings]:
    """What stands in modalities.csv, by condition."""
    known = {condition.key: condition for condition in layout.conditions}
    found = []
    for key, lines in frame.groupby("condition", sort=False):
        sources = list(lines[list(SOURCE_COLUMNS)].itertuples(index=False, name=None))
        detail = Detail(*CALIBRATION, calibration(sources))
        condition = known.get(str(key), Condition(str(key), "", ()))
        found += [Findings(condition, [], [detail], sources)] if detail.lines else []
    return found


def kept(found: Sequence[tuple[Shown, Run]]) -> list[Line]:
    """A line for each modality of each fused model whose modality was also trained alone, on the same backbone; the
    difference of the accuracies, inside - alone, is formed replicate by replicate.
    """
    alone = {(_backbone(run), run.inputs[0]): run for _, run in found if len(run.inputs) == len(run.modalities) == 1}
    lines = []
    for shown, run in found:
        for name in run.modalities if len(run.inputs) > 1 else ():
            if other := alone.get((_backbone(run), name)):
                paths = own_path(run, name), own_path(other, other.modalities[0])
                first, second = run.values(f"{paths[0]}/ACC"), other.values(f"{paths[1]}/ACC")
                inside, outside = _aggregates(run, paths[0], KEPT_METRICS), _aggregates(other, paths[1], KEPT_METRICS)
                pairs = [one for pair in zip(inside, outside, strict=True) for one in pair]
                difference = aggregate(first[r] - second[r] for r in first if r in second)
                lines.append((shown.label, name, [*pairs, difference]))
    return lines


def per_replicate(condition: str, label: str, run: Run) -> list[Source]:
    """`SOURCE_COLUMNS` of each replicate and prediction."""
    lines: list[Source] = []
    for source, path in source_paths(run).items():
        metrics = [run.values(f"{path}/{metric}") for metric in CALIBRATION_COLUMNS]
        lines += [(condition, label, one, *source, *(m.get(one) for m in metrics)) for one in run.replicates]
    return lines


def sources_of_rows(table: FilledTable) -> list[Source]:
    """The same for a table that has no condition of its own: where a row is one run, that run's."""
    lines: list[Source] = []
    for row in table.layout.rows:
        cells = [cell for column in table.layout.columns if (cell := table[row, column])]
        run = cells[0].run if len({cell.cell.runs for cell in cells}) == 1 else None
        if run and run.state == "done":
            lines += per_replicate(table.layout.name, row.full_title, run)
    return lines


def sources_csv(lines: Sequence[Source]) -> str:
    """Fractions and nats, eight digits; empty where a metric is undefined."""
    frame = pd.DataFrame(lines, columns=list(SOURCE_COLUMNS))
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.8g")


def proxies(label: str, run: Run) -> list[Line]:
    """A line per class: how many of its proxies are alive, used and distinct, over replicates."""
    stored = [[lookup(replicate, f"proxies/{kind}") for replicate in run.replicates.values()] for kind in PROXY_COUNTS]
    counts = [[one for one in of_kind if isinstance(one, list) and all(map(is_number, one))] for of_kind in stored]
    classes = max((len(per_class) for kind in counts for per_class in kind), default=0)
    return [
        (label, title, [aggregate(one[c] for one in kind if c < len(one)) for kind in counts])
        for c, title in enumerate(run.class_names(classes))
    ]


def _aggregates(run: Run, path: str, metrics: Sequence[str]) -> list[Aggregate]:
    return [aggregate(run.values(f"{path}/{metric}").values()) for metric in metrics]


def _backbone(run: Run) -> str:
    return str(run.get("config/facts/backbone/name"))
