"""The 34-class TCGA data from files of the sources' format, in which everything that can go wrong does."""

import dataclasses
import gzip
import hashlib
import http.server
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_tcga
from conftest import ROOT
from multimodal_loss.datasets.getting import matrix_stream, tables_folder
from multimodal_loss.datasets.getting.download import RemoteFile, download
from multimodal_loss.datasets.getting.matrix_stream import Pass, reduce_lines
from multimodal_loss.errors import UserError
from prepare_tcga import GDC_RECIPE, XENA, XENA_NAMES

NAN = float("nan")

# Probe -> genes as the map lists them (a gene once a transcript), and chromosome.
PROBES = {
    "cg00000001": ("TP53", "chr17"),
    "cg00000002": ("TP53,TP53,WRAP53", "chr17"),
    "cg00000003": ("WRAP53", "chr17"),
    "cg00000004": ("ERBB2", "chr17"),
    "cg00000005": (".", "chr1"),  # on no gene
    "cg00000006": ("TSPY1", "chrY"),
    "rs00000007": ("ERBB2", "chr17"),  # measures an SNP
    "cg00000008": ("SPARSE", "chr2"),  # missing in 20 % of the samples
    "cg00000009": ("TIGHT", "chr2"),  # missing in 5 %
    **{f"cg1{i:07d}": (f"GENE{i % 30}", "chr3") for i in range(60)},
}
USED = {"cg00000001", "cg00000002", "cg00000003", "cg00000004", "cg00000009"} | {p for p in PROBES if p[:3] == "cg1"}
GENES = {
    "ENSG00000000001.3": "chr1",
    "ENSG00000000002.10": "chrY",
    "ENSG00000000003.1": "chrX",  # 0 everywhere
    **{f"ENSG000000001{i:02d}.{i}": "chr2" for i in range(20)},
}


def barcode(i: int, sample_type: str = "01A", program: str = "TCGA") -> str:
    return f"{program}-{i // 10000:02d}-{i % 10000:04d}-{sample_type}"


def write_lines(path: Path, lines: list[str]) -> None:
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def write_matrix(path: Path, matrix: pd.DataFrame, corner: str) -> None:
    text = matrix.to_csv(sep="\t", index_label=corner, float_format="%.6g", na_rep="")
    path.write_bytes(gzip.compress(text.encode(), 1))


@dataclasses.dataclass
class Source:
    """A folder of recipe xena's files and the matrices that were written to it."""

    folder: Path
    expression: pd.DataFrame
    methylation: pd.DataFrame
    labels: dict[str, str]


