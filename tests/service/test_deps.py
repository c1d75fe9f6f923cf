"""Which key a request sends."""

from typing import Any

import pytest

from service.security import Scope, create_key


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer {key}"}, 200),
        ({"Authorization": "bearer   {key}  "}, 200),
        ({"X-API-Key": "{key}"}, 200),
        ({"Authorization": "Basic {key}", "X-API-Key": "{key}"}, 200),
        ({"Authorization": "Bearer ", "X-API-Key": "{key}"}, 200),
        ({"Authorization": "Bearer wrong", "X-API-Key": "{key}"}, 401),
        ({"Authorization": "{key}"}, 401),
        ({"Authorization": "Basic {key}"}, 401),
        ({"X-API-Key": "Bearer {key}"}, 401),
        ({"X-API-Key": ""}, 401),
        ({}, 401),
    ],
)
def test_a_key_comes_in_either_header(api: Any, headers: dict[str, str], status: int) -> None:
    with api.service.store.write() as session:
        key = create_key(session, label="", scopes=[Scope.READ])
    sent = {name: value.format(key=key) for name, value in headers.items()}
    assert api.get("/v1/collections", headers=sent).status_code == status


def test_an_empty_header_is_no_key(api: Any) -> None:
    assert api.get("/v1/collections", headers={"X-API-Key": ""}).status_code == 200
    assert api.get("/v1/collections", headers={"X-API-Key": "wrong"}).status_code == 401
