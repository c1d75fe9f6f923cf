"""The demo: end to end through the command line in its short form, and its pieces."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from facemargin.bundle import load_bundle
from facemargin.errors import ConfigError, DataError, FacemarginError
from training.demo import run_demo
from training.demo.model import write_recipe
from training.demo.people import QUICK, SETS, People, align_people, draw_people
from training.demo.service_process import ServiceProcess, call

SECONDS = 600


def demo(*options: str) -> list[str]:
    return [sys.executable, "-m", "facemargin", "demo", "--quick", "--json", *options]


def check_report(report: dict[str, Any], output: Path) -> None:
    """What holds for every demo, however short its training."""
    assert report["output"] == str(output)
    assert report["quick"] is True
    assert report == json.loads((output / "demo.json").read_text())
    people = {name: {folder.name for folder in (output / "faces" / name).iterdir()} for name in SETS}
    assert {name: len(folders) for name, folders in people.items()} == {
        name: size["people"] for name, size in report["sets"].items()
    }
    assert sum(map(len, people.values())) == len(set.union(*people.values()))
    manifest = load_bundle(output / "bundle").manifest
    assert manifest.model_id == report["bundle"]["model"]
    assert manifest.calibration is not None
    assert manifest.calibration.people == len(people["validation"])
    assert manifest.metrics[0].value == report["test"]["tar"][0]["tar"]["value"]
    assert 0 <= report["test"]["eer"] <= 1
    for kind in ("same", "different"):
        answer = report["verify"][kind]
        assert answer["match"] == (answer["similarity"] >= answer["threshold"])
    search = report["search"]
    assert search["right"] + search["wrong"] + search["missed"] == report["service"]["enrolled"] == search["strangers"]
    for line in (report["verify"]["same"]["curl"], report["verify"]["different"]["curl"], search["curl"]):
        words = shlex.split(line)
        assert words[0] == "curl"
        assert words[-1].startswith(report["service"]["url"])
        files = [Path(word.split("=@", 1)[1].strip('"')) for word in words if "=@" in word]
        assert files
        assert all(file.is_file() for file in files)


def read_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The object that a process prints while it goes on running."""
    text = ""
    for line in process.stdout or ():
        text += line
        if line == "}\n":
            break
    return cast(dict[str, Any], json.loads(text))