def make_xena(folder: Path, counts: dict[str, int], strangers: int = 20) -> Source:
    """Files of recipe xena: `counts` samples of each class in both matrices, and `strangers` of every other kind."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    types = ["Primary Tumor", "Metastatic", "Recurrent Tumor", "Primary Blood Derived Cancer - Peripheral Blood"]
    normals = ["Solid Tissue Normal", "Blood Derived Normal"]
    rows: list[tuple[str, str, str, str]] = []
    labels: dict[str, str] = {}
    for name, count in counts.items():
        for _ in range(count):
            i = len(rows)
            normal = name == "Normal"
            sample = barcode(i, "11A" if normal else "01A")
            labels[sample] = name
            kinds = normals if normal else types
            rows.append((sample, "TCGA-BRCA" if normal else f"TCGA-{name}", "TCGA", kinds[i % len(kinds)]))
    both = list(labels)
    target = [barcode(i, program="TARGET") for i in range(strangers)]
    rows += [(sample, "TARGET-NBL", "TARGET", "Primary Tumor") for sample in target]
    only = {n: [barcode(90_000 + 1000 * k + i) for i in range(strangers)] for k, n in enumerate(("GE", "DM", "none"))}
    rows += [(sample, "TCGA-BRCA", "TCGA", "Primary Tumor") for sample in itertools.chain(*only.values())]
    unknown = [barcode(80_000 + i) for i in range(strangers)]
    header = "sample\tproject_id\tAge at Diagnosis in Years\tprogram\tsample_type"
    table = [header, *(f"{s}\t{project}\t50\t{program}\t{kind}" for s, project, program, kind in rows)]
    write_lines(folder / XENA_NAMES["annotation"], table)
    gene_map = ["id\tgene\tchrom\tchromStart\tchromEnd\tstrand"]
    # The map's version of an id is not the matrix's.
    gene_map += [f"{g.partition('.')[0]}.99\tG{i}\t{chrom}\t1\t2\t+" for i, (g, chrom) in enumerate(GENES.items())]
    write_lines(folder / XENA_NAMES["genes"], gene_map)
    probe_map = ["#id\tgene\tchrom\tchromStart\tchromEnd\tstrand"]
    probe_map += [f"{p}\t{genes}\t{chrom}\t1\t2\t." for p, (genes, chrom) in PROBES.items()]
    write_lines(folder / XENA_NAMES["probes"], probe_map)

    columns = rng.permutation([*both, *only["GE"], *target, *unknown])
    expression = pd.DataFrame(rng.gamma(2, 4, (len(GENES), len(columns))), index=list(GENES), columns=columns)
    expression.loc["ENSG00000000003.1"] = 0
    columns = rng.permutation([*both, *only["DM"], *target, *unknown])
    probes = [*PROBES, "cg99999999"]  # the last is not in the map
    methylation = pd.DataFrame(rng.random((len(probes), len(columns))), index=probes, columns=columns)
    methylation = methylation.mask(rng.random(methylation.shape) < 0.002)
    methylation.loc["cg00000008", both[::5]] = NAN
    methylation.loc["cg00000009"] = 0.5
    methylation.loc["cg00000009", both[::20]] = NAN
    methylation.loc[:, both[3]] = NAN
    methylation.loc[[f"cg1{i:07d}" for i in range(30)], both[4]] = NAN  # every second probe of each gene: none missing
    for k in (0, 30, 1, 31, 2, 32, 3, 33, 4, 34):  # 5 of about 34 genes
        methylation.loc[f"cg1{k:07d}", both[7]] = NAN
    write_matrix(folder / XENA_NAMES["GE"], expression, "xena_sample")
    write_matrix(folder / XENA_NAMES["DM"], methylation, "Composite Element REF")
    return Source(folder, expression, methylation, labels)


def small_counts() -> dict[str, int]:
    return {name: 1 + min(count, 30) // 4 for name, count in XENA.counts.items()}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source of 34 small classes, and a recipe that expects them."""
    counts = small_counts()
    monkeypatch.setitem(prepare_tcga.RECIPES, "xena", dataclasses.replace(XENA, counts=counts))
    return make_xena(tmp_path / "source", counts, strangers=3)


def run(source: Path, output: Path, *more: str) -> int:
    return prepare_tcga.main(["--source", str(source), "--output", str(output), "--workers", "1", *more])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def expected_methylation(source: Source, ids: list[str]) -> pd.DataFrame:
    """Gene means by pandas, in float64 from the written text."""
    long = [(p, g) for p in USED | {"cg00000008"} for g in dict.fromkeys(PROBES[p][0].split(","))]
    by_gene = pd.DataFrame(long, columns=["probe", "gene"]).groupby("gene")["probe"]
    table = source.methylation[ids]
    return pd.DataFrame({gene: table.loc[list(probes)].mean() for gene, probes in by_gene})


def test_the_full_number_of_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_xena(tmp_path / "source", dict(XENA.counts), strangers=150)
    assert run(source.folder, tmp_path / "tcga") == 0
    out = capsys.readouterr().out
    assert "9081 samples of 34 classes are in both matrices" in out
    assert "warning: the paper has 8685 samples, this has 9081" in out
    labels = pd.read_csv(tmp_path / "tcga/labels.csv", keep_default_na=False)
    assert list(labels.columns) == ["id", "label", "group"]
    assert labels["group"].to_list() == [sample[:12] for sample in labels["id"]]  # patients
    dropped = {list(source.labels)[3], list(source.labels)[7]}  # all missing, and 5 genes of 34
    assert labels["id"].to_list() == sorted(set(source.labels) - dropped)
    assert dict(zip(labels["id"], labels["label"], strict=True)) == {
        sample: label for sample, label in source.labels.items() if sample not in dropped
    }
    assert labels["label"].nunique() == 34
    ids = labels["id"].to_list()

    expression = pd.read_parquet(tmp_path / "tcga/GE.parquet")
    assert expression.columns[0] == "id" and expression["id"].to_list() == ids
    kept = [g for g in GENES if g not in ("ENSG00000000002.10", "ENSG00000000003.1")]
    assert list(expression.columns[1:]) == kept
    np.testing.assert_allclose(expression[kept], source.expression.loc[kept, ids].T, rtol=1e-5)

    methylation = pd.read_parquet(tmp_path / "tcga/DM.parquet")
    assert methylation["id"].to_list() == ids
    expected = expected_methylation(source, ids).drop(columns="SPARSE")
    assert set(methylation.columns) == {"id", *expected.columns}
    assert "TSPY1" not in methylation
    np.testing.assert_allclose(methylation[list(expected)], expected, rtol=2e-5)
    assert methylation["TIGHT"].isna().sum() > 300  # stays missing: filled from the training fold, never here
    assert not (tmp_path / "tcga/.build").exists()


