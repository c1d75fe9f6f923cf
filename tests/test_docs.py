"""The documents agree with the code: defaults of the config, links, names of heads, reasons of dependencies."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from facemargin.heads import HEADS
from facemargin.partitions import PARTITIONS, partition_options
from training.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_training_page_shows_every_default() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    shown = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    defaults = TrainConfig(output=Path("runs/first")).model_dump(mode="json", exclude_none=True)

    def compare(where: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        for key, value in theirs.items():
            if isinstance(value, dict) and key not in ("heads", "partitions"):
                compare(f"{where}{key}.", mine[key], value)
            elif key not in ("heads", "partitions", "folders"):
                assert mine[key] == value, f"{where}{key}"

    compare("", shown, defaults)
    assert set(shown) - set(defaults) <= {"validation", "test", "heads"}


def test_the_theory_page_names_every_head() -> None:
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    for name in HEADS:
        assert f"`{name}`" in text


def test_the_partitions_page_names_every_partition_and_option() -> None:
    text = (ROOT / "docs" / "partitions.md").read_text(encoding="utf-8")
    for name in PARTITIONS:
        assert f"| `{name}` |" in text
        for option in set(partition_options(name)) - {"group", "class_vectors", "sparse_gradients"}:
            assert f"`{option}`" in text, f"{name}: {option}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0].lower()
        assert re.search(rf"\| [^|]*\b{re.escape(name)}\b[^|]* \|", text), name


def test_the_lock_names_no_address_and_leaves_torch_free() -> None:
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in lock
    assert not re.search(r"^(torch|torchvision|nvidia)", lock, re.MULTILINE)
