"""docs/theory.md names files and tests that exist, every head, and every test of the theory."""

import re
from pathlib import Path

import pytest

from facemargin.heads import HEADS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_a_row_and_its_file(name):
    path = Path(HEADS[name].__module__.replace(".", "/") + ".py")
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"`{path.as_posix()}`" in row


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:facemargin|tests)/[\w/]+\.py)`", TEXT))))
def test_files_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"\*(test_\w+\.py(?:::\w+)?)\*", TEXT))))
def test_tests_exist(reference):
    file, _, function = reference.partition("::")
    source = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert f"def {function}(" in source if function else source


def test_every_test_of_the_theory_is_named_once_at_its_statement_and_every_name_exists():
    files = sorted(Path(__file__).parents[1].glob("test_*_theory.py"))
    functions = [name for file in files for name in re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.M)]
    assert len(functions) > 70
    assert sorted(functions) == sorted(re.findall(r"\*(test_\w+)\*", TEXT))


def test_every_file_of_the_theory_is_named():
    for file in Path(__file__).parents[1].glob("test_*_theory.py"):
        assert f"`tests/facemargin/{file.name}`" in TEXT