def test_a_finished_folder_is_left_alone_and_a_broken_one_built_again(
    small: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tcga"
    assert run(small.folder, output) == 0
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    stamps = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert run(tmp_path / "nowhere", output) == 0
    assert "already there" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == stamps
    (output / "DM.parquet").write_bytes(first["DM.parquet"][:-1])
    assert run(small.folder, output) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first
    capsys.readouterr()
    assert run(small.folder, output, "--recipe", "gdc") == 2
    assert "built by another recipe" in error_of(capsys)


def test_other_counts_stop_before_the_long_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = small_counts()
    monkeypatch.setitem(prepare_tcga.RECIPES, "xena", dataclasses.replace(XENA, counts=counts))
    source = make_xena(tmp_path / "source", {**counts, "LUAD": counts["LUAD"] + 1, "OV": 0}, strangers=1)
    assert run(source.folder, tmp_path / "tcga") == 2
    error = error_of(capsys)
    assert "33 classes for 34" in error and f"LUAD {counts['LUAD'] + 1} for {counts['LUAD']}" in error
    assert "OV 0 for" in error and "--accept-counts" in error
    assert not (tmp_path / "tcga").exists()
    assert run(source.folder, tmp_path / "tcga", "--accept-counts") == 0
    assert "33 classes for 34" in capsys.readouterr().out


def test_the_recipes_hold_the_published_sums() -> None:
    assert (sum(XENA.counts.values()), len(XENA.counts)) == (9081, 34)
    assert XENA.counts["Normal"] == 407
    # All but LAML and SKCM, which has 103 of the 9,512 primary tumours.
    assert (sum(GDC_RECIPE.counts.values()) - 429, len(GDC_RECIPE.counts)) == (9512 - 103, 32)


KILLED = """
import os, signal, sys
import prepare_tcga
from multimodal_loss.datasets.getting import matrix_stream
matrix_stream.BLOCK_BYTES, matrix_stream.SAVE_SECONDS = 20_000, 0.0
add, added = matrix_stream.GeneMeans.add, 0
def dying(self, genes, values):
    global added
    added += 1
    if added == 60:  # in the methylation matrix: the other has 23 lines
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, genes, values)
matrix_stream.GeneMeans.add = dying
prepare_tcga.main(sys.argv[1:])
"""


def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = matrix_stream.GeneMeans.add, 0

    def counted(self: matrix_stream.GeneMeans, genes: Sequence[str], values: matrix_stream.Array) -> None:
        nonlocal added
        added += 1
        add(self, genes, values)

    monkeypatch.setattr(matrix_stream.GeneMeans, "add", counted)
    monkeypatch.setattr(matrix_stream, "BLOCK_BYTES", 20_000)
    assert run(small.folder, tmp_path / "whole") == 0
    all_lines, added = added, 0
    options = ["--source", str(small.folder), "--output", str(tmp_path / "killed"), "--accept-counts", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'src'}"}
    done = subprocess.run([sys.executable, "-c", KILLED, *options], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed/SOURCE.json").exists()
    assert run(small.folder, tmp_path / "killed") == 0
    assert 0 < added < all_lines - len(GENES) - 20  # went on from what was saved
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_a_half_finished_build_of_other_samples_is_begun_anew(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables_folder, "begin", interrupt)
        assert run(small.folder, tmp_path / "tcga") == 130
    assert (tmp_path / "tcga/.build/DM").exists()
    left_out = list(small.labels)[10]
    edit(small.folder / XENA_NAMES["annotation"], f"{left_out}\t", "TCGA-99-9999-01A\t")
    assert run(small.folder, tmp_path / "tcga", "--accept-counts") == 0
    expression = pd.read_parquet(tmp_path / "tcga/GE.parquet").set_index("id")
    assert left_out not in expression.index and len(expression) == len(small.labels) - 3
    expected = small.expression.loc[list(expression), list(expression.index)].T
    np.testing.assert_allclose(expression, expected, rtol=1e-5)


# --- one pass over a matrix


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, list[list[str]]]:
    """Values (lines, samples) and how they are written."""
    lines, samples = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    number = st.floats(-100, 100, width=32).map(lambda x: (x, repr(float(x))))
    missing = st.sampled_from(["", "NA", "NaN", "nan"]).map(lambda text: (NAN, text))
    cells = draw(st.lists(st.one_of(number, number, missing), min_size=lines * samples, max_size=lines * samples))
    values = np.array([value for value, _ in cells], dtype=np.float64).reshape(lines, samples)
    texts = np.array([text for _, text in cells], dtype=object).reshape(lines, samples)
    return values, texts.tolist()


@settings(max_examples=60, deadline=None)
@given(
    matrices(),
    st.integers(1, 400),
    st.sampled_from(["plain", "gzip", "members"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.data(),
)
def test_a_pass_gives_the_means_however_the_file_is_cut(
    matrix: tuple[np.ndarray, list[list[str]]], block: int, kind: str, end: str, final: bool, data: st.DataObject
) -> None:
    values, texts = matrix
    lines, samples = values.shape
    genes = {
        f"p{i}": data.draw(st.lists(st.sampled_from("ABC"), max_size=2, unique=True), label="genes")
        for i in range(lines)
    }
    columns = data.draw(st.lists(st.integers(1, samples), min_size=1, unique=True), label="columns")
    text = "id\t" + "\t".join(f"s{j}" for j in range(samples)) + end
    text += end.join(f"p{i}\t" + "\t".join(row) for i, row in enumerate(texts)) + (end if final else "")
    raw = text.encode()
    half = len(raw) // 2
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_stream, "BLOCK_BYTES", block)
        patch.setattr(matrix_stream, "SAVE_SECONDS", 0.0)
        path = Path(folder) / ("matrix.tsv" if kind == "plain" else "matrix.tsv.gz")
        zipped = {"plain": raw, "gzip": gzip.compress(raw), "members": gzip.compress(raw[:half])}
        path.write_bytes(zipped[kind] + (gzip.compress(raw[half:]) if kind == "members" else b""))
        assert matrix_stream.read_header(path) == ["id", *(f"s{j}" for j in range(samples))]
        job = Pass(path, columns, samples + 1, genes, lambda x: x, "key")
        state = Path(folder) / "state"
        kill_at, add, calls = data.draw(st.integers(0, lines), label="kill at"), matrix_stream.GeneMeans.add, 0

        def interrupted(self: matrix_stream.GeneMeans, genes: Any, row: matrix_stream.Array) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KeyboardInterrupt
            add(self, genes, row)

        patch.setattr(matrix_stream.GeneMeans, "add", interrupted)
        try:
            means = reduce_lines(job, state)
        except KeyboardInterrupt:
            means = reduce_lines(job, state)
        for gene in "ABC":
            rows = [i for i in range(lines) if gene in genes[f"p{i}"]]
            if not rows:
                assert gene not in means.sums
                continue
            chosen = values[np.ix_(rows, [c - 1 for c in columns])]
            present = ~np.isnan(chosen)
            np.testing.assert_array_equal(means.counts[gene], present.sum(axis=0))
            with np.errstate(invalid="ignore"):
                expected = np.where(present, chosen, 0).sum(axis=0) / present.sum(axis=0)
            np.testing.assert_allclose(means.take(gene), expected, rtol=1e-4, atol=1e-4)


def test_a_state_of_other_files_is_not_used(tmp_path: Path) -> None:
    path, state = tmp_path / "matrix.tsv", tmp_path / "state"
    path.write_text("id\ta\tb\nx\t1\t2\n")
    first = Pass(path, [1, 2], 3, None, lambda x: x, "first")
    assert reduce_lines(first, state).take("x").tolist() == [1, 2]
    other = Pass(path, [2, 1], 3, None, lambda x: x, "other")
    assert reduce_lines(other, state).take("x").tolist() == [2, 1]
    state.write_bytes(state.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"not a saved state \(cut off\); delete it"):
        reduce_lines(other, state)


HEAD = b"id\ta\tb\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\n", r"m.tsv, line 3: 2 columns where line 1 has 3; get it again"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\t2\t3\n", r"line 3: 4 columns where line 1 has 3"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\t0.5oops\n", r"line 3: '0.5oops' is not a number"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\t0,5\n", r"line 3: '0,5' is not a number"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\tinf\n", r"line 3: an infinite value"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\t1e99\n", r"line 3: "),
        ("m.tsv", HEAD + b"x\t1\t2\nnothing here\n", r"line 3: 1 columns where line 1 has 3"),
        ("m.tsv", HEAD + b"x\t1\t2\ny\t1\t\xff\n", r"line 3: "),
        (
            "m.tsv.gz",
            gzip.compress(HEAD + b"x\t1\t2\n" * 500)[:-12],
            r"cannot read .*m.tsv.gz: Truncated compressed stream; get the file again",
        ),
        (
            "m.tsv.gz",
            gzip.compress(HEAD + b"x\t1\t2\n")[:-8] + b"\0" * 8,
            r"cannot read .*m.tsv.gz: zlib inflate failed: .*; get the file again",
        ),
        ("m.tsv.gz", b"<html>not found</html>", r"cannot read .*m.tsv.gz: zlib inflate failed: .*; get the file again"),
        ("m.tsv.gz", b"", r"m.tsv.gz: the file is empty; get it again"),
    ],
    # Named: made from the bytes, the names would hold gzip's time stamp, and two workers would collect different tests.
    ids=[
        "short",
        "long",
        "word",
        "comma",
        "infinite",
        "beyond-float32",
        "one-cell",
        "not-utf8",
        "cut-gzip",
        "crc",
        "html",
        "empty",
    ],
)
def test_a_damaged_matrix_is_one_line_that_says_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        reduce_lines(Pass(path, [1, 2], 3, None, lambda x: x, "key"), tmp_path / "state")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"no tabs\n1\n"])
def test_a_matrix_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m.tsv, line 1: no tab-separated column names"):
        matrix_stream.read_header(path)


