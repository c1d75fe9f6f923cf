"""The command line: every command has help and is documented, and expected errors are one line and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facemargin.cli import command_entry_points

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(command_entry_points())
GROUPS = {
    "audit": ["verify", "show", "export"],
    "data": ["align", "convert", "inspect", "pairs"],
    "encryption": ["new-key", "status", "enable", "rotate", "disable"],
    "keys": ["add", "list", "revoke"],
    "models": ["list", "pull"],
}
EVERY = [[name] for name in COMMANDS] + [[group, name] for group, names in GROUPS.items() for name in names]


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facemargin", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **variables},
    )


def test_the_fixed_commands_exist() -> None:
    fixed = "train evaluate compare export import calibrate verify serve keys demo data models doctor enrol "
    fixed += "audit encryption backup restore embed gallery store"
    assert set(COMMANDS) == set(fixed.split())


def test_help_lists_every_command_with_a_sentence() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for name in COMMANDS:
        line = next(line for line in shown.stdout.splitlines() if line.strip(" │").startswith(f"{name} "))
        assert len(line.split()) > 4, line


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_of_every_command_has_help(words: list[str]) -> None:
    from typer.main import get_command

    from facemargin.cli import app

    command = get_command(app)
    for word in words:
        context = command.make_context(word, [], resilient_parsing=True)
        command = command.get_command(context, word)  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{' '.join(words)}: {parameter.name} has no help"


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_is_documented(words: list[str]) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert any(f"facemargin {' '.join(words)}" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "absent.toml"], "cannot read the config absent.toml"),
        (["train", "--output", "x", "--data", "absent"], "the image folder absent does not exist"),
        (["export", "--run", "absent", "--output", "x"], "absent is not a readable checkpoint"),
        (["calibrate", "--bundle", "absent", "--images", "x"], "absent"),
        (["compare", "--output", "x", "--heads", "cosface"], "unknown heads: cosface"),
        (["compare", "--output", "x", "--seeds", "a"], "--seeds must be numbers"),
        (["data", "inspect", "absent"], "the image folder absent does not exist"),
        (["doctor", "--train", "absent"], "--train and --test go together"),
        (["serve", "--bundle", "absent", "--store", "absent-store"], "absent"),
        (["enrol", "absent", "--collection", "staff"], "absent is neither a folder nor a CSV file"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "facemargin", *(str(tmp_path / a) if a == "absent-store" else a for a in arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    error = [line for line in result.stderr.splitlines() if line.startswith("facemargin: error: ")]
    assert len(error) == 1, result.stderr
    assert message in error[0]
    assert "Traceback" not in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("detect")
    assert result.returncode == 2
    assert "No such command" in result.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError(name='torch')")
    result = run("export", "--run", "x", "--output", "y", PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert "pip install 'facemargin[train]'" in result.stderr


def test_json_output_is_one_object() -> None:
    result = run("doctor", "--json")
    assert {finding["subject"] for finding in json.loads(result.stdout)["findings"]} >= {"facemargin", "extra train"}


def test_version_is_printed() -> None:
    assert run("--version").stdout.startswith("facemargin ")
