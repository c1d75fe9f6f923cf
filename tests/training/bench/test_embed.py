"""The benchmark of bulk embedding: it measures what it says, and its page is made of its figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from facemargin.bundle import Bundle
from tests.training.bulk.conftest import crop
from training.bench import embed as bench
from training.bench.embed_page import ratios, shares, table_of, write_page

ROW: dict[str, Any] = {
    "source": "PNG files",
    "pictures": 2048,
    "reading": [1000.0, 2000.0, 1000.0],
    "network": [200.0, 250.0, 200.0],
    "network_joined": [150.0, 150.0, 180.0],
    "embed": [150.0, 200.0, 160.0],
}
FOUND: dict[str, Any] = {
    "machine": {"hardware": "a machine", "cores": 2, "load": 0.1},
    "settings": {
        "repeats": 3,
        "photographs": False,
        "model": {"name": "small", "flip_sum": True, "size": [64, 64]},
    },
    "rows": [ROW],
}


def test_ratios_are_of_the_network_in_the_same_repetition() -> None:
    assert ratios(ROW) == pytest.approx([0.75, 0.8, 0.8])


def test_the_limit_is_both_one_after_the_other() -> None:
    assert shares(ROW) == pytest.approx([150 * (1 / 1000 + 1 / 200), 200 * (1 / 2000 + 1 / 250), 160 * 6 / 1000])


def test_the_page_is_made_of_the_figures(tmp_path: Path) -> None:
    write_page(FOUND, tmp_path / "embed.md")
    page = (tmp_path / "embed.md").read_text(encoding="utf-8")
    assert (
        "| PNG files (2,048) | 1,000 (1,000–2,000) | 200 (200–250) | 150 (150–180) | 160 (150–200) | 80% (75%–80%) | "
        "90% (90%–96%) |\n"
    ) in page
    assert "input 64×64, two passes a crop (flip-sum)" in page
    assert "a machine, load 0.1 at the start; 3 repetitions" in page
    assert "--photographs" not in page
    assert table_of(FOUND).row_count == 1


def test_the_committed_page_is_the_one_of_the_committed_figures(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "docs" / "benchmarks"
    write_page(json.loads((folder / "embed.json").read_text(encoding="utf-8")), tmp_path / "embed.md")
    assert (tmp_path / "embed.md").read_text(encoding="utf-8") == (folder / "embed.md").read_text(encoding="utf-8")


def test_every_source_is_measured_in_every_repetition(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / "crops" / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(crop(number))
    found = bench.measure(tiny_bundle.path, [tmp_path / "crops"], None, count=16, repeats=2, seconds=0.02)
    assert [row["source"] for row in found["rows"]] == ["PNG files", "JPEG in a .rec", "JPEG in shards"]
    for row in found["rows"]:
        assert row["pictures"] == 16
        for name in ("reading", "network", "network_joined", "embed"):
            assert len(row[name]) == 2
            assert min(row[name]) > 0
    json.dumps(found)


def test_photographs_are_measured_with_the_detector(
    tiny_bundle: Bundle, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEMARGIN_MODELS", str(shared_data / "models"))
    people = sorted((shared_data / "lfw" / "images").iterdir())[:1]
    found = bench.measure(tiny_bundle.path, people, people[0], count=16, repeats=1, seconds=0.02)
    assert found["rows"][-1]["source"] == "photographs, the largest face"
    assert found["rows"][-1]["pictures"] == min(4, len(list(people[0].iterdir())))
    assert found["rows"][-1]["embed"][0] > 0