def test_the_whole_path_on_drawn_faces(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    with subprocess.Popen(
        demo("--output", str(output), "--keep"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            report = read_json(process)
            check_report(report, output)
            assert report["synthetic"] is True
            with urllib.request.urlopen(f"{report['service']['url']}/health/live", timeout=60) as response:
                assert response.status == 200
            process.send_signal(signal.SIGINT)
            rest, messages = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, messages
    assert rest == ""
    assert "synthetic" in messages
    assert "stays open" in messages
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{report['service']['url']}/health/live", timeout=5)


def test_the_whole_path_on_photographs(tmp_path: Path, shared_data: Path) -> None:
    photographs = tmp_path / "photographs"
    for person in sorted((shared_data / "celeba" / "images").iterdir())[:26]:
        (photographs / person.name).mkdir(parents=True)
        for image in sorted(person.iterdir())[:4]:
            shutil.copy(image, photographs / person.name)
    detector = shared_data / "models" / "yunet_n_dynamic.onnx"
    options = ("--data", str(photographs), "--detector", str(detector), "--output", str(tmp_path / "demo"))
    done = subprocess.run(demo(*options), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_report(report, tmp_path / "demo")
    assert report["synthetic"] is False
    assert str(photographs) in report["verify"]["same"]["curl"]
    assert "aligned=true" not in report["verify"]["same"]["curl"]


def test_too_few_people_are_counted(tmp_path: Path) -> None:
    for person in range(5):
        folder = tmp_path / "photographs" / f"person-{person}"
        folder.mkdir(parents=True)
        for image in range(1 + person % 2):
            (folder / f"{image}.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"at least 24 people with two or more photographs .* has 2"):
        align_people(tmp_path / "photographs", tmp_path / "crops", None, 0, Console(quiet=True))
    assert not (tmp_path / "crops").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for _ in range(2):
        with pytest.raises(ConfigError, match="holds more than an earlier demo made"):
            run_demo(output=tmp_path)
        (tmp_path / "demo.json").write_text("{}")  # a demo, and something else beside it
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is a file"):
        run_demo(output=tmp_path / "thesis.tex")


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "bundle").mkdir()
    with pytest.raises(DataError, match="does not exist"):
        run_demo(output=tmp_path, data=tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json"]


def test_the_recipe_is_read_as_train_would(tmp_path: Path) -> None:
    folder = tmp_path / 'with "quotes" and spaces'
    folder.mkdir()
    people = draw_people(folder / "faces", QUICK, 3, Console(quiet=True))
    config = write_recipe(folder / "train.toml", people, QUICK, 3)
    assert config.head == "am-softmax"
    assert config.seed == 3
    assert config.output == folder / "run"
    assert config.data.folders == (folder / "faces" / "train",)
    assert config.validation is not None
    assert config.validation.images == folder / "faces" / "validation"
    assert config.epochs * people.count["train"][1] == QUICK.presentations


def test_the_photograph_of_a_crop_is_found_by_its_whole_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.b.jpg", "c[1].jpg"):
        (tmp_path / "photographs" / "p").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photographs" / "p" / name).touch()
    people = People(tmp_path / "crops", tmp_path / "photographs", "", {})
    crops = {"a.jpg.png": "a.jpg", "a.png.png": "a.png", "a.b.png": "a.b.jpg", "c[1].png": "c[1].jpg"}
    assert {crop: people.sent(tmp_path / "crops" / "p" / crop).name for crop in crops} == crops


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent; 418 for /teapot."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + body)
        parts = {str(part.get_param("name", header="content-disposition")): part for part in message.iter_parts()}
        reply = {name: (part.get_payload(decode=True) or b"").hex() for name, part in parts.items()}  # type: ignore[union-attr]
        content = json.dumps({"parts": reply} if parts else {"json": json.loads(body)}).encode()
        self.send_response(418 if self.path == "/teapot" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_form_arrives_as_it_was_sent(echo: str, tmp_path: Path) -> None:
    picture = tmp_path / "a picture, with; signs.jpg"
    picture.write_bytes(bytes(range(256)) + b"\r\n--")
    done = call("POST", f"{echo}/x", files={"image": picture}, fields={"aligned": "true"})
    assert done.status == 200
    assert {name: bytes.fromhex(value) for name, value in done.reply["parts"].items()} == {
        "image": picture.read_bytes(),
        "aligned": b"true",
    }
    assert shlex.split(done.curl) == ["curl", "-sS", "-F", f'image=@"{picture}"', "-F", "aligned=true", f"{echo}/x"]


def test_no_proxy_comes_between(echo: str) -> None:
    code = f"from training.demo.service_process import call; print(call('POST', '{echo}/x', body={{}}).status)"
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "200\n", done.stderr


def test_json_arrives_as_it_was_sent(echo: str) -> None:
    done = call("POST", f"{echo}/x", body={"name": "Ada O'Neil"})
    assert done.reply == {"json": {"name": "Ada O'Neil"}}
    assert json.loads(shlex.split(done.curl)[-2]) == {"name": "Ada O'Neil"}


def test_an_error_of_the_service_is_told(echo: str) -> None:
    with pytest.raises(FacemarginError, match=r"answered 418 to POST .*/teapot: .*short and stout"):
        call("POST", f"{echo}/teapot", body={"say": "short and stout"})


def test_a_service_that_does_not_answer_is_told() -> None:
    with pytest.raises(FacemarginError, match="does not answer"):
        call("GET", "http://127.0.0.1:9/")


def test_a_service_that_cannot_start_is_told(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "no-bundle", tmp_path / "store", tmp_path / "service.log")
    with (
        pytest.raises(FacemarginError, match=r"the service ended with exit code 2: .*no-bundle.*service\.log"),
        service,
    ):
        pytest.fail("it started")
    assert service.process.poll() == 2
