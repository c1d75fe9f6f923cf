"""The page on this API agrees with the code."""

from pathlib import Path
from typing import Any

from service import compreface
from service.compreface import errors
from service.compreface.errors import Kind

PAGE = (Path(__file__).parents[3] / "docs" / "compreface.md").read_text()


def test_every_route_is_described() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for router in compreface.ROUTERS:
        for route in router.routes:
            path, methods = route.path.rstrip("/"), route.methods  # type: ignore[attr-defined]
            described = [row for row in rows if f"{path}`" in row or f"{path}?" in row]
            assert all(any(f"`{method}" in row for row in described) for method in methods), (methods, path)


def test_every_code_is_described() -> None:
    table = PAGE.split("| code | status | when |")[1].split("\n\n")[0]
    described = {cell.strip() for line in table.splitlines()[2:] for cell in line.split("|")[1].split(",")}
    kinds: list[Any] = [kind for kind in vars(errors).values() if isinstance(kind, Kind)]
    assert {str(kind.code) for kind in kinds} == described


def test_the_page_says_what_matters() -> None:
    assert "There is no liveness detection" in PAGE
    assert "strangers included" in PAGE
