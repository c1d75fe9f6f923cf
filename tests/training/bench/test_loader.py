"""The loader's benchmark: it measures what it says, and its page is made of its figures."""

import json
import tempfile
from pathlib import Path

import pytest

from training.bench import loader as bench
from training.bench.loader_page import limits, ratios, table_of, write_page

ROW = {
    "network": "small",
    "files": "png",
    "cached": False,
    "way": "between the steps, network on 2",
    "loader": [400.0, 500.0, 400.0],
    "step": [100.0, 100.0, 100.0],
    "both": [80.0, 90.0, 70.0],
}
FOUND = {
    "machine": {"hardware": "a machine", "torch": "2", "load": 0.1},
    "settings": {"batch": 64, "images": 512, "steps": 8, "repeats": 3, "crops": "drawn people"},
    "rows": [ROW, {**ROW, "way": "1 thread ahead, network on 2", "both": [95.0, 96.0, 97.0]}],
}


def test_ratios_are_of_the_slower_in_the_same_repetition() -> None:
    assert ratios(ROW) == pytest.approx([0.8, 0.9, 0.7])
    assert ratios({**ROW, "loader": [50.0, 160.0, 400.0]})[0] == pytest.approx(1.6)


def test_taking_turns_is_the_limit_of_shared_cores() -> None:
    assert limits(ROW) == pytest.approx([0.8, 5 / 6, 0.8])


def test_every_way_is_named_apart() -> None:
    for cores in (1, 2, 16):
        names = [str(way) for way in bench.ways(cores)]
        assert len(set(names)) == len(names)
        assert all(way.threads >= 1 for way in bench.ways(cores))


def test_the_page_is_made_of_the_figures(tmp_path: Path) -> None:
    write_page(FOUND, tmp_path / "loader.md")
    page = (tmp_path / "loader.md").read_text(encoding="utf-8")
    assert (
        "| PNG, decoded anew | between the steps, network on 2 | 400 (400–450) | 100 (100–100) | 80 (75–85) |" in page
    )
    assert "80% (75%–85%) | 80% (80%–82%) |" in page
    assert "Fastest together: 1 thread ahead, network on 2, PNG, decoded anew." in page
    assert "the machine was busy" not in page
    assert "--data" not in page
    busy = {**FOUND, "machine": {**FOUND["machine"], "load": 3.0}}  # type: ignore[dict-item]
    write_page(busy, tmp_path / "loader.md")
    assert "the machine was busy (load 3.0)" in (tmp_path / "loader.md").read_text(encoding="utf-8")
    assert table_of(FOUND).row_count == 2


def test_the_committed_page_is_the_one_of_the_committed_figures(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "docs" / "benchmarks"
    write_page(json.loads((folder / "loader.json").read_text(encoding="utf-8")), tmp_path / "loader.md")
    assert (folder / "loader.md").read_text(encoding="utf-8") == (tmp_path / "loader.md").read_text(encoding="utf-8")


def test_drawn_people_are_measured_every_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "NETWORKS", {"tiny": (0.0625, 32)})
    monkeypatch.setattr(bench, "BATCH_SIZE", 4)
    monkeypatch.setattr(bench, "cores", lambda: 1)
    monkeypatch.setattr(bench, "ways", lambda cores: [bench.Way(0, 1), bench.Way(1, 1)])
    output = tmp_path / "loader.json"
    bench.main(data=None, images=8, steps=2, repeats=2, json_file=output)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert [(row["files"], row["cached"]) for row in found["rows"]] == [*bench.CROPS, *bench.CROPS]
    for row in found["rows"]:
        assert len(row["loader"]) == len(row["step"]) == len(row["both"]) == 2
        assert min(row["loader"] + row["step"] + row["both"]) > 0
    page = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "measured before processes were taken out" in page
    for text in (page, output.read_text(encoding="utf-8")):
        assert str(tmp_path) not in text
        assert tempfile.gettempdir() not in text
