"""Table 2: emotions from sound and face, RAVDESS, in both readings of its classes and with either start of the trunk.

The quick profile runs on a few generated clips, which are not RAVDESS: its dataset has another name.
"""

from collections.abc import Iterator
from functools import partial

from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.figures.activities import Words, pictures
from multimodal_loss.reporting.figures.runs import figure_4, training_curves
from multimodal_loss.reporting.figures.tables import overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, PaperKey, Row, Shown
from multimodal_loss.reporting.layouts.conf import method_title, swept

DATASET = "ravdess"
PRETRAINED = "EfficientFace_Trained_on_AffectNet7.pth.tar"  # the name counts, wherever the file lies
READINGS = {"merge": "", "eight": "eight classes"}
COLUMNS = tuple(Column(metric, metric, decimals=2) for metric in ("ACC", "FM", "FW", "MCC"))
# The paper's name of a row, where it is not the method's.
ROWS = {
    "unimodal_1": "MULT/audio",
    "unimodal_2": "MULT/video",
    "sum_ce_logits": "sum_ce",
    "joint_head": "nn_ce",
    "mulmix_product": "mulmix",
}
ALONE = {"unimodal_1": "Audio alone", "unimodal_2": "Video alone"}
PICTURES = (
    partial(figure_4, number=6),
    partial(
        pictures,
        featured=("joint_head", "sum_ce_logits", "multimodal"),  # where there is room for few methods
        inputs=("multimodal", "sum_ce_logits"),
        words=Words("modality", "modalities", "an emotion", "clips", "folds"),
        timeline=False,
    ),
    training_curves,
)


def layouts() -> list[Layout]:
    return [
        *(table_2(classes, pretrained) for pretrained in (True, False) for classes in READINGS),
        quick_table_2(),
    ]


def table_2(classes: str, pretrained: bool) -> Layout:
    name = "_".join(["table_2", *([] if pretrained else ["scratch"]), *([] if classes == "merge" else [classes])])
    variant = ", ".join(filter(None, ["Table 2", READINGS[classes], "" if pretrained else "trunk from scratch"]))
    both = paper_numbers()["2", "MULT/audio_video", "ACC"].mean
    command = "make reproduce-table-2" + (" RAVDESS_CLASSES=eight" if classes == "eight" else "")
    return Layout(
        name=name,
        title=f"{variant}: emotions from sound and face, RAVDESS",
        description="ACC, macro F1 (FM), weighted F1 (FW) and Matthews correlation (MCC) in percent over five folds of "
        "actors; Intermediate Attention, with a score for sound and one for video. The paper says seven classes and "
        "1,440 clips, which fit together only if neutral counts as calm. NN + CE is the network's own head. The paper "
        f"quotes the rows of one modality from the network's authors, as it does {both:.2f} (ACC) for both; they may "
        "be of a network trained on both whose other input is missing, and of other folds.",
        command=command + (f" PRETRAINED=.../{PRETRAINED}" if pretrained else ""),
        rows=_rows("table_2"),
        columns=COLUMNS,
        cells=tuple(_cells("table_2", classes, pretrained)),
        conditions=(_condition("table_2", name, variant, classes, pretrained),),
        corner="Method",
        dataset=DATASET,
        compared="ACC",
        pictures=(overview,),
        offered=pretrained and classes == "merge",
    )


def quick_table_2() -> Layout:
    name = "quick_table_2"
    return Layout(
        name=name,
        title="QUICK PROFILE, GENERATED DATA, NOT RAVDESS: the chain of Table 2",
        description="A short run of the whole chain on a few clips that a script draws, with the names and formats of "
        "RAVDESS: small pictures, a small network, few epochs, one fold. Sound and picture tell different halves of a "
        "class. Its numbers show that the installation works and say nothing about RAVDESS, the paper or the methods. "
        "Percent.",
        command="make quick-table-2",
        rows=_rows(name),
        columns=COLUMNS,
        cells=tuple(_cells(name)),
        conditions=(_condition(name, name, "Generated data, not RAVDESS"),),
        profile="quick",
        corner="Method",
        dataset="ravdess_like",
        notice="QUICK PROFILE, GENERATED DATA, NOT RAVDESS",
    )


def _rows(name: str) -> tuple[Row, ...]:
    return tuple(Row(_key(method), _title(method)) for method in _methods(name))


def _cells(name: str, classes: str = "", pretrained: bool = False) -> Iterator[Cell]:
    for method in _methods(name):
        for column in COLUMNS:
            yield Cell(
                _key(method),
                column.key,
                _run(name, method, classes, pretrained),
                metric=f"test/fused/{column.key}",
                paper=_paper(method, column.key) if classes else None,
            )


def _condition(name: str, key: str, title: str, classes: str = "", pretrained: bool = False) -> Condition:
    shown = (
        Shown(method, _title(method), _run(name, method, classes, pretrained), "Each alone" if method in ALONE else "")
        for method in _methods(name)
    )
    return Condition(key, title, tuple(shown), PICTURES)


def _methods(name: str) -> list[str]:
    """The sweep's, and sound alone: its network has no trunk, so that one run serves both starts of it."""
    return list(dict.fromkeys(["unimodal_1", *swept(name, "method")]))


def _paper(method: str, metric: str) -> PaperKey | None:
    """None where it prints a dash."""
    key = ("2", _key(method), metric)
    return key if paper_numbers()[key].mean is not None else None


def _title(method: str) -> str:
    return ALONE.get(method) or method_title(method).partition(",")[0].partition(" (")[0]


def _key(method: str) -> str:
    return ROWS.get(method, method)


def _run(name: str, method: str, classes: str, pretrained: bool) -> Overrides:
    trunk = (f"backbone.pretrained={PRETRAINED}",) if pretrained and method != "unimodal_1" else ()
    reading = (f"dataset.classes={classes}",) if classes else ()
    return (f"experiment={name}", *reading, *trunk, f"method={method}")
