"""What a backbone says of itself, and the file of weights that it starts from: in the run, its identity, its tables."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from rich.console import Console

from golden.fakes import fake_result, named_plan, write_run
from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import compose_config, planned_run
from multimodal_loss.errors import UserError
from multimodal_loss.reporting.analysis.fill import FilledTable, Runs, fill
from multimodal_loss.reporting.formats import saved
from multimodal_loss.reporting.formats.cells_csv import cells_csv, from_csv
from multimodal_loss.reporting.formats.latex import latex
from multimodal_loss.reporting.formats.markdown import markdown
from multimodal_loss.reporting.formats.page import Section
from multimodal_loss.reporting.formats.terminal import print_table
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row
from multimodal_loss.results.collect import read_runs
from multimodal_loss.training.run import run

NOTICE = "drawn, not trained before"
OTHER = "the backbone of test_backbone_facts"


class Started(MLP):
    """An MLP that could start from a file of weights."""

    def __init__(self, pretrained: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.pretrained = pretrained

    def description(self) -> Mapping[str, str]:
        return {"kind": OTHER} | ({} if self.pretrained else {"notice": NOTICE})


def config(tiny: list[str], pretrained: Path | None) -> DictConfig:
    given = [f"+backbone.pretrained={'null' if pretrained is None else pretrained}"]
    return compose_config(
        [*tiny, "fusion=sum_ce", "trainer.max_epochs=2", "backbone._target_=test_backbone_facts.Started", *given]
    )


def test_a_notice_is_printed_once_a_run_and_stored(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    directory = run(config(tiny, None))
    assert json.loads(directory.result.read_text())["backbone"] == {"kind": OTHER, "notice": NOTICE}
    assert capsys.readouterr().err.splitlines().count(f"warning: {directory.path.name[:-11]}: {NOTICE}") == 1
    run(config(tiny, None))
    assert NOTICE not in capsys.readouterr().err


def test_a_backbone_without_a_description_has_an_empty_one(tiny: list[str]) -> None:
    directory = run(compose_config([*tiny, "fusion=sum_ce", "trainer.max_epochs=2"]))
    assert json.loads(directory.result.read_text())["backbone"] == {}


def test_a_run_knows_its_pretrained_weights_by_the_files_name_and_content(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a" / "face.tar", tmp_path / "b" / "face.tar"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text("the same weights")
    directory = run(config(tiny, first))
    assert NOTICE not in capsys.readouterr().err
    done = directory.result.read_bytes()
    assert run(config(tiny, second)).result.read_bytes() == done
    second.write_text("other weights")
    assert run(config(tiny, second)).path == directory.path and directory.result.read_bytes() != done
    assert "the data or pretrained weights changed after" in capsys.readouterr().err
    assert run(config(tiny, None)).path != directory.path


def test_a_file_of_weights_that_is_not_there_is_one_line_and_leaves_nothing(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone.pretrained=.*none.tar: cannot be read \(No such file") as caught:
        run(config(tiny, tmp_path / "none.tar"))
    assert "\n" not in str(caught.value)
    runs = Path(next(o for o in tiny if o.startswith("output_dir=")).partition("=")[2])
    assert not runs.exists() or not any(runs.iterdir())


def test_the_released_files_folder_does_not_count_and_its_name_does() -> None:
    def hash_of(*overrides: str) -> str:
        return planned_run(["backbone=intermediate_attention", *overrides]).hash

    named = [hash_of(f"backbone.pretrained={path}") for path in ("face.tar", "/x/y/face.tar", "other.tar")]
    assert named[0] == named[1] and len({hash_of(), *named}) == 3


# --- in tables

ROWS = {"drawn": NOTICE, "also": NOTICE, "trained": None, "lost": None}


def layout() -> Layout:
    cells = tuple(Cell(name, "ACC", (name,)) for name in ROWS)
    rows = tuple(Row(name, f"Title of {name}") for name in ROWS)
    return Layout("t", "A title", "A description.", "make t", rows, (Column("ACC", "ACC"),), cells)


def filled(folder: Path, *names: str) -> FilledTable:
    for name in names:
        write_run(folder / f"run-{name}", fake_result([0.9] * 5, backbone={"notice": ROWS[name]}))
    return fill(layout(), Runs(read_runs(folder), named_plan))


def test_a_table_names_the_rows_of_a_notice_unless_they_are_all_that_were_run(tmp_path: Path) -> None:
    assert filled(tmp_path, "drawn", "also").notice == "Drawn, not trained before."
    assert filled(tmp_path, "trained").notice == "Drawn, not trained before: Title of drawn, Title of also."
    assert filled(tmp_path / "none").notice == "" and filled(tmp_path / "one", "trained").notice == ""


def test_every_form_of_a_table_says_it(tmp_path: Path) -> None:
    table = filled(tmp_path, "drawn", "also")
    console = Console(file=io.StringIO(), width=110)
    print_table(console, table, "")
    assert isinstance(console.file, io.StringIO)
    for text in (markdown(table), latex(table), console.file.getvalue()):
        assert text.count("Drawn, not trained before.") == 1
    again = from_csv(table.layout, cells_csv(table), "", table.notices)
    assert again.notice == table.notice


def test_committed_results_keep_it(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    section = Section(filled(tmp_path / "runs", "drawn"), [], [], [], {})
    for name, content in saved.files(section, tmp_path / "t"):
        (tmp_path / "t" / name).write_bytes(content)
    pages = dict(saved.readmes(tmp_path, {"t": layout()}))
    assert "Drawn, not trained before." in pages[tmp_path / "t" / "README.md"]