# --- the small tables


def edit(path: Path, before: str, after: str) -> None:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    assert before in text
    write_lines(path, text.replace(before, after, 1).removesuffix("\n").split("\n"))


@pytest.mark.parametrize(
    ("role", "before", "after", "message"),
    [
        ("annotation", "project_id", "project", "no column 'project_id'"),
        ("annotation", "\tTCGA-ACC\t", "\t\t", "has no class"),
        ("annotation", barcode(1) + "\tTCGA-ACC", barcode(0) + "\tTCGA-BRCA", "has more than one class"),
        ("probes", "gene", "genes", "no column 'gene'"),
        ("genes", "chrom\t", "chromosome\t", "no column 'chrom'"),
        ("GE", "ENSG00000000102.2\t", "ENSG00000000101.1\t", "ENSG00000000101.1 has more than one line"),
        ("GE", "xena_sample\t", "", "line 2: "),  # one column name too few
        ("DM", "\n", "\nx\n", "line 2: 1 columns where line 1 has"),
    ],
)
def test_a_wrong_source_is_one_line(
    small: Source,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    role: str,
    before: str,
    after: str,
    message: str,
) -> None:
    edit(small.folder / XENA_NAMES[role], before, after)
    assert run(small.folder, tmp_path / "tcga", "--accept-counts") == 2
    error = error_of(capsys)
    assert message in error and XENA_NAMES[role] in error
    assert not (tmp_path / "tcga/SOURCE.json").exists()


