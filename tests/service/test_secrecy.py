"""What must never leave: names, faces, vectors and keys in logs, tracebacks in replies, keys in the project."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from facemargin.bundle import Bundle
from facemargin.preprocessing import encode_png
from service.security import Scope, create_key
from service.store import Store

ROOT = Path(__file__).parents[2]
NAME, OTHER_NAME, COLLECTION_SECRET = "Zebulon Quicksilver", "Wilhelmina Thistlewood", "exif-of-somebody"
DEBUGGING = (
    "import logging, sys; logging.basicConfig(level=logging.DEBUG, force=True);"
    "sys.argv[0] = 'facemargin'; from facemargin.cli import main; main()"
)
PROJECT_KEY = re.compile(r"fm_[0-9a-f]{8}_[A-Za-z0-9_-]{20,}")
ASSIGNED = re.compile(
    r"(?i)(api[_-]?key|password|secret|token|master[_-]?key)\w*[ \t]*[:=][ \t]*['\"]?[A-Za-z0-9+][A-Za-z0-9+/_-]{15,}"
)


def jpeg_with_metadata(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    image, metadata, file = Image.fromarray(pixels), Image.Exif(), io.BytesIO()
    metadata[0x010E] = COLLECTION_SECRET
    image.save(file, "JPEG", exif=metadata)
    return file.getvalue()


class Spoken:
    """A service in a process of its own that says all it can; its words so far."""

    def __init__(self, bundle: Path, store: Path, master_key: str) -> None:
        environment = os.environ | {
            "FACEMARGIN_MODELS": str(store / "no-models"),
            "FACEMARGIN_MASTER_KEY": master_key,
            "PYTHONUNBUFFERED": "1",
        }
        arguments = ["serve", "--bundle", str(bundle), "--store", str(store), "--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEBUGGING, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self.address = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.match(r"facemargin: serving on (\S+)", line):
                self.address = found[1]
                break
        assert self.address, "".join(self.lines)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return "".join(self.lines)


def test_the_log_of_a_whole_day_names_nobody_and_shows_nothing(
    tmp_path: Path, tiny_bundle: Bundle, vector: Any, crop: Any
) -> None:
    """Everything is done once, well and badly, with every logger at DEBUG."""
    store, master = tmp_path / "store", base64.b64encode(bytes(range(100, 132))).decode()
    with Store(store) as opened, opened.write() as session:
        key = create_key(session, label="label-of-the-key", scopes=[Scope.ADMIN])
    spoken = Spoken(tiny_bundle.path, store, master)
    photo, embedding = jpeg_with_metadata(1), vector(7)
    headers, replies = {"Authorization": f"Bearer {key}", "Idempotency-Key": "idempotency-4711"}, list[str]()
    aligned = {"aligned": "true"}
    try:
        with httpx2.Client(base_url=spoken.address, headers=headers) as client:

            def ask(method: str, url: str, **more: Any) -> Any:
                more["headers"] = {"Idempotency-Key": f"idempotency-4711-{len(replies)}"} | more.pop("headers", {})
                answer = client.request(method, url, **more)
                replies.append(answer.text)
                assert answer.status_code < 500, answer.text
                return answer.json() if answer.content else None

            people = "/v1/collections/staff/people"
            ask("PUT", "/v1/collections/staff", json={"keep_crops": True})
            person = ask("POST", people, json={"name": NAME})["id"]
            ask("PATCH", f"{people}/{person}", json={"name": OTHER_NAME})
            ask("GET", people, params={"name": OTHER_NAME})
            ask("POST", f"{people}/{person}/faces", files={"image": photo}, data=aligned)
            known = {"embedding": embedding.tolist(), "model": tiny_bundle.model_id}
            face = ask("POST", f"{people}/{person}/faces", json=known)["id"]
            ask("POST", "/v1/collections/staff/search", json=known)
            ask("POST", "/v1/embeddings", files={"images": photo}, data=aligned)
            ask("POST", "/v1/embeddings", json={"images": [base64.b64encode(crop(1)).decode()], "aligned": True})
            ask("POST", "/v1/verify", files={"image_a": photo, "image_b": photo}, data=aligned)
            ask("GET", f"{people}/{person}/export")
            ask("POST", people, json={"name": NAME, "surprise": NAME})
            ask(
                "POST",
                people,
                content=b'{"name": "' + NAME.encode() + b'"',
                headers={"Content-Type": "application/json"},
            )
            ask("POST", f"{people}/{person}/faces", json={"embedding": [*embedding.tolist(), 1.0], "model": "x"})
            ask("POST", "/v1/embeddings", files={"images": photo[:500]}, data=aligned)
            ask("POST", "/v1/embeddings", json={"images": [NAME]})
            ask("GET", "/v1/models", headers={"Authorization": f"Bearer {key[:-1]}"})
            ask("DELETE", f"{people}/{person}/faces/{face}")
            ask("DELETE", f"{people}/{person}")
            ask("DELETE", "/v1/collections/staff")
    finally:
        log = spoken.end()
    assert log.count(" /v1/") >= 20, "the log is not there"
    assert "DEBUG" in log, "nothing speaks at DEBUG, so this test shows nothing"
    secrets = {
        "a name": [NAME, OTHER_NAME, NAME.split()[1], "label-of-the-key"],
        "metadata of a picture": [COLLECTION_SECRET],
        "a key": [key, key.split("_", 2)[2], key.split("_", 2)[2][:12], master, master[:12]],
        "an idempotency key": ["idempotency-4711"],
        "a vector": [f"{value:.6f}" for value in embedding[:8]] + [repr(float(value))[:9] for value in embedding[:8]],
        "bytes of a picture": [base64.b64encode(photo[k : k + 30]).decode() for k in (300, 600)],
        "bytes as python shows them": [repr(photo[k : k + 12])[2:-1] for k in (0, 400, 800)],
    }
    for what, values in secrets.items():
        for value in values:
            assert value not in log, f"the log holds {what}: {value}"
    assert not any("Traceback" in text or 'File "' in text for text in replies)


def test_files_of_the_store_are_their_owners_alone(make_api: Any, vector: Any) -> None:
    api = make_api()
    api.enrol(api.person(), vector(1))
    folder = api.service.store.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*")}
    assert {"facemargin.sqlite3", "facemargin.sqlite3-wal"} <= modes.keys()
    assert modes == dict.fromkeys(modes, 0)


def test_the_settings_do_not_show_the_master_key(make_api: Any) -> None:
    master = base64.b64encode(bytes(range(32))).decode()
    settings = make_api(master_key=master).service.settings
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert master not in shown


def texts() -> list[Path]:
    """The files of the project that hold text for people and machines that run it."""
    folders = [ROOT / name for name in ("docs", "service", "facemargin", "recipes", ".ci")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    kinds = {".md", ".py", ".toml", ".yml", ".yaml", ".txt", ".js", ".html", ".json", ".sh", ".cfg", ""}
    return [path for path in found if path.suffix in kinds and "__pycache__" not in path.parts]


def test_no_key_is_delivered_with_the_project() -> None:
    assert len(texts()) > 100
    for path in texts():
        text = path.read_text(encoding="utf-8", errors="replace")
        assert PROJECT_KEY.search(text) is None, path
        if path.suffix not in (".py", ".js"):
            assert ASSIGNED.search(text) is None, (path, ASSIGNED.search(text))


@pytest.mark.parametrize("line", ["API_KEY=0123456789abcdef0123", "master_key: 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYX'"])
def test_a_key_in_a_file_would_be_found(line: str) -> None:
    assert ASSIGNED.search(line)
    assert PROJECT_KEY.search("fm_0a1b2c3d_" + "x" * 43)
    assert not encode_png(np.zeros((1, 1, 3), np.uint8)).startswith(b"fm_")
