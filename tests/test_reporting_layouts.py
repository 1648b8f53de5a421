"""The expected cells: all there, each with the paper's number, and named as the experiments' sweeps name them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from multimodal_loss.configuration import run_name
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.layouts import APPENDIX_B_MAX_EPOCHS, LAYOUTS
from multimodal_loss.reporting.layouts.base import Overrides

CONF = Path(__file__).parents[1] / "conf" / "experiment"
EXPERIMENTS = {
    "table_1": ("table_1", "table_1_unimodal"),
    "appendix_b": ("appendix_b", "appendix_b_unimodal"),
    "table_1_data_seeds": ("table_1_data_seeds",),
    "table_1_readings": tuple(f"table_1_readings{part}" for part in ("", "_beta", "_unimodal", "_proxies", "_tau")),
    "quick": ("quick", "quick_unimodal"),
}


def plain(key: str, value: str) -> tuple[str, str]:
    """The same pair for 5e-3 and 0.005."""
    return key, f"{float(value):g}" if key == "trainer.lr" else value


def sweep(experiment: str) -> Iterator[frozenset[tuple[str, str]]]:
    """The overrides of each job of an experiment."""
    config = OmegaConf.load(CONF / f"{experiment}.yaml")
    params: dict[str, str] = {}
    for part in [*config.get("defaults", []), experiment]:
        params |= {str(k): str(v) for k, v in OmegaConf.load(CONF / f"{part}.yaml").hydra.sweeper.params.items()}
    choices = []
    for override in OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()]):
        swept = override.is_sweep_override()
        choices.append(list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()])
    for values in itertools.product(*choices):
        yield frozenset(plain(key, value) for key, value in zip(params, values, strict=True))


def swept(overrides: Overrides) -> frozenset[tuple[str, str]]:
    """A cell's overrides without what the whole experiment sets."""
    pairs = dict(override.split("=", 1) for override in overrides)
    return frozenset(plain(k, v) for k, v in pairs.items() if k not in ("experiment", "trainer.max_epochs"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_run_exactly_what_the_tables_expect(name: str) -> None:
    run = {job for experiment in EXPERIMENTS[name] for job in sweep(experiment)}
    assert run == {swept(overrides) for c in LAYOUTS[name].cells for overrides in (c.overrides, c.minus) if overrides}


def test_appendix_b_has_the_cap_of_its_experiment() -> None:
    assert OmegaConf.load(CONF / "appendix_b.yaml").trainer.max_epochs == APPENDIX_B_MAX_EPOCHS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_cells_overrides_name_the_run_of_the_sweep(name: str) -> None:
    experiment = EXPERIMENTS[name][-1]
    job = next(sweep(experiment))
    overrides = next(cell.run for cell in LAYOUTS[name].cells if swept(cell.run) == job)
    assert run_name(overrides) == run_name([f"experiment={experiment}", *(f"{key}={value}" for key, value in job)])


@pytest.mark.parametrize(
    ("name", "cells"),
    [("table_1", 27), ("appendix_b", 28), ("table_1_data_seeds", 36), ("table_1_readings", 30), ("quick", 10)],
)
def test_every_place_of_a_table_is_expected_once(name: str, cells: int) -> None:
    layout = LAYOUTS[name]
    places = [(cell.row, cell.column) for cell in layout.cells]
    assert len(places) == len(set(places)) == cells
    assert set(places) == {(row.key, column.key) for row in layout.rows for column in layout.columns}
    overrides = [cell.run for cell in layout.cells if not cell.minus]
    assert len(set(overrides)) == len(overrides)


def test_table_1_and_appendix_b_show_every_number_of_the_paper() -> None:
    for name, table in (("table_1", "1"), ("appendix_b", "B1")):
        keys = {cell.paper for cell in LAYOUTS[name].cells}
        assert keys == {key for key in paper_numbers() if key[0] == table}


def test_conditions_show_runs_of_the_table() -> None:
    for layout in LAYOUTS.values():
        known = {cell.run for cell in layout.cells}
        assert {shown.run for condition in layout.conditions for shown in condition.shown} <= known


def test_the_papers_numbers() -> None:
    numbers = paper_numbers()
    best = numbers["1", "noise_modalities=2", "multimodal/ACC"]
    assert (best.mean, best.sd, best.note) == (86.4, 0.7, "")
    unstated = numbers["B1", "proxy_anchor", "lr=5e-6"]
    assert (unstated.mean, unstated.sd) == (None, None)
    assert unstated.note == "did not converge in 100,000 iterations"


def test_the_quick_profile_says_what_it_is_not() -> None:
    layout = LAYOUTS["quick"]
    assert layout.title == "QUICK PROFILE: reduced data, not Table 1"
    assert layout.profile == "quick"
    assert all(cell.paper is None and cell.expected == 2 for cell in layout.cells)