def test_a_map_without_chromosome_y(small: Source, tmp_path: Path) -> None:
    edit(small.folder / XENA_NAMES["genes"], "chrY", "chr9")
    assert run(small.folder, tmp_path / "tcga") == 0
    assert "ENSG00000000002.10" in pd.read_parquet(tmp_path / "tcga/GE.parquet")


@pytest.mark.parametrize("role", ["probes", "genes"])
def test_a_map_that_is_cut_off_is_refused(
    small: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    path = small.folder / XENA_NAMES[role]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run(small.folder, tmp_path / "tcga") == 2
    assert f"{path}: its last line is cut off; delete it and start again" in error_of(capsys)
    assert not (tmp_path / "tcga").exists()  # said before the long work
    # Cut where a line ends: then the matrix has ids that the map lacks. One that no map has is allowed (cg99999999).
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-12]))
    lacks = {"probes": "13 of the 70 ids of GDC-PANCAN.methylation450", "genes": "12 of the 23 ids of GDC-PANCAN.htseq"}
    for _ in range(2):  # also when the finished pass is only read again
        assert run(small.folder, tmp_path / "tcga") == 2
        assert f"{path}: lacks {lacks[role]}" in error_of(capsys)
    path.write_bytes(whole)
    assert run(small.folder, tmp_path / "tcga") == 0


