"""The unmodified compreface-sdk 0.6.0, in an environment of its own, against a running service on real photographs."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from facemargin.bundle import Bundle
from service.security import Scope, create_key
from service.store import Store
from training.demo.service_process import ServiceProcess

PACKAGES = ("compreface-sdk==0.6.0", "urllib3<2")
SECONDS = 300
BUSH = "lfw/images/George_W_Bush/George_W_Bush_{}.jpg"
OTHER = "lfw/images/Aaron_Peirsol/Aaron_Peirsol_0001.jpg"
SCOPES = (Scope.READ, Scope.WRITE, Scope.VERIFY, Scope.EMBED)


@pytest.fixture(scope="module")
def sdk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter that has the SDK: of ``$FACEMARGIN_SDK_ENV``, or of an environment made here and kept."""
    if given := os.environ.get("FACEMARGIN_SDK_ENV"):
        return Path(given) / "bin" / "python"
    cache = getattr(request.config, "cache", None)
    folder = Path(cache.mkdir("compreface-sdk") if cache is not None else tmp_path_factory.mktemp("compreface-sdk"))
    kept = folder / "env"
    if not kept.exists():
        made = make_environment(folder)
        with contextlib.suppress(OSError):  # another process of this run was first
            made.rename(kept)
    return kept / "bin" / "python"


def make_environment(folder: Path) -> Path:
    """An environment with the SDK, in a new folder; the test is skipped where no package index has it."""
    made = Path(tempfile.mkdtemp(dir=folder))
    subprocess.run([sys.executable, "-m", "venv", made], check=True, timeout=SECONDS)
    command = [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"needs a package index that has {' and '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")
    return made


@pytest.fixture(scope="module")
def answers(
    sdk: Path, shared_data: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What every call of the SDK returned."""
    folder = tmp_path_factory.mktemp("sdk")
    store = Store(folder / "store")
    store.unlock(None)
    with store.write() as session:
        key = create_key(session, label="sdk", scopes=SCOPES)
    store.close()
    detector = shared_data / "models" / "yunet_n_dynamic.onnx"
    photos = [shared_data / BUSH.format("0003"), shared_data / BUSH.format("0005"), shared_data / OTHER]
    with ServiceProcess(tiny_bundle.path, folder / "store", folder / "log", detector=detector) as process:
        url = urlsplit(process.url)
        command = [sdk, Path(__file__).with_name("sdk_calls.py"), f"http://{url.hostname}", str(url.port), key, *photos]
        alone = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in (folder / "log").read_text()
    return dict(json.loads(done.stdout))


@pytest.fixture
def replies(answers: dict[str, Any]) -> dict[str, Any]:
    return dict(answers["replies"])


def test_no_call_of_the_sdk_is_forgotten(answers: dict[str, Any]) -> None:
    assert answers["missed"] == []
    assert answers["functions"] >= 30


def test_subjects_and_examples(replies: dict[str, Any]) -> None:
    nothing = [
        {"subjects": []},
        {"faces": [], "page_number": 0, "page_size": 20, "total_pages": 0, "total_elements": 0},
    ]
    assert replies["empty"] == nothing
    assert replies["added subject"] == {"subject": "Łukasz O'Brien"}
    assert replies["added again"]["code"] == 43
    added = [replies[name] for name in ("added path", "added bytes", "added url")]
    assert [item["subject"] for item in added] == ["George W Bush", "George W Bush", "Łukasz O'Brien"]
    assert replies["no face"] == {"message": "No face is found in the given image", "code": 28}
    assert replies["subjects"] == {"subjects": ["Łukasz O'Brien", "George W Bush"]}
    assert replies["faces"]["faces"] == added
    assert replies["faces"]["total_elements"] == 3
    assert replies["renamed"] == replies["merged"] == {"updated": True}
    assert replies["deleted example"] == {"image_id": added[1]["image_id"], "subject": "Dubya"}
    assert replies["deleted again"]["code"] == 44
    after, listed = replies["after merging"]
    assert after == {"subjects": ["Dubya"]}
    assert {face["image_id"] for face in listed["faces"]} == {added[0]["image_id"], added[2]["image_id"]}
    assert replies["deleted examples"] == {"deleted": 2}
    assert replies["deleted subject"] == {"subject": "one"}
    assert replies["deleted subjects"] == {"deleted": 2}
    assert replies["at last"] == nothing


def test_recognition(replies: dict[str, Any]) -> None:
    face = replies["recognized"]["result"][0]
    assert face.keys() == {"box", "landmarks", "embedding", "subjects", "execution_time"}
    assert [found["subject"] for found in face["subjects"]] == ["George W Bush", "Łukasz O'Brien"]
    assert face["subjects"][0]["similarity"] > 0.99
    assert replies["recognized"]["plugins_versions"].keys() == {"detector", "calculator"}
    (plain,) = replies["recognized plainly"]["result"]
    assert (plain.keys(), len(plain["subjects"])) == ({"box", "subjects"}, 1)
    assert plain["subjects"][0]["subject"] == "Łukasz O'Brien"
    assert replies["recognized plainly"].keys() == {"result"}


def test_detection(replies: dict[str, Any]) -> None:
    face = replies["detected"]["result"][0]
    assert face.keys() == {"box", "landmarks", "embedding", "execution_time"}
    assert face["box"].keys() == {"probability", "x_max", "y_max", "x_min", "y_min"}
    (plain,) = replies["detected plainly"]["result"]
    assert plain.keys() == {"box"}


def test_verification(replies: dict[str, Any]) -> None:
    (different,) = replies["verified"]["result"]
    assert different.keys() == {"source_image_face", "face_matches", "plugins_versions"}
    assert different["source_image_face"].keys() == {"box", "landmarks", "embedding", "execution_time"}
    (same,) = replies["verified the same"]["result"]
    assert same["face_matches"][0]["similarity"] > 0.99 > different["face_matches"][0]["similarity"]
    (example,) = replies["verified example"]["result"][:1]
    assert example.keys() == {"box", "landmarks", "embedding", "subject", "similarity", "execution_time"}
    assert example["similarity"] > 0.99
    assert replies["verified example plainly"]["result"][0].keys() == {"box", "subject", "similarity"}
