"""The command: from a folder of runs to tables, figures, one page that needs no network, and the committed results."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from conftest import ROOT
from golden.fakes import fake_name, fake_plan, fake_predictions, fake_result, write_curves, write_predictions, write_run
from multimodal_loss import report as command
from multimodal_loss.errors import UserError
from multimodal_loss.report import main, report
from multimodal_loss.reporting.layouts import all_layouts

LAYOUTS = all_layouts()
SHOWN = ("unimodal_m1", "unimodal_m2", "sum_ce", "multimodal")


def overrides(name: str, row: str, column: str) -> tuple[str, ...]:
    return next(cell.run for cell in LAYOUTS[name].cells if (cell.row, cell.column) == (row, column))


def write_table_1(runs: Path) -> None:
    """Some cells of the row with two noisy modalities, one of them failed with a hostile message."""
    for column in SHOWN:
        modalities = [column.removeprefix("unimodal_")] if column.startswith("unimodal") else ["m1", "m2", "m3"]
        run = runs / fake_name(overrides("table_1", "noisy_modalities=2", column))
        result = fake_result([0.86, 0.87, 0.85, 0.86, 0.88], modalities, proxies=column == "multimodal")
        write_run(run, result)
        write_predictions(run, fake_predictions([(0.86, 0.54, 0.54, 0.87)[-len(modalities) - 1 :]] * 2, samples=100))
        write_curves(run, replicates=2)
    failed = runs / fake_name(overrides("table_1", "noisy_modalities=2", "nn_ce"))
    write_run(
        failed, fake_result([], status="failed", error="</td><script>alert('x')</script> & more of the same text")
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/, report/ and results/."""
    folder = tmp_path_factory.mktemp("built")
    write_table_1(folder / "runs")
    page = report(folder / "runs", folder / "report", (), folder / "results", plan=fake_plan, console=quiet())
    assert page == folder / "report" / "index.html"
    return folder


def quiet() -> Console:
    return Console(file=io.StringIO(), width=110)


