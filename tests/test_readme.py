"""What the README shows works: its code runs, its files, targets and commands exist."""

import re

from conftest import ROOT
from multimodal_loss.configuration import check_overrides

README = (ROOT / "README.md").read_text()


def test_the_training_loop_runs_and_learns() -> None:
    (code,) = re.findall(r"<!-- example: loop -->\n```python\n(.*?)```", README, flags=re.S)
    names: dict[str, object] = {}
    exec(code.replace("range(10)", "range(200)"), names)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    assert (names["prediction"] == names["target"]).float().mean() > 0.9  # type: ignore[attr-defined]


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
    commands = re.findall(r"^python -m multimodal_loss\.train (.*?)(?:\s{2,}#.*)?$", README, flags=re.M)
    assert len(commands) >= 4
    for command in commands:
        words = [word.strip("'") for word in command.split(" #")[0].split()]
        check_overrides([word for word in words if "=" in word and not word.startswith("hydra")])
