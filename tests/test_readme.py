"""What the README shows works: its code runs, its files, targets and commands exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from multimodal_loss.configuration import compose_config

README = (ROOT / "README.md").read_text()


def test_the_training_loop_runs_and_learns() -> None:
    (code,) = re.findall(r"<!-- example: loop -->\n```python\n(.*?)```", README, flags=re.S)
    names: dict[str, object] = {}
    exec(code.replace("range(10)", "range(200)"), names)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    assert (names["prediction"] == names["target"]).float().mean() > 0.9  # type: ignore[attr-defined]


def test_own_tables_go_from_csv_files_to_a_table(tmp_path: Path) -> None:
    """The commands as they stand, on two small files; only the number of epochs is cut."""
    (block,) = re.findall(r"<!-- example: tables -->\n```bash\n(.*?)```", README, flags=re.S)
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    assert len(commands) <= 5
    study = tmp_path / "my_study"
    study.mkdir()
    labels = ["low", "high"] * 15
    (study / "labels.csv").write_text("id,label\n" + "".join(f"p{i},{label}\n" for i, label in enumerate(labels)))
    for name in ("genes", "images"):
        rows = [f"p{i},{i % 2 + i % 7 / 9},{i % 5},{i % 3}" for i in range(30)]
        (study / f"{name}.csv").write_text("\n".join(["id,a,b,c", *rows, ""]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    for command in commands:
        if not command.startswith("python"):
            continue
        words = [sys.executable, *shlex.split(command)[1:]]
        if "multimodal_loss.train" in words:
            words += ["trainer.max_epochs=15", "threads=1", "device=cpu"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "Your runs: my_study" in done.stdout and "MultiModal" in done.stdout
    assert (tmp_path / "outputs" / "report" / "index.html").exists()


def test_every_linked_file_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]+)", README, flags=re.M))
    assert named
    assert named <= targets


def test_every_training_command_has_valid_overrides() -> None:
    """Of a sweep its first value; unknown keys and choices are errors."""
    commands = re.findall(r"^python -m multimodal_loss\.train (.*?)(?:\s{2,}#.*)?$", README, flags=re.M)
    assert len(commands) >= 4
    for command in commands:
        words = [word for word in shlex.split(command) if "=" in word and not word.startswith("hydra")]
        compose_config([re.sub(r"^([^=]+=[^\[(,]+),.*", r"\1", word) for word in words if "glob(" not in word])