def test_a_missing_file_names_its_address(small: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small.folder / XENA_NAMES["probes"]).unlink()
    assert run(small.folder, tmp_path / "tcga") == 2
    assert "illuminaMethyl450_hg38_GDC is missing" in (error := error_of(capsys)) and "https://gdc-hub" in error
    assert run(small.folder, tmp_path / "tcga", "--workers", "0") == 2
    assert "--workers 0: must be at least 1" in error_of(capsys)


# --- recipe gdc


def gdc_annotation(path: Path) -> None:
    header = ["patient_barcode", "aliquot_barcode", "cancer type", "platform", "patient_annotation", "Do_not_use"]
    aliquots = {
        "TCGA-AA-0001-01A-11R-A1-07": ("BRCA", "False"),
        "TCGA-AA-0001-01B-11R-A1-07": ("BRCA", "False"),
        "TCGA-AA-0002-01A-11R-A1-07": ("COAD", "True"),
        "TCGA-AA-0003-11A-11R-A1-07": ("COAD", "False"),
        "TCGA-AA-0004-03A-11R-A1-07": ("LAML", "False"),
        "TCGA-AA-0005-06A-11R-A1-07": ("SKCM", "False"),
        "TCGA-AA-0006-06A-11R-A1-07": ("BRCA", "False"),
        "TCGA-AA-0007-03A-11R-A1-07": ("BRCA", "False"),
        "TCGA-AA-0008-02A-11R-A1-07": ("GBM", "False"),
        "TCGA-AA-0009-01A-11R-A1-07": ("", "False"),
    }
    rows = [f'{a[:12]}\t{a}\t{cancer}\tRNASeq\t"quote\t{bad}' for a, (cancer, bad) in aliquots.items()]
    write_lines(path, ["\t".join(header), *rows])


@pytest.mark.parametrize(
    ("aliquot", "expected"),
    [
        ("TCGA-AA-0001-01A-11R-A1-07", ("TCGA-AA-0001-01", "BRCA")),
        ("TCGA-AA-0001-01A-99D-A1-05", ("TCGA-AA-0001-01", "BRCA")),  # another aliquot of a known patient
        ("TCGA-AA-0002-01A-11R-A1-07", None),  # Do_not_use
        ("TCGA-AA-0002-01A-12R-A1-07", ("TCGA-AA-0002-01", "COAD")),  # only that aliquot
        ("TCGA-AA-0003-11A-11R-A1-07", ("TCGA-AA-0003-11", "Normal")),
        ("TCGA-AA-0004-03A-11R-A1-07", ("TCGA-AA-0004-03", "LAML")),
        ("TCGA-AA-0005-06A-11R-A1-07", ("TCGA-AA-0005-06", "SKCM")),
        ("TCGA-AA-0005-01A-11R-A1-07", ("TCGA-AA-0005-01", "SKCM")),
        ("TCGA-AA-0006-06A-11R-A1-07", None),  # a metastasis, not of SKCM
        ("TCGA-AA-0007-03A-11R-A1-07", None),
        ("TCGA-AA-0008-02A-11R-A1-07", None),  # recurrent
        ("TCGA-AA-0009-01A-11R-A1-07", None),  # no cancer type
        ("TCGA-ZZ-0001-01A-11R-A1-07", None),
        ("", None),
    ],
)
def test_gdc_labels(tmp_path: Path, aliquot: str, expected: tuple[str, str] | None) -> None:
    gdc_annotation(tmp_path / "annotation.tsv")
    assert prepare_tcga.gdc_labeller(tmp_path / "annotation.tsv")(aliquot) == expected


