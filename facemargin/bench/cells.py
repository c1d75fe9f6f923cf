"""Cells of a benchmark of growth, kept in a file as soon as each is measured, so that a run that is cut off goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facemargin.bench.marked_page import replace_text
from facemargin.errors import ConfigError


class Ledger:
    """What is known of every cell, in a JSON file that is replaced as a whole after each.

    Args:
        path: the file; read where it is there.
        settings: what all figures depend on.
        machine: what they were measured on.
        again: drop what is there.

    Attributes:
        found: settings, machine, and cells by key: either ``figures`` or a ``reason`` why there are none, and seconds.

    Raises:
        ConfigError: the file is of other settings or another machine, or is no such file.
    """

    def __init__(self, path: Path, settings: dict[str, Any], machine: dict[str, Any], *, again: bool = False) -> None:
        self.path = path
        self.found: dict[str, Any] = {"settings": settings, "machine": machine, "cells": {}}
        if path.exists() and not again:
            self.found = read_cells(path)
            held = self.found["settings"], self.found["machine"]
            if held != (settings, machine):
                raise ConfigError(
                    f"{path} holds figures of other settings or another machine: {held[0]}, {held[1]}; pass --again to "
                    "replace them, or another --json"
                )

    def figures(self, key: str) -> dict[str, Any] | None:
        """What was measured, or None."""
        found: dict[str, Any] | None = self.found["cells"].get(key, {}).get("figures")
        return found

    def keep(self, key: str, outcome: dict[str, Any]) -> None:
        """Note a cell and write the file."""
        self.found["cells"][key] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(self.found, indent=1) + "\n")


def read_cells(path: Path) -> dict[str, Any]:
    """A file that a `Ledger` wrote.

    Raises:
        ConfigError: it is not such a file.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["settings"], dict) and isinstance(found["machine"], dict):
            found["cells"].items()
            return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as figures of a benchmark of growth: {error!r}") from error
    raise ConfigError(f"{path} holds no settings and machine; name a file that a benchmark of growth wrote")


def measured(found: dict[str, Any], way: str, size: str) -> list[dict[str, Any]]:
    """Cells with figures: those, and the parts of their key; by dimension, then way as first met, then size.

    Args:
        found: as a `Ledger` has it; its keys are ``WAY/SIZE/DIM``.
        way, size: what the first two parts are called in a row; the third is ``dim``.
    """
    rows = []
    for key, cell in found["cells"].items():
        if "figures" in cell:
            name, number, dim = _parts(key)
            rows.append({way: name, size: number, "dim": dim, **cell["figures"]})
    order = list(dict.fromkeys(row[way] for row in rows))
    return sorted(rows, key=lambda row: (-row["dim"], order.index(row[way]), row[size]))


def unmeasured(found: dict[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    """Way, size, dimension and reason of every cell without figures."""
    for key, cell in found["cells"].items():
        if "reason" in cell:
            yield *_parts(key), cell["reason"]


def _parts(key: str) -> tuple[str, int, int]:
    way, size, dim = key.rsplit("/", 2)
    return way, int(size), int(dim)
