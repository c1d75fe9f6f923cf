"""docs/theory.md names files and tests that exist, and every head."""

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
