"""Beyond the paper: the audio branch of Table 2's network alone on RAVDESS, the control of a leak, and each actor."""

from collections.abc import Iterator

from multimodal_loss.reporting.figures.runs import training_curves
from multimodal_loss.reporting.figures.tables import overview
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Overrides, Row, Shown
from multimodal_loss.reporting.layouts.conf import swept

METRICS = ("ACC", "FM", "FW", "MCC")
READINGS = {"merge": "7 classes, neutral counts as calm", "eight": "8 classes"}
LABELS = {"false": "Audio branch alone", "true": "Control: each actor's labels dealt at random"}
ACTORS = range(1, 25)


def layouts() -> list[Layout]:
    return [table_2_audio(), table_2_audio_actors()]


def table_2_audio() -> Layout:
    places = [(classes, permuted) for permuted in LABELS for classes in swept("table_2_audio", "dataset.classes")]
    return Layout(
        name="table_2_audio",
        title="The audio branch of Table 2 alone, RAVDESS",
        description="Test metrics in percent over five folds of actors, sample standard deviation: 10 MFCC, four "
        "convolutions, cross-entropy, the schedule of the network's released code. The paper quotes its number for "
        "sound from the network's authors, who split the actors otherwise; it may be of a network trained on sound and "
        "picture: here it is a reference. Chance, by the most frequent class: 20.0 with 7 classes, 13.3 with 8. In the "
        "control there is nothing to learn that another actor shares: more than chance would be a leak.",
        command="make reproduce-table-2-audio",
        rows=tuple(Row(_key(*place), READINGS[place[0]], LABELS[place[1]]) for place in places),
        columns=tuple(Column(metric, metric, decimals=2) for metric in METRICS),
        cells=tuple(
            Cell(
                _key(classes, permuted),
                metric,
                _run(classes, permuted),
                f"test/fused/{metric}",
                ("2", "MULT/audio", metric) if permuted == "false" and metric == "ACC" else None,
            )
            for classes, permuted in places
            for metric in METRICS
        ),
        conditions=tuple(
            Condition(
                f"table_2_audio_{classes}",
                title,
                tuple(Shown(permuted, LABELS[permuted], _run(classes, permuted)) for permuted in LABELS),
                (training_curves,),
            )
            for classes, title in READINGS.items()
        ),
        corner="Classes",
        dataset="ravdess",
        reference=True,
        pictures=(overview,),
    )


def table_2_audio_actors() -> Layout:
    return Layout(
        name="table_2_audio_actors",
        title="The audio branch alone, actor by actor, RAVDESS",
        description="Test accuracy in percent on the 60 clips of each actor, by the network of the one fold that was "
        "trained without that actor. Odd numbers are men, even ones women.",
        command="make reproduce-table-2-audio",
        rows=tuple(Row(f"actor_{actor:02}", f"Actor {actor:02}") for actor in ACTORS),
        columns=tuple(Column(classes, title.partition(",")[0]) for classes, title in READINGS.items()),
        cells=tuple(_of_actors()),
        corner="Actor",
        dataset="ravdess",
    )


def _of_actors() -> Iterator[Cell]:
    for actor in ACTORS:
        for classes in READINGS:
            row = f"actor_{actor:02}"
            yield Cell(row, classes, _run(classes, "false"), f"test_{row}/fused/ACC", of_every_replicate=False)


def _key(classes: str, permuted: str) -> str:
    return f"{classes}/permuted" if permuted == "true" else classes


def _run(classes: str, permuted: str) -> Overrides:
    method = swept("table_2_audio", "method")[0]
    overrides = (f"dataset.permuted_labels={permuted}", f"dataset.classes={classes}", f"method={method}")
    return ("experiment=table_2_audio", *overrides)