def test_recipe_gdc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = {role: source / remote.name for role, remote in GDC_RECIPE.files.items()}
    gdc_annotation(names["annotation"])
    write_lines(names["probes"], ["#id\tgene\tchrom\tchromStart\tchromEnd\tstrand", "cg1\tA,B\tchr1\t1\t2\t."])
    # The vial 01B comes before 01A in the file, and after it by barcode.
    ge = ["TCGA-AA-0001-01B-11R-A1-07", "TCGA-AA-0001-01A-11R-A1-07", "TCGA-AA-0003-11A-11R-A1-07"]
    ge += ["TCGA-AA-0002-01A-11R-A1-07", "TCGA-AA-0004-03A-11R-A1-07"]
    dm = ["TCGA-AA-0003-11B-11D-A1-05", "TCGA-AA-0001-01A-21D-A1-05", "TCGA-AA-0002-01A-21D-A1-05"]
    write_lines(names["GE"], ["\t".join(["gene_id", *ge]), "?|100\t9\t3\t-2.5\t8\t8", "TP53|7157\t9\t0\t7\t8\tNA"])
    write_lines(names["DM"], ["\t".join(["Composite Element REF", *dm]), "cg1\t0.25\t0.75\t1", "cg2\t1\t1\t1"])
    files = {}
    for role, remote in GDC_RECIPE.files.items():
        content = names[role].read_bytes()
        files[role] = dataclasses.replace(remote, size=len(content), md5=hashlib.md5(content).hexdigest())
    recipe = dataclasses.replace(GDC_RECIPE, files=files, counts={"BRCA": 1, "Normal": 1}, num_classes=2)
    monkeypatch.setitem(prepare_tcga.RECIPES, "gdc", recipe)
    assert run(source, tmp_path / "tcga", "--recipe", "gdc") == 0
    expression = pd.read_parquet(tmp_path / "tcga/GE.parquet").set_index("id")
    expected = pd.DataFrame(
        {"?|100": [2.0, 0.0], "TP53|7157": [0.0, 3.0]}, index=["TCGA-AA-0001-01", "TCGA-AA-0003-11"]
    )
    pd.testing.assert_frame_equal(expression, expected, check_dtype=False, check_names=False)
    methylation = pd.read_parquet(tmp_path / "tcga/DM.parquet").set_index("id")
    assert methylation.to_dict("list") == {"A": [0.75, 0.25], "B": [0.75, 0.25]}
    rows = ("id,label,group", "TCGA-AA-0001-01,BRCA,TCGA-AA-0001", "TCGA-AA-0003-11,Normal,TCGA-AA-0003")
    assert (tmp_path / "tcga/labels.csv").read_text().splitlines() == list(rows)
    capsys.readouterr()
    content = names["GE"].read_bytes()
    names["GE"].write_bytes(content.replace(b"9", b"8", 1))
    assert run(source, tmp_path / "again", "--recipe", "gdc") == 2
    assert re.search(r"geneExp.tsv: MD5 is [0-9a-f]{32}, not the published", error_of(capsys))
    names["GE"].write_bytes(content[:-1])
    assert run(source, tmp_path / "again", "--recipe", "gdc") == 2
    assert f"geneExp.tsv: {len(content) - 1} bytes where {len(content)} belong" in error_of(capsys)


