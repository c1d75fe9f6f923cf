"""The page and its files as the service sends them, without a browser."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from service.console import load_assets
from service.security import Scope, create_key

ASSETS = load_assets()
ROOT = Path(__file__).parents[3]


def text(name: str) -> str:
    return ASSETS[name].content.decode("utf-8")


def test_page_and_files_need_no_key_even_where_the_service_has_keys(api: Any, problem: Any) -> None:
    with api.service.store.write() as session:
        create_key(session, label="", scopes=[Scope.ADMIN])
    problem(api.get("/v1/collections"), "unauthenticated", 401)
    assert api.get("/").status_code == 200
    for name, asset in ASSETS.items():
        answer = api.get(f"/console/{name}")
        assert (answer.status_code, answer.content) == (200, asset.content)
        assert answer.headers["content-type"] == asset.media_type


def test_every_file_that_the_page_asks_for_is_there(shared_api: Any) -> None:
    wanted = set(re.findall(r'(?:src|href)="(console/[^"]+)"', text("index.html")))
    assert {"console/app.js", "console/style.css", "console/icon.svg"} <= wanted
    for script in (name for name in ASSETS if name.endswith(".js")):
        imported = re.findall(r'from "\./([^"]+)"', text(script))
        wanted |= {f"console/{name}" for name in imported}
    assert {path.removeprefix("console/") for path in wanted} | {"index.html"} == set(ASSETS)
    for path in wanted:
        assert shared_api.get(f"/{path}").status_code == 200


def test_the_policy_allows_nothing_but_the_service_itself(shared_api: Any) -> None:
    for path in ("/", "/console/app.js"):
        headers = shared_api.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self' blob: data:"
        assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "camera=(self)" in headers["permissions-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = text("index.html")
    assert re.findall(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", page) == []
    for name in ASSETS:
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text(name)))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name


@pytest.mark.parametrize("name", ["missing.js", "__init__.py", "..%2Fapp.py", "%2e%2e%2fapp.py", "app.js%00", "APP.JS"])
def test_no_other_file_is_sent(shared_api: Any, problem: Any, name: str) -> None:
    problem(shared_api.get(f"/console/{name}"), "not-found", 404)


def test_the_page_is_no_part_of_the_api_document(shared_api: Any) -> None:
    paths = shared_api.get("/openapi.json").json()["paths"]
    assert not {path for path in paths if path == "/" or path.startswith("/console")}


def test_an_installed_package_has_the_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["service.console"]
    folder = Path(str(files("service.console")))
    packed = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert packed == set(ASSETS)


def test_every_control_that_a_script_looks_for_is_in_the_page() -> None:
    made = {"enrol-file", "enrol-list"}
    ids = re.findall(r'\bid="([^"]+)"', text("index.html"))
    assert len(ids) == len(set(ids))
    for name in (name for name in ASSETS if name.endswith(".js")):
        assert set(re.findall(r'byId\("([^"]+)"\)', text(name))) - made <= set(ids), name
