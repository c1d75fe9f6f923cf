"""A client of the CompreFace-compatible API whose images are aligned crops, so that no detector is needed."""

from collections.abc import Callable
from typing import Any

import pytest

Refused = Callable[..., str]
Theirs = Callable[..., Any]


@pytest.fixture
def refused() -> Refused:
    """Checks that an answer is an error in CompreFace's form, and gives its message."""

    def check(answer: Any, code: int, status: int) -> str:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
        body = answer.json()
        assert body.keys() == {"message", "code"}
        assert body["code"] == code, body
        assert answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
        return str(body["message"])

    return check


@pytest.fixture
def add(crop: Any) -> Theirs:
    """Adds an example, made up by number, to a subject."""

    def call(api: Any, subject: str, identity: int, picture: int = 0, **more: Any) -> Any:
        answer = api.post(
            "/api/v1/recognition/faces",
            params={"subject": subject, "detect_faces": "false"},
            files={"file": ("image.jpg", crop(identity, picture))},
            **more,
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["image_id"]

    return call


@pytest.fixture
def recognize(crop: Any) -> Theirs:
    """Asks who a made-up identity resembles; the subjects of the only face."""

    def call(api: Any, identity: int, picture: int = 0, headers: Any = None, **params: Any) -> Any:
        answer = api.post(
            "/api/v1/recognition/recognize",
            params={"detect_faces": "false", **params},
            files={"file": ("image.jpg", crop(identity, picture))},
            headers=headers,
        )
        assert answer.status_code == 200, answer.text
        (face,) = answer.json()["result"]
        return face["subjects"]

    return call
