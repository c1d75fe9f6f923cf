"""The pages agree with the code."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from service.problems import ALL_PROBLEMS
from service.security import Scope
from service.settings import ENV_PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs"
API = (DOCS / "api.md").read_text()
SERVICE = (DOCS / "service.md").read_text()


def table_rows(text: str, first: str) -> dict[str, list[str]]:
    """Rows of the table whose head begins with a cell, by their first cell."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = lines[start + 2 :]
    rows = rows[: next(number for number, line in enumerate([*rows, ""]) if not line.startswith("|"))]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_settings_table_is_the_settings() -> None:
    rows = table_rows(SERVICE, "variable")
    assert list(rows) == [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        shown = rows[ENV_PREFIX + name.upper()][0].strip("`")
        if field.default is PydanticUndefined:
            assert shown == "required"
        else:
            assert shown == ("none" if field.default is None else str(field.default).lower())


def test_the_problem_table_is_the_problems() -> None:
    rows = table_rows(API, "`type` ends in")
    assert {slug: int(cells[0]) for slug, cells in rows.items()} == {
        slug: problem.status for slug, problem in ALL_PROBLEMS.items()
    }


def test_the_scope_table_is_the_scopes() -> None:
    assert set(table_rows(SERVICE, "scope")) == {scope.value for scope in Scope}


def test_every_route_is_described_and_has_a_curl(api: Any) -> None:
    curls = [_call(line) for line in _commands(API)]
    for path, item in api.get("/openapi.json").json()["paths"].items():
        for method in item:
            assert f"`{method.upper()} {path}`" in API, f"{method} {path} is not described"
            pattern = re.compile(re.sub(r"\{\w+\}", r"[\\w.-]+", path) + r"(\?.*)?")
            assert any(verb == method.upper() and pattern.fullmatch(url) for verb, url in curls), (
                f"no curl: {method} {path}"
            )


def _commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    joined = "\n".join(blocks).replace("|\n  ", "| ")
    faces = re.search(r"^FACES=\$URL(\S+)$", joined, re.MULTILINE)
    assert faces
    return [line.replace("$FACES", "$URL" + faces[1]) for line in joined.splitlines() if "curl" in line]


def _call(line: str) -> tuple[str, str]:
    """Method and path of a curl command."""
    words = shlex.split(line[line.index("curl") :])
    url = next(word for word in words if word.startswith("$URL")).removeprefix("$URL")
    if "-X" in words:
        return words[words.index("-X") + 1], url
    return ("POST" if {"-F", "-d"} & set(words) else "GET"), url


@pytest.mark.parametrize("text", [API, SERVICE])
def test_there_is_no_liveness_detection_and_the_pages_say_so(text: str) -> None:
    assert "There is no liveness detection" in text


def test_examples_of_json_are_json() -> None:
    examples = re.findall(r"```json\n(.*?)```", API, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        json.loads(example)
