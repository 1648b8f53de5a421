"""The golden sweep: a small table with cells in every state, and the files that it must give, byte for byte.

After a deliberate change of the tables:  PYTHONPATH=src:tests python -m golden.regenerate && git diff tests/golden
"""

import shutil
from pathlib import Path

from golden.fakes import fake_facts, fake_name, fake_result, fake_runs, write_run
from multimodal_loss.reporting.analysis.fill import FilledTable, fill
from multimodal_loss.reporting.formats.cells_csv import cells_csv
from multimodal_loss.reporting.formats.latex import latex
from multimodal_loss.reporting.formats.markdown import markdown
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row

FOLDER = Path(__file__).parent
SWEEP = FOLDER / "sweep"
METHODS = ("unimodal_m1", "sum_ce", "nn_ce", "soft_triple", "multimodal")


def _overrides(noise: int, method: str) -> tuple[str, ...]:
    return (f"noisy={noise}", f"method={method}")


LAYOUT = Layout(
    name="golden",
    title="A table of examples & special_characters",
    description="One cell in each state; 100 % made up.",
    command="python -m golden.regenerate",
    rows=(Row("noisy=0", "none", "Noise", "data seed 7"), Row("noisy=2", "two", "Noise", "data seed 0")),
    columns=(
        Column("unimodal_m1", "m1", group="Unimodal"),
        *(Column(method, method) for method in METHODS[1:]),
        Column("lead", "lead", signed=True, decimals=2),
    ),
    cells=tuple(
        cell
        for noise in (0, 2)
        for cell in (
            *(
                Cell(f"noisy={noise}", m, _overrides(noise, m), paper=("1", f"noise_modalities={noise}", f"{m}/ACC"))
                for m in METHODS
            ),
            Cell(f"noisy={noise}", "lead", _overrides(noise, "multimodal"), minus=_overrides(noise, "sum_ce")),
        )
    ),
    corner="Data",
)


def write_sweep(folder: Path) -> None:
    """Complete, partial, failed, of another profile, capped; missing, unfinished, damaged, of another version."""

    def place(noise: int, method: str) -> Path:
        path = folder / fake_name(_overrides(noise, method))
        path.mkdir(parents=True)
        return path

    write_run(place(0, "unimodal_m1"), fake_result([0.861, 0.8615, 0.8605, 0.862, 0.86], ["m1"]))
    write_run(place(0, "sum_ce"), fake_result([0.93, 0.932, 0.9271]))
    failed = fake_result([], status="failed", error="loss is NaN | <b>replicate_2</b>, 50 % of {$x} at\nepoch 7\\8")
    write_run(place(0, "nn_ce"), failed)
    write_run(place(0, "soft_triple"), fake_result([0.9] * 5, profile="quick"))
    capped = fake_result([0.99, 0.985, 0.98, 0.99, 0.9])
    for replicate in capped["replicates"][:2]:
        replicate["stopped"] = "max_epochs"
    write_run(place(0, "multimodal"), capped)

    (place(2, "sum_ce") / "config.yaml").write_text("# killed before it ended\n")
    (place(2, "nn_ce") / "result.json").write_text('{"schema": 2, "status": "do')
    write_run(place(2, "soft_triple"), fake_result([0.6] * 5, schema=99))
    seeds = {"dataset": {"data_seed": 0}, "trainer": {"max_epochs": 500_000}, "facts": fake_facts()}
    write_run(place(2, "multimodal"), fake_result([0.87, 0.86, 0.88, 0.875, 0.865], config=seeds))


def filled(folder: Path = SWEEP) -> FilledTable:
    return fill(LAYOUT, fake_runs(folder))


def expected_files() -> dict[str, str]:
    table = filled()
    return {
        "expected.md": markdown(table),
        "expected.tex": latex(table),
        "expected.csv": cells_csv(table),
    }


if __name__ == "__main__":
    shutil.rmtree(SWEEP, ignore_errors=True)
    write_sweep(SWEEP)
    for name, text in expected_files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
