"""Every call of the unmodified compreface-sdk, against the service at an address; run by an environment of its own.

Prints the replies as JSON, and which functions of the SDK that send a request, or that its user may call, were not run.
"""

import argparse
import inspect
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import compreface.client
import compreface.collections
import compreface.service
from compreface import CompreFace

OPTIONS = {
    "limit": 0,
    "det_prob_threshold": 0.6,
    "prediction_count": 2,
    "face_plugins": "calculator,age,gender,landmarks,mask",
    "status": "true",
}


def wanted() -> Iterator[CodeType]:
    """What a user of the SDK may call, and every function behind it that sends a request."""
    for module in (compreface.collections, compreface.service):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            yield from (code for name, code in functions(kind) if not name.startswith("_"))
    yield from (code for name, code in functions(CompreFace) if not name.startswith("_"))
    for _, kind in inspect.getmembers(compreface.client, inspect.isclass):
        yield from (code for _, code in functions(kind) if "requests" in code.co_names)


def functions(kind: type) -> Iterator[tuple[str, CodeType]]:
    for name, value in vars(kind).items():
        if isinstance(value, FunctionType):
            yield name, value.__code__
        elif isinstance(value, property):
            yield from ((name, part.__code__) for part in (value.fget, value.fset) if isinstance(part, FunctionType))


class Seen:
    """The functions that were run."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.codes.add(frame.f_code)


def calls(domain: str, port: str, key: str, photos: list[Path], address: str) -> Iterator[tuple[str, Any]]:
    """The replies, by what was asked."""
    bush, bush_again, other = photos
    face = CompreFace(domain, port, OPTIONS)
    face.domain, face.port, face.options = face.domain, face.port, face.options
    recognition = face.init_face_recognition(key)
    detection, verification = face.init_face_detection(key), face.init_face_verification(key)
    yield "functions", [part.get_available_functions() for part in (recognition, detection, verification)]
    subjects, collection = recognition.get_subjects(), recognition.get_face_collection()

    yield "empty", [subjects.list(), collection.list()]
    yield "added subject", subjects.add("Łukasz O'Brien")
    yield "added again", subjects.add("Łukasz O'Brien")
    yield "added path", collection.add(str(bush), "George W Bush", {"det_prob_threshold": 0.8})
    yield "added bytes", collection.add(bush_again.read_bytes(), "George W Bush")
    yield "added url", collection.add(f"{address}/{other.name}", "Łukasz O'Brien")
    yield "no face", collection.add(str(bush), "George W Bush", {"det_prob_threshold": 1.0})
    yield "subjects", subjects.list()
    faces = collection.list()
    yield "faces", faces
    yield "recognized", recognition.recognize(str(bush))
    yield "recognized plainly", recognition.recognize(other.read_bytes(), {"limit": 1})
    yield "detected", detection.detect(str(bush))
    yield "detected plainly", detection.detect(other.read_bytes(), {"limit": 1})
    yield "verified", verification.verify(str(bush), str(other))
    yield "verified the same", verification.verify(bush.read_bytes(), str(bush), {"det_prob_threshold": 0.7})
    first, second = (item["image_id"] for item in faces["faces"][:2])
    yield "verified example", collection.verify(str(bush), first, OPTIONS)
    yield "verified example plainly", collection.verify(other.read_bytes(), first, {"limit": 1})
    yield "renamed", subjects.update("George W Bush", "Dubya")
    yield "deleted example", collection.delete(second)
    yield "deleted again", collection.delete(second)
    yield "merged", subjects.update("Łukasz O'Brien", "Dubya")
    yield "after merging", [subjects.list(), collection.list()]
    yield "deleted examples", collection.delete_all("Dubya")
    yield "added to be deleted", [subjects.add("one"), subjects.add("two"), subjects.add("three")]
    yield "deleted subject", subjects.delete("one")
    yield "deleted subjects", subjects.delete_all()
    yield "at last", [subjects.list(), collection.list()]


def served(folder: Path) -> ThreadingHTTPServer:
    """The photographs at an address of this machine, for the SDK to fetch."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("domain", "port", "key"):
        parser.add_argument(name)
    parser.add_argument("photos", nargs=3, type=Path)
    arguments = parser.parse_args()
    server = served(arguments.photos[2].parent)
    seen = Seen()
    sys.setprofile(seen)
    address = f"http://127.0.0.1:{server.server_port}"
    replies = dict(calls(arguments.domain, arguments.port, arguments.key, arguments.photos, address))
    sys.setprofile(None)
    server.shutdown()
    every = list(wanted())
    missed = [f"{code.co_filename}:{code.co_name}" for code in every if code not in seen.codes]
    print(json.dumps({"replies": replies, "functions": len(every), "missed": missed}))


if __name__ == "__main__":
    main()