# --- downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; `cuts` are the numbers of bytes after which it hangs up, one a request, then no more."""

    content = b""
    cuts: list[int]
    ranges = True
    requests: list[str | None]

    def do_GET(self) -> None:
        cls = type(self)
        asked = self.headers.get("Range")
        cls.requests.append(asked)
        if self.path != "/file":
            return self.send_error(404)
        start = int(str(asked).removeprefix("bytes=").rstrip("-")) if asked and cls.ranges else 0
        size = len(cls.content)
        if cls.ranges and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = cls.content[start:]
        self.send_response(206 if cls.ranges else 200)
        if cls.ranges:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: cls.cuts.pop(0)] if cls.cuts else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"content": os.urandom(300_000), "cuts": [], "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_port}/file"
        running.shutdown()


def silent(have: int, total: int | None) -> None:
    pass


def test_a_broken_download_goes_on(server: tuple[type[Server], str], tmp_path: Path) -> None:
    handler, url = server
    handler.cuts = [100_000, 50_000]
    seen: list[tuple[int, int | None]] = []
    download(RemoteFile("f", url), tmp_path, lambda have, total: seen.append((have, total)))
    assert (tmp_path / "f").read_bytes() == handler.content
    assert handler.requests == [None, "bytes=100000-", "bytes=150000-"]
    assert seen[-1] == (300_000, 300_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]
    download(RemoteFile("f", url), tmp_path, silent)
    assert len(handler.requests) == 3


def test_a_dead_connection_ends_and_the_next_call_goes_on(server: tuple[type[Server], str], tmp_path: Path) -> None:
    handler, url = server
    handler.cuts = [100_000, 0]
    with pytest.raises(UserError, match=r"f: the download stopped at byte 100000 .*the same command goes on"):
        download(RemoteFile("f", url), tmp_path, silent)
    assert (tmp_path / "f.part").read_bytes() == handler.content[:100_000]
    download(RemoteFile("f", url), tmp_path, silent)
    assert (tmp_path / "f").read_bytes() == handler.content


@pytest.mark.parametrize(("ranges", "part"), [(False, 70_000), (True, 300_000), (True, 300_001), (False, 300_001)])
def test_a_part_ends_whole_whatever_the_server_does(
    server: tuple[type[Server], str], tmp_path: Path, ranges: bool, part: int
) -> None:
    handler, url = server
    handler.ranges = ranges
    (tmp_path / "f.part").write_bytes((handler.content + b"x")[:part])
    download(RemoteFile("f", url), tmp_path, silent)
    assert (tmp_path / "f").read_bytes() == handler.content


def test_what_is_not_the_published_file_is_refused(server: tuple[type[Server], str], tmp_path: Path) -> None:
    handler, url = server
    digest = hashlib.md5(handler.content).hexdigest()
    download(RemoteFile("good", url, 300_000, digest), tmp_path, silent)
    with pytest.raises(UserError, match="300000 bytes where 5 belong"):
        download(RemoteFile("size", url, 5), tmp_path, silent)
    with pytest.raises(UserError, match=f"MD5 is {digest}, not the published"):
        download(RemoteFile("md5", url, 300_000, "0" * 32), tmp_path, silent)
    with pytest.raises(UserError, match="answers 404: has the source moved"):
        download(RemoteFile("gone", url + "s", 300_000), tmp_path, silent)
    assert not any((tmp_path / name).exists() for name in ("size", "md5", "gone"))


def test_a_disk_too_small_is_said_at_once(
    server: tuple[type[Server], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match="needs 300000 bytes more, 10 are free"):
        download(RemoteFile("f", server[1]), tmp_path, silent)


def test_a_build_that_downloads(
    server: tuple[type[Server], str],
    small: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler, url = server
    recipe = prepare_tcga.RECIPES["xena"]
    handler.content = (small.folder / XENA_NAMES["DM"]).read_bytes()
    files = {**recipe.files, "DM": dataclasses.replace(recipe.files["DM"], url=url)}
    monkeypatch.setitem(prepare_tcga.RECIPES, "xena", dataclasses.replace(recipe, files=files))
    cache = tmp_path / "data/cache/tcga_xena"
    cache.parent.mkdir(parents=True)
    (small.folder / XENA_NAMES["DM"]).unlink()
    small.folder.rename(cache)
    assert prepare_tcga.main(["--output", str(tmp_path / "data/tcga"), "--workers", "1"]) == 0
    assert handler.requests == [None]
    assert len(pd.read_csv(tmp_path / "data/tcga/labels.csv")) == len(small.labels) - 2
