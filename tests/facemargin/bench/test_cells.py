"""The ledger of a benchmark of growth: kept after each cell, and never mixed with other settings."""

import json
from pathlib import Path

import pytest

from facemargin.bench.cells import Ledger, read_cells
from facemargin.errors import ConfigError

SETTINGS, MACHINE = {"k": 5}, {"hardware": "a machine"}


def test_what_is_kept_is_there_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cells.json"
    ledger = Ledger(path, SETTINGS, MACHINE)
    ledger.keep("a/1/2", {"figures": {"x": 1}, "seconds": 2})
    ledger.keep("b/1/2", {"reason": "too long"})
    again = Ledger(path, SETTINGS, MACHINE)
    assert again.figures("a/1/2") == {"x": 1}
    assert again.figures("b/1/2") is None
    assert again.figures("c/1/2") is None
    assert Ledger(path, SETTINGS, MACHINE, again=True).figures("a/1/2") is None
    assert [file.name for file in path.parent.iterdir()] == ["cells.json"]


def test_figures_of_other_settings_or_machines_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    Ledger(path, SETTINGS, MACHINE).keep("a/1/2", {"figures": {}})
    with pytest.raises(ConfigError, match=r"'k': 5.*--again"):
        Ledger(path, {"k": 6}, MACHINE)
    with pytest.raises(ConfigError, match="another machine"):
        Ledger(path, SETTINGS, {"hardware": "another"})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}, "machine": {}, "cells": 3}', '{"settings": 1, '])
def test_a_file_that_is_something_else_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cells.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"cells\.json"):
        read_cells(path)


def test_settings_that_are_no_table_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"settings": 1, "machine": {}, "cells": {}}))
    with pytest.raises(ConfigError, match="no settings"):
        read_cells(path)
