"""SIGTERM: what was accepted is finished, and nothing new is taken. With a real process and a slow model."""

import http.client
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from facemargin.bundle import Bundle, Manifest, write_bundle

REQUESTS = 6


@pytest.fixture
def slow_bundle(tmp_path: Path) -> Bundle:
    """A model that takes some 0.1 s: a matrix is multiplied by itself in a loop."""
    helper, node = onnx.helper, onnx.helper.make_node
    square = np.random.default_rng(0).standard_normal((700, 700)).astype(np.float32) / 30
    inner = [
        node("MatMul", ["m_in", "square"], ["m_out"]),
        node("Identity", ["go_on_in"], ["go_on_out"]),
    ]
    value = helper.make_tensor_value_info
    types = onnx.TensorProto
    body = helper.make_graph(
        inner,
        "body",
        [value("i", types.INT64, []), value("go_on_in", types.BOOL, []), value("m_in", types.FLOAT, [700, 700])],
        [value("go_on_out", types.BOOL, []), value("m_out", types.FLOAT, [700, 700])],
    )
    graph = helper.make_graph(
        [
            node("Loop", ["times", "yes", "square"], ["last"], body=body),
            node("ReduceMean", ["last"], ["mean"], keepdims=0),
            node("Mul", ["mean", "nothing"], ["none"]),
            node("GlobalAveragePool", ["crops"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("Add", ["flat", "none"], ["embedding"]),
        ],
        "slow",
        [value("crops", types.FLOAT, ["N", 3, 112, 112])],
        [value("embedding", types.FLOAT, ["N", 3])],
        [
            onnx.numpy_helper.from_array(np.array(8, np.int64), "times"),
            onnx.numpy_helper.from_array(np.array(True), "yes"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"),
            onnx.numpy_helper.from_array(square, "square"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write_bundle(
        tmp_path / "bundle", Manifest(name="slow", embedding_dim=3, opset=17), {"model.onnx": model.SerializeToString()}
    )


@contextmanager
def served(bundle: Bundle, store: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "facemargin", "serve", "--bundle", str(bundle.path), "--store", str(store)]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60)[0], "the service did not start"
            found = re.search(r"serving on http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found is not None
            yield process, int(found[1])
        finally:
            process.kill()


def test_requests_in_flight_are_answered_and_new_connections_refused(
    slow_bundle: Bundle, tmp_path: Path, crop: Any
) -> None:
    answers: list[int] = []

    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="c.png"\r\n\r\n'
        flag = b'\r\n--b\r\nContent-Disposition: form-data; name="aligned"\r\n\r\ntrue\r\n--b--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/v1/embeddings", head + crop(1) + flag, kind)
        answers.append(connection.getresponse().status)
        connection.close()

    with served(slow_bundle, tmp_path / "store") as (process, port):
        clients = [threading.Thread(target=ask, args=(port,)) for _ in range(REQUESTS)]
        for client in clients:
            client.start()
        while not answers:  # the first is done, the others are at work or wait in the queue
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while _accepts(port):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert len(answers) < REQUESTS, "all were answered before the service stopped: the model is not slow enough"
        for client in clients:
            client.join(30)
        assert process.wait(30) in (0, -signal.SIGTERM)
    assert answers == [200] * REQUESTS


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
