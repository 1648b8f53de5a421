"""Make a Weights & Biases workspace of the runs that tracker=wandb and scripts/wandb_summary.py logged.

    python scripts/wandb_dashboard.py --entity my-team      # needs `wandb login`
    python scripts/wandb_dashboard.py --json outputs/workspace.json        # what would be sent; no account, no network

Sections: tables beside the paper's, training by method, calibration, sweeps over K and the learning rate. Panels may be
changed there; run again, it makes another workspace. Exit codes: 0 made, 1 W&B failed, 2 bad arguments.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multimodal_loss.errors import UserError, one_line
from multimodal_loss.trackers import check_wandb

METHOD = "facts.method.title"
# What a sweep is drawn over: the key, whether its axis is logarithmic.
SWEPT = {"fusion.proxies_per_class": False, "fusion.gamma": True, "optimizer.lr": True}


def workspace(project: str, entity: str) -> Any:
    """The workspace as an object of wandb-workspaces, for its `save`."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    by_method: dict[str, Any] = {"groupby": wr.Config(METHOD), "groupby_aggfunc": "mean"}

    def bars(title: str, metric: str) -> Any:
        return wr.BarPlot(title=title, metrics=[wr.SummaryMetric(metric)], groupby_rangefunc="stddev", **by_method)

    def curve(title: str, metric: str) -> Any:
        named = {"title": title, "x": "Step", "y": [metric], "log_x": True, "title_x": "epoch"}
        return wr.LinePlot(**named, groupby_rangefunc="minmax", **by_method)

    def scatter(key: str, log: bool, metric: str) -> Any:
        # A search looks at validation; what the test part says stands beside it.
        named = {"title": f"{metric} against {key}", "x": wr.Config(key), "y": wr.SummaryMetric(metric)}
        return wr.ScatterPlot(**named, log_x=log)

    tables = [
        wr.WeavePanelSummaryTable(table_name="cells", layout=wr.Layout(w=24, h=12)),
        bars("Test accuracy by method (mean and standard deviation over replicates)", "test/fused/ACC"),
        bars("Test macro F1 by method", "test/fused/FM"),
        wr.WeavePanelSummaryTable(table_name="metrics", layout=wr.Layout(w=24, h=12)),
    ]
    training = [
        curve("Training loss", "train_loss"),
        *(curve(f"Monitored: {name}", name) for name in ("validation_NLL", "validation_loss", "validation_ACC")),
        bars("Epochs until the end", "epochs"),
        wr.MediaBrowser(title="Figure 4: probability of the true class", media_keys=["figure_4"], num_columns=2),
    ]
    calibration = [
        bars("Expected calibration error", "test/fused/ECE"),
        bars("Negative log-likelihood", "test/fused/NLL"),
        bars("Brier score", "test/fused/Brier"),
        bars("Confidence minus accuracy", "test/fused/confidence_gap"),
        wr.MediaBrowser(title="Reliability", media_keys=["reliability"], num_columns=2),
    ]
    sweeps = [scatter(key, log, f"{split}/fused/ACC") for key, log in SWEPT.items() for split in ("validation", "test")]
    named_sections = {
        "Tables beside the paper": tables,
        "Training by method": training,
        "Calibration": calibration,
        "Sweeps over K, gamma and the learning rate": sweeps,
    }
    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in named_sections.items()]
    return ws.Workspace(name="multimodal-loss", entity=entity, project=project, sections=sections)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = _parse(arguments)
        check_wandb()
        if importlib.util.find_spec("wandb_workspaces") is None:
            raise UserError("the dashboard needs the package wandb-workspaces: pip install 'multimodal-loss[viz]'")
        if options.json is None and not options.entity:
            raise UserError("give --entity, the team or user whose workspace it is (or --json FILE)")
        made = workspace(options.project, options.entity or "")
        if options.json is not None:
            content = made._to_model().model_dump(by_alias=True, exclude_none=True, mode="json")
            options.json.write_text(json.dumps(content, indent=1) + "\n")
            print(options.json)
        else:
            made.save()
            print(made.url)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # whatever W&B raises: no login, no network
        print(f"error: W&B failed: {one_line(f'{type(error).__name__}: {error}')}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--project", default="multimodal-loss", help="default: %(default)s")
    parser.add_argument("--entity", help="team or user")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there instead of sending it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
