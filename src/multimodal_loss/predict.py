"""Predictions of a trained run for new samples.

    python -m multimodal_loss.predict run=<run directory> data=<folder or file> [output=<file.csv or file.parquet>]

data        of a run on tables: a folder with <modality>.csv or .parquet for each modality, as dataset=tables takes it;
            labels.csv is not needed, and gives an accuracy where it is there. Columns are found by their names. A run
            on one modality also takes its file alone. Of any other run: an .npz file with an array (samples, ...) for
            each modality, as its backbone takes them, and `ids` if they have names.
output      the file to write; by default the predictions are printed as CSV
replicate   the fold, or the seed, to predict with; by default the probabilities of all are averaged
calibrated  true: with the temperature that was fitted on validation samples
partial     true: also samples that lack a modality (their id is not in its file, or the file is not there)
device      auto (cuda, then mps, then cpu), or one of these
threads     torch's threads; by default the run's own

A row has the sample's id, the predicted class, the fused probability of each class, each modality's own, and the share
of each modality where the method has such weights. Exit codes: 0 written, 1 cannot be written, 2 what you can mend.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

from multimodal_loss.command import run_command
from multimodal_loss.errors import UserError, say
from multimodal_loss.options import Natural, Text, at_most, check_options
from multimodal_loss.prediction import check_output, load_run


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    options: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key in options:
            raise UserError(f"{argument}: give every option once, as key=value (--help lists them)")
        options[key] = text if key in ("run", "data", "output", "device") else _value(key, text)
    if absent := [key for key in ("run", "data") if key not in options]:
        raise UserError(f"give {' and '.join(f'{key}=...' for key in absent)} (--help says what)")
    check_options("", options, predict)
    predict(**options)
    return 0


def predict(
    run: Text,
    data: Text,
    output: Text | None = None,
    replicate: Natural | None = None,
    calibrated: bool = False,
    partial: bool = False,
    device: Text = "auto",
    threads: Annotated[int, at_most(1024, 1)] | None = None,
) -> None:
    """Write, or print, what a run says of new samples; its accuracy, where labels are there, on standard error."""
    if output is not None:
        check_output(Path(output))
    trained = load_run(run, device)
    if threads := threads or trained.threads:
        torch.set_num_threads(threads)
    predictions = trained.predict(data, replicate=replicate, calibrated=calibrated, partial=partial)
    if output is None:
        print(predictions.frame().to_csv(index=False), end="")
    else:
        predictions.write(output)
        print(output)
    if predictions.accuracy is not None:
        say(f"ACC {100 * predictions.accuracy:.1f} of {len(predictions.ids)} samples")
    if seen := trained.seen(predictions.ids, replicate):
        say(
            f"warning: {seen} of the ids are of samples that this was trained with: what is said of them is no test of "
            "it (replicate= takes one fold)"
        )


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{key}={text}: cannot be read") from error


if __name__ == "__main__":
    sys.exit(main())
