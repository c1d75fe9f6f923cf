"""What a type checker sees of both clients."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RIGHT = """
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from facemargin.client import AsyncClient, Client
from facemargin.client.replies import Person, Verification


def blocking(client: Client) -> None:
    assert_type(client.verify("a.jpg", b"...", max_fmr=1e-3), Verification)
    assert_type(client.people("staff"), Iterator[Person])
    assert_type(client.metrics(), str)


async def awaited(client: AsyncClient) -> None:
    assert_type(await client.verify("a.jpg", b"...", max_fmr=1e-3), Verification)
    assert_type(client.people("staff"), AsyncIterator[Person])
"""
WRONG = """
from facemargin.client import AsyncClient, Client


async def wrong(client: Client, other: AsyncClient) -> None:
    client.verify("a.jpg", limit=3)
    client.add_person("staff")
    client.search("staff", 7)
    other.search("staff", "a.jpg", face="all")
    other.nothing()
"""


@pytest.mark.slow
def test_arguments_and_replies_are_typed(tmp_path: Path) -> None:
    from mypy import api

    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", "--follow-imports=silent"]
    said, errors, code = api.run([*options, str(tmp_path / "right.py")])
    assert (code, errors) == (0, ""), said
    said, _, code = api.run([*options, str(tmp_path / "wrong.py")])
    assert code == 1
    for number in range(6, 11):
        assert f"wrong.py:{number}: error" in said, said
