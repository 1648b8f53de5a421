"""Table 4: EPIC-KITCHENS-100, verbs from RGB and optical flow by X-Norm; the same fusions on features of frozen I3D.

The quick profile runs on generated clips, which are not EPIC-KITCHENS: its dataset has another name.
"""

from functools import partial

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.figures.activities import Words, pictures
from multimodal_loss.reporting.figures.runs import figure_4, training_curves
from multimodal_loss.reporting.figures.tables import overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, Row, Shown
from multimodal_loss.reporting.layouts.conf import method_title, swept

METRICS = ("ACC", "FM", "FW", "MCC")
ALONE = {"unimodal_1": ("i3d_rgb", "I3D RGB"), "unimodal_2": ("i3d_flow", "I3D flow")}
# Method to the paper's name of its row, where that is another.
PAPER_ROWS = {"sum_ce_logits": "sum_ce", "nn_ce_logits": "nn_ce", "weighted_sum_ce_30_70": "weighted_sum_ce"}
OURS = "multimodal"
PICTURES = (
    partial(
        pictures,
        featured=("unimodal_1", "unimodal_2", "sum_ce_logits", OURS),
        inputs=("sum_ce_logits", OURS),
        words=Words("modality", "modalities", "a verb", "clips", "seeds"),
        timeline=False,
    ),
    figure_4,
    training_curves,
)
METRICS_TEXT = (
    "ACC, macro F1 (FM), weighted F1 (FW) and Matthews correlation (MCC) in percent, eight verbs, each clip of 16 "
    "frames and 16 flow fields scored once. "
)


def layouts() -> list[Layout]:
    return [table_4(), table_4_frozen(), quick_table_4()]


def table_4() -> Layout:
    return _layout(
        "table_4",
        "Table 4: verbs in kitchen videos, EPIC-KITCHENS-100, 3 kitchens",
        METRICS_TEXT
        + "Five seeds. The paper quotes the two networks of one modality from X-Norm's article, one accuracy each.",
        "make reproduce-table-4",
        "epic",
    )


def table_4_frozen() -> Layout:
    return _layout(
        "table_4_frozen",
        "Beyond the paper: the fusions of Table 4 on features of frozen I3D. NOT Table 4",
        METRICS_TEXT
        + "Five seeds. Both I3D stay as they were trained on Kinetics and see the middle of each frame; only what "
        "follows their pools learns, and nothing is exchanged. An affordable comparison of the fusions: its numbers "
        "are no reproduction of Table 4, which trains all of X-Norm. The paper has none of them.",
        "make reproduce-table-4-frozen",
        "epic_features",
    )


def quick_table_4() -> Layout:
    return _layout(
        "quick_table_4",
        "QUICK PROFILE, GENERATED DATA, NOT EPIC-KITCHENS: the chain of Table 4",
        "A short run of the whole chain on clips that a script makes up in EPIC's formats: discs whose colour shows in "
        "RGB and whose motion shows in flow, of which a verb needs both. A narrow network, one seed. The numbers show "
        "that the installation works and say nothing about EPIC-KITCHENS, the paper or the methods. " + METRICS_TEXT,
        "make quick-table-4",
        "epic_like",
        profile="quick",
        notice="QUICK PROFILE, GENERATED DATA, NOT EPIC-KITCHENS",
    )


def fused_against_alone(table: FilledTable) -> str:
    """How many fused methods are above both modalities alone, and whether the paper's is; empty before these three
    are there.
    """
    means = {row: cell.mean for row in _keys(table) if (cell := table.cells[row, "ACC"]).mean is not None}
    alone = {title: means[row] for row, title in ALONE.values() if row in means}
    fused = {row: mean for row, mean in means.items() if row not in {row for row, _ in ALONE.values()}}
    if len(alone) < len(ALONE) or OURS not in fused:
        return ""
    best = max(mean for mean in alone.values() if mean is not None)
    above = [row for row, mean in fused.items() if mean is not None and mean > best]
    listed = ", ".join(f"{title} {mean:.1f}" for title, mean in alone.items())
    ours = f"MultiModal, with {fused[OURS]:.1f}, is{'' if OURS in above else ' NOT'} among them"
    counted = f"{len(above)} of {len(fused)} fused methods have a higher mean accuracy than both modalities alone"
    return f"{counted} ({listed}); {ours}."


def _keys(table: FilledTable) -> list[str]:
    return [row.key for row in table.layout.rows]


def _layout(
    name: str, title: str, description: str, command: str, dataset: str, profile: str = "full", notice: str = ""
) -> Layout:
    """A row for each method of the experiment of this name; the paper's numbers stand in the full Table 4 alone."""
    methods = swept(name, "method")
    shown = tuple(Shown(m, _title(m), _run(name, m), panel="One modality alone" if m in ALONE else "") for m in methods)
    return Layout(
        name=name,
        title=title,
        description=description,
        command=command,
        rows=tuple(Row(_row(m), _title(m), "One modality" if m in ALONE else "Both") for m in methods),
        columns=tuple(Column(metric, metric, decimals=2) for metric in METRICS),
        cells=tuple(
            Cell(
                _row(method),
                metric,
                _run(name, method),
                metric=f"test/fused/{metric}",
                paper=("4", _row(method), metric) if name == "table_4" else None,
            )
            for method in methods
            for metric in METRICS
        ),
        conditions=(
            Condition(name, "Generated clips, not EPIC-KITCHENS" if notice else "Test clips", shown, PICTURES),
        ),
        profile=profile,
        corner="Method",
        dataset=dataset,
        verdicts=(fused_against_alone,),
        pictures=() if notice else (overview,),  # which has no watermark
        notice=notice,
    )


def _row(method: str) -> str:
    return ALONE[method][0] if method in ALONE else PAPER_ROWS.get(method, method)


def _title(method: str) -> str:
    return ALONE[method][1] if method in ALONE else method_title(method)


def _run(name: str, method: str) -> Overrides:
    return (f"experiment={name}", f"method={method}")
