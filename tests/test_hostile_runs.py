"""One bad run never stops the report: it is named and left out, or what is hostile in it is nothing but text."""

import copy
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from golden.fakes import fake_result, write_curves, write_run
from multimodal_loss.configuration import compose_config
from multimodal_loss.report import report
from multimodal_loss.results.collect import read_predictions, read_run, read_runs
from multimodal_loss.results.run_directory import RunDirectory, damage
from multimodal_loss.training.run import run

HOSTILE: list[Any] = [[], {}, "text", 10**400, -1, True, 1e308, [[1]], {"a": {"b": []}}, "x" * 3000]
TEXTS = [
    "=HYPERLINK(\"http://example.org\")", "[x](javascript:alert(1))", "a|b\n|---|\n<script>alert(1)</script>",
    "\x1b[2J\x1b]0;title\a", "nul\0 and \ud800", "$\\frac{$ and `code`", "\u202egnp.exe", "@SUM(1)", "-1+1",
    "]]>&amp;<![CDATA[",
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every entry of a result, inner ones too."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(result: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    result = copy.deepcopy(result)
    node: Any = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result


def made(folder: Path, **options: Any) -> str:
    """What a report of the folder prints; its files lie in `report` beside it."""
    with (folder.parent / "said.txt").open("w+", encoding="utf-8") as said:
        report(folder, folder.parent / "report", console=Console(file=said, width=200), **options)
        said.seek(0)
        return said.read()


def test_entries_of_another_type_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = fake_result([0.9], modalities=["m1"], proxies=True, experiment=None)
    write_run(tmp_path / "runs" / "good-0000000000", good)
    for number, path in enumerate(places(good)):
        if "modalities" in path[:-1] or "validation" in path[:-1]:  # as fused, and as test
            continue
        value = HOSTILE[number % len(HOSTILE)]
        write_run(tmp_path / "runs" / f"bad-{number:010x}", changed(good, path, value))
    made(tmp_path / "runs")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "good-0000000000" in page or "mlp title" in page
    assert "unreadable" not in page or "is left out" in capsys.readouterr().err


def damaged(folder: Path) -> dict[str, str]:
    """Run directories that are broken in one way each, and what is said of them."""
    good = fake_result([0.9, 0.8])

    def write(name: str) -> Path:
        write_run(folder / name, good)
        return folder / name

    (write("deep") / "result.json").write_text('{"schema": 2, "a":' + "[" * 5000 + "]" * 5000 + "}")
    (write("deep_config") / "result.json").write_text(json.dumps({**good, "config": json.loads("[" * 40 + "]" * 40)}))
    (write("binary") / "result.json").write_bytes(b"\xff\xfe\0")
    (write("list") / "result.json").write_text("[]")
    (write("folder") / "result.json").unlink()
    (folder / "folder" / "result.json").mkdir()
    for name in ("gone", "shorter"):
        path = write(name)
        RunDirectory(path).write_predictions({0: {"target": np.zeros(3, int)}})
        (path / "history.csv").write_text("replicate_id,epoch,train_loss,seconds\n")
        (path / "config.yaml").write_text("profile: full\n")
        RunDirectory(path).write_result({key: value for key, value in good.items() if key != "schema"})
        assert damage(path, json.loads((path / "result.json").read_text())) == ""
    (folder / "gone" / "history.csv").unlink()
    (folder / "shorter" / "predictions.npz").write_bytes(b"PK")
    return {
        "deep": "cannot be read", "deep_config": "cannot be read", "binary": "cannot be read", "list": "mapping",
        "folder": "cannot be read", "gone": "history.csv cannot be read", "shorter": "predictions.npz is damaged",
    }  # fmt: skip


def test_damaged_runs_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = damaged(tmp_path / "runs")
    write_run(tmp_path / "runs" / "good", fake_result([0.9, 0.8]))
    foreign = os.fsencode(tmp_path / "runs") + b"/caf\xe9-1"  # a name that is no UTF-8
    os.mkdir(foreign)
    Path(os.fsdecode(foreign), "result.json").write_text("{")
    found = {run.path.name: run for run in read_runs(tmp_path / "runs")}
    for name, reason in expected.items():
        assert found[name].state == "unreadable" and re.search(reason, found[name].reason), name
        assert found[name].values("test/fused/ACC") == {}
    assert found["good"].state == "done"
    made(tmp_path / "runs")
    said = capsys.readouterr().err
    assert said.count("is left out") == len(expected) + 1 and said.isascii()
    assert said.replace("\n", "").isprintable()
    assert (tmp_path / "report" / "index.html").exists()


def test_a_done_run_with_damaged_files_is_not_done(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_predictions({0: {"target": np.zeros(3, int)}})
    for name in ("history.csv", "config.yaml"):
        (tmp_path / name).write_text("text")
    directory.write_result({"status": "done"})
    assert directory.is_done()
    for name in ("history.csv", "predictions.npz", "config.yaml"):
        kept = (tmp_path / name).read_bytes()
        for content in (kept + b"x", kept[:-1], bytes([kept[0] ^ 1]) + kept[1:]):
            (tmp_path / name).write_bytes(content)
            assert not directory.is_done()
        (tmp_path / name).unlink()
        assert not directory.is_done()
        (tmp_path / name).write_bytes(kept)
    assert directory.is_done()


def test_a_report_needs_no_checkpoints(tiny: list[str], tmp_path: Path) -> None:
    """They may be deleted to save room: the run stays done, and every file of the report is what it was."""
    directory = run(compose_config([*tiny, "fusion=multimodal"]))

    def files() -> dict[str, bytes]:
        made(tmp_path / "runs")
        written = [path for path in (tmp_path / "report").rglob("*") if path.is_file() and path.suffix != ".html"]
        return {str(path): path.read_bytes() for path in written}

    before = files()
    directory.checkpoint.unlink()
    assert directory.is_done() and read_run(directory.path).state == "done"
    assert files() == before and any(path.endswith(".csv") for path in before)


def test_predictions_whose_header_promises_more_than_there_is(tmp_path: Path) -> None:
    write_run(tmp_path / "run", fake_result([0.9]))
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "run" / "predictions.npz", "w") as file:
        file.writestr("0/target.npy", header + b"\0" * 64)
    assert read_predictions(read_run(tmp_path / "run")) == {}


def test_hostile_text_is_text_in_every_format(tmp_path: Path) -> None:
    """In CSV no formula, in Markdown no link, tag or further column, in SVG valid XML, on the terminal no command."""
    for number, text in enumerate(TEXTS):
        result = fake_result([0.9, 0.8], modalities=[f"{text} 1", f"{text} 2"])
        for part in ("dataset", "method", "backbone"):
            result["config"]["facts"][part]["title"] = text
        result["dataset"]["classes"] = [text, f"{text} 2"]
        result["versions"] = {text: text}
        write_curves(write_run(tmp_path / "runs" / f"run-{number:010x}", result), 2, epochs=20)
    write_run(tmp_path / "runs" / "run-failed", fake_result([], status="failed", error=" ".join(TEXTS)))
    said = made(tmp_path / "runs")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said)
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert {".md", ".csv", ".svg", ".html", ".tex"} <= {path.suffix for path in files}
    for path in files:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            cells = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().ravel()
            assert not [c for c in cells if re.match(r"[=+@\t\r]|-(?![\d.])", c)]
        if path.suffix == ".svg":
            ElementTree.fromstring(content)
        if path.suffix == ".md":
            tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(content)
            inner = [token for block in tokens for token in block.children or []]
            assert not {"html_block", "fence"} & {token.type for token in tokens}
            assert not {"link_open", "image"} & {token.type for token in inner}
            assert {token.content for token in inner if token.type == "html_inline"} <= {"<br>"}  # lines of a cell
        assert path.suffix != ".html" or "<script>alert(1)" not in content
        assert "\x1b" not in content and "\u202e" not in content
