"""The page of the committed results: every table with its numbers, for everyone, and no link that leads nowhere."""

import csv
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from multimodal_loss.report import main, page_of_results
from multimodal_loss.reporting.analysis.fill import as_read
from multimodal_loss.reporting.formats.cells_csv import from_csv
from multimodal_loss.reporting.layouts import all_layouts

COMMITTED = Path(__file__).parents[1] / "outputs" / "results"
VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})


class Page(HTMLParser):
    """Elements in order with their attributes and text, and the rows of the tables of results by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[tuple[str, str]] = []
        self.section, self.in_results = "", False
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag == "section":
            self.section = str(values["id"])
        if tag == "table":
            self.in_results = values.get("class") == "results"
        if tag == "tr" and self.in_results:
            self.rows.setdefault(self.section, []).append([])
        if tag in ("th", "td") and self.in_results:
            self.rows[self.section][-1].append("")
        if tag not in VOID:
            self.open.append((tag, str(values.get("class"))))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        """Of a cell what is not small print."""
        tags = [tag for tag, _ in self.open]
        if self.in_results and {"th", "td"} & set(tags) and "small" not in tags:
            self.rows[self.section][-1][-1] += data.strip()

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [values for tag, values in self.elements if tag == name]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of_results(COMMITTED, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page(built.read_text(encoding="utf-8"))


def test_every_number_on_the_page_is_that_of_the_committed_cells(page: Page) -> None:
    stored = sorted(COMMITTED.glob("*/cells.csv"))
    assert len(stored) > 10
    for path in stored:
        layout = all_layouts()[path.parent.name]
        lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        shown: dict[str, list[list[str]]] = {}  # by title; under different headings there may be several of one title
        for cells in page.rows[layout.name]:
            shown.setdefault(re.sub(r" ?\[\d+\]$", "", cells[0]), []).append(cells)  # without a mark of a note
        table = as_read(from_csv(layout, path.read_text(encoding="utf-8")))
        turned, compared = table.layout is not layout, 0
        for line in lines:
            row, column = (line["column"], line["row"]) if turned else (line["row"], line["column"])
            (title,) = {one.title for one in table.layout.rows if one.key == row}
            (head,) = [one for one in table.layout.columns if one.key == column]
            alike = [one.key for one in table.layout.rows if one.title == title]
            header = next(cells for cells in page.rows[layout.name] if cells and cells[0] == table.layout.corner)
            filled = {one["row" if turned else "column"] for one in lines if one["mean"]}
            heads = [one.key for one in table.layout.columns if one.title == head.title and one.key in filled]
            places = [place for place, text in enumerate(header) if text == head.title]
            if line["mean"] and len(places) == len(heads):  # under different headings there may be several of one title
                text = shown[title][alike.index(row)][places[heads.index(column)]]
                text = text.rstrip("\N{BLACK STAR}\N{WHITE STAR} ")
                mean, _, sd = text.replace("\N{MINUS SIGN}", "-").partition(" \N{PLUS-MINUS SIGN} ")
                assert abs(float(mean) - float(line["mean"])) <= 0.5001 * 10**-head.decimals, (layout.name, line)
                assert not line["sd"] or abs(float(sd) - float(line["sd"])) <= 0.5001 * 10**-head.decimals
                compared += 1
        assert compared > 0, layout.name


def test_no_link_leads_nowhere(page: Page, built: Path) -> None:
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    for values in page.all("a"):
        href = str(values["href"])
        if href.startswith("#"):
            assert href[1:] in ids, href
        elif "://" not in href:
            assert (built.parent / href).exists(), href


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert {"header", "nav", "main"} <= {tag for tag, _ in page.elements}
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("img") and all(len(str(values["alt"])) > 30 for values in page.all("img"))
    assert all(values.get("scope") for values in page.all("th"))
    assert len(page.all("caption")) == len([one for one in page.all("table") if one.get("class") == "results"])


def test_pictures_are_inside_and_nothing_is_loaded(page: Page) -> None:
    assert {str(values["src"])[:22] for values in page.all("img")} == {"data:image/png;base64,"}
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)
    assert len(page.all("img")) == len(list(COMMITTED.glob("*/*.png")))


def test_tables_that_are_not_computed_are_lines_of_one_list(page: Page, built: Path) -> None:
    absent = built.read_text(encoding="utf-8").partition('<section id="absent">')[2].partition("</section>")[0]
    missing = [one for one in all_layouts().values() if one.profile == "full" and one.name not in page.rows]
    assert absent.count("<li>") == len([one for one in missing if not (COMMITTED / one.name / "cells.csv").exists()])
    assert "make reproduce-table-3" in absent


def test_what_people_and_runs_wrote_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "results" / "table_1"
    shutil.copytree(COMMITTED / "table_1", folder)
    cells = (folder / "cells.csv").read_text(encoding="utf-8").splitlines()
    at = cells[0].split(",").index("note")
    parts = cells[1].split(",")
    parts[at] = evil
    (folder / "cells.csv").write_text("\n".join([cells[0], ",".join(parts), *cells[2:]]), encoding="utf-8")
    notes = f"## A {evil} heading\n\n[x](javascript:alert(1)) {evil} <img src=x onerror=alert(1)>\n"
    (folder / "README.md").write_text(f"<!-- notes:begin -->\n{notes}<!-- notes:end -->\n", encoding="utf-8")
    (folder / "overview.png").unlink()
    text = page_of_results(tmp_path / "results", tmp_path / "page").read_text(encoding="utf-8")
    assert "<script" not in text and 'href="javascript' not in text and "onerror=alert(1)&gt;" in text
    assert text.count("&lt;script&gt;alert(1)") >= 3
    Page(text)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from-results", str(tmp_path / "none"), "--output", str(tmp_path / "page")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "page").exists()