class Page(HTMLParser):
    """Collects what the page would load, and checks that every element is closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.loads += [str(values[name]) for name in ("src", "srcset", "data", "poster") if name in values]
        self.links += [str(values["href"])] if tag == "a" else []
        self.ids += [str(values["id"])] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained(built: Path) -> None:
    text = (built / "report" / "index.html").read_text()
    page = Page(text)
    assert {"link", "script", "iframe", "object"}.isdisjoint(page.tags)
    assert page.loads and all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert {link for link in page.links if link.startswith("#")} <= {f"#{name}" for name in page.ids}
    for link in page.links:
        assert link.startswith("#") or link == "https://arxiv.org/abs/2308.10486" or (built / "report" / link).is_file()


def test_the_page_shows_ours_beside_the_paper_and_what_is_missing(built: Path) -> None:
    text = (built / "report" / "index.html").read_text()
    assert "86.4 ± 1.1" in text and "paper 86.4 ± 0.7" in text
    assert "4 of 27 cells are complete" in text
    assert text.count('class="missing') == 22
    assert "make reproduce-table-1" in text
    assert "python -m multimodal_loss.train experiment=table_1 dataset.noisy_modalities=0 method=unimodal_1" in text
    assert "Appendix B" in text[text.index('<section id="absent">') :]
    for word in ("Calibration", "confidence gap", "Reliability", "Training curves", "Figure 4", "Proxies"):
        assert word in text
    for word in ("0123456789abcdef", "2.14.1", "an example CPU", "2026-01-01T10:05:00"):
        assert word in text[text.index('id="provenance"') :]


def test_what_a_run_says_is_escaped(built: Path) -> None:
    text = (built / "report" / "index.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text
    assert "<script" not in (built / "report" / "table_1.md").read_text()


def test_the_report_is_the_same_when_built_again(built: Path, tmp_path: Path) -> None:
    report(built / "runs", tmp_path, ["table_1"], plan=fake_plan, console=quiet())
    for file in ("table_1.md", "table_1.tex", "table_1.csv", "figures/figure_4_noisy_modalities_2.svg"):
        assert (tmp_path / file).read_bytes() == (built / "report" / file).read_bytes()
    assert not [path for path in tmp_path.rglob(".*")], "temporary files are left"


def test_saved_results_are_small_and_say_what_they_are(built: Path) -> None:
    folder = built / "results" / "table_1"
    assert {path.name for path in (built / "results").iterdir()} == {"table_1", "README.md"}
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "cells.csv",
        "environment.json",
        "modalities.csv",
        "overview.png",
        "figure_4_noisy_modalities_2.png",
    }
    modalities = (folder / "modalities.csv").read_text().splitlines()
    assert modalities[0] == "condition,method,replicate_id,modality,prediction,ACC,NLL,Brier,ECE,entropy,confidence_gap"
    assert modalities[1] == "noisy_modalities_2,Unimodal m1,0,m1,softmax,0.86,0.14,0.21,0.02,0.3,0.01"
    assert len(modalities) == 1 + 5 * (1 + 1 + 4 + 4)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 500_000
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["note"] == "23 of 27 cells are not complete"
    assert environment["git"] == "0123456789abcdef"
    assert environment["versions"]["torch"] == "2.14.1"
    assert environment["training_seconds"] == pytest.approx(4 * 64.5)


def test_without_runs_every_cell_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path / "none"), "--output", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(tmp_path / "report" / "index.html")
    assert "make reproduce-table-1" in printed
    text = (tmp_path / "report" / "index.html").read_text()
    assert text.count('class="missing') == 27
    assert "0 of 27 cells are complete" in text
    Page(text)


def test_damaged_predictions_and_histories_leave_the_tables_alone(tmp_path: Path) -> None:
    write_table_1(tmp_path / "runs")
    for run in (tmp_path / "runs").iterdir():
        (run / "predictions.npz").write_bytes(b"PK\x03\x04 not much of an archive")
        (run / "history.csv").write_text("nothing,of,use\n")
    report(tmp_path / "runs", tmp_path / "report", ["table_1"], plan=fake_plan, console=quiet())
    text = (tmp_path / "report" / "index.html").read_text()
    assert "86.4 ± 1.1" in text and "Calibration" in text
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == ["table_1_overview.svg"]


def test_the_quick_profile_stands_alone_and_is_labelled(tmp_path: Path) -> None:
    run = tmp_path / "runs" / fake_name(overrides("quick", "noisy_modalities=2", "multimodal"))
    write_run(run, fake_result([0.8, 0.9], profile="quick"))
    page = report(tmp_path / "runs", tmp_path / "report", ["quick"], plan=fake_plan, console=quiet())
    assert "QUICK PROFILE" in page.read_text() and "85.0 ± 7.1" in page.read_text()
    full = report(tmp_path / "runs", tmp_path / "full", plan=fake_plan, console=quiet())
    assert (
        "Your runs: synthetic title, quick profile" in full.read_text() and '<section id="table' not in full.read_text()
    )
    for names, results in ((["quick", "table_1"], None), (["quick"], tmp_path / "results")):
        with pytest.raises(UserError, match="quick profile is reported alone"):
            report(tmp_path / "runs", tmp_path / "report", names, results, plan=fake_plan, console=quiet())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tables", "table_99"],
        ["--no-such-option"],
        ["--runs"],
        ["--runs", __file__],
        ["--tables", "quick", "table_1"],
        ["--from-results", str(ROOT / "outputs" / "results"), "--tables", "table_1"],
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_gives_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--runs", str(tmp_path / "none"), "--output", str(tmp_path / "file" / "below")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_picture_that_fails_to_write_leaves_the_old_page(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (built / "report" / "index.html").read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_atomically", no_space)
    with pytest.raises(OSError, match="No space"):
        report(built / "runs", built / "report", plan=fake_plan, console=quiet())
    assert (built / "report" / "index.html").read_bytes() == before


def test_the_screen_shows_the_table(tmp_path: Path) -> None:
    write_table_1(tmp_path / "runs")
    console = quiet()
    report(tmp_path / "runs", tmp_path / "report", ["table_1"], plan=fake_plan, console=console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert re.search(r"MultiModal .* 86\.4 ± 1\.1", printed)
    assert "paper 86.4 ± 0.7" in printed and "</td><script>" in printed
    assert max(map(len, printed.splitlines())) <= 110
