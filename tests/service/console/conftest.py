"""The console in a real browser: services in processes of their own, one browser a module, a fresh page a test."""

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from facemargin.bundle import Bundle
from service.security import Scope, create_key
from service.store import Store
from training.demo.service_process import ServiceProcess

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
]
EXPECTED = re.compile(r"Failed to load resource: (the server responded with a status of \d+|net::ERR_FAILED)")
PATIENCE_MS = 20_000


class Console(NamedTuple):
    """A running service: its address, a client for what a test prepares, its keys by scope."""

    url: str
    client: httpx2.Client
    keys: dict[str, str]


def _serve(bundle: Bundle, folder: Path, **options: Any) -> ServiceProcess:
    return ServiceProcess(bundle.path, folder / "store", folder / "service.log", **options)


def _client(url: str, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle) -> Iterator[Console]:
    """A service without keys and without a detector."""
    with (
        _serve(tiny_bundle, tmp_path_factory.mktemp("console")) as service,
        _client(service.url) as client,
    ):
        yield Console(service.url, client, {})


@pytest.fixture(scope="module")
def photo_console(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, shared_data: Path
) -> Iterator[Console]:
    """A service with the face detector."""
    detector = shared_data / "models" / "yunet_n_dynamic.onnx"
    with (
        _serve(tiny_bundle, tmp_path_factory.mktemp("photos"), detector=detector) as service,
        _client(service.url) as client,
    ):
        yield Console(service.url, client, {})


@pytest.fixture(scope="module")
def keyed_console(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle) -> Iterator[Console]:
    """A service with keys: one that may do everything and one that may only read."""
    folder = tmp_path_factory.mktemp("keyed")
    with Store(folder / "store") as store, store.write() as session:
        keys = {scope: create_key(session, label="", scopes=[Scope(scope)]) for scope in ("admin", "read")}
    with (
        _serve(tiny_bundle, folder) as service,
        _client(service.url, Authorization=f"Bearer {keys['admin']}") as client,
    ):
        yield Console(service.url, client, keys)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Opens pages of the console. Whatever the browser complains of fails the test: a mistake of a script, a breach of
    the policy, a missing file; answers with an error status, which are part of some tests, are not complaints."""
    contexts, complaints = [], []

    def listen(message: Any) -> None:
        if message.type in ("error", "warning") and not EXPECTED.match(message.text):
            complaints.append(message.text)

    def open_(url: str, path: str = "", *, init: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if init:
            page.add_init_script(init)
        page.goto(f"{url}/{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def png(crop: Callable[..., bytes]) -> Callable[..., dict[str, Any]]:
    """A made-up aligned crop as a file to choose."""

    def make(identity: int, picture: int = 0) -> dict[str, Any]:
        return {"name": f"{identity}-{picture}.png", "mimeType": "image/png", "buffer": crop(identity, picture)}

    return make


_HAND_OVER = """([selector, event, files]) => {
    const data = new DataTransfer();
    for (const {name, type, base64} of files) {
        data.items.add(new File([Uint8Array.from(atob(base64), c => c.charCodeAt(0))], name, {type}));
    }
    const made = event === "paste"
        ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true})
        : new DragEvent(event, {dataTransfer: data, bubbles: true, cancelable: true});
    document.querySelector(selector).dispatchEvent(made);
}"""


@pytest.fixture
def hand_over() -> Callable[..., None]:
    """Drops or pastes files on an element, as the browser would tell the page of it."""

    def give(page: Any, selector: str, event: str, *files: dict[str, Any]) -> None:
        listed = [
            {"name": file["name"], "type": file["mimeType"], "base64": base64.b64encode(file["buffer"]).decode()}
            for file in files
        ]
        page.evaluate(_HAND_OVER, [selector, event, listed])

    return give
