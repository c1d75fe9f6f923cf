"""One ONNX network of one input and one output, run by ONNX Runtime on the CPU or on a CUDA device.

Owns the session and the batch size that a file may prescribe. It knows nothing of faces, bundles or their manifests.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from facemargin.errors import BundleError, ConfigError

ORT_ERRORS = (
    _ort.EPFail,
    _ort.Fail,
    _ort.InvalidArgument,
    _ort.InvalidGraph,
    _ort.InvalidProtobuf,
    _ort.NoModel,
    _ort.NoSuchFile,
    _ort.NotImplemented,
    _ort.RuntimeException,
    RuntimeError,
)
"""What ONNX Runtime raises; its exceptions have no base class of their own."""

Provider = Literal["cpu", "cuda"]
"""Where a network runs."""

_PROVIDERS: dict[Provider, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}

_QUIET = 3  # ONNX Runtime's severity "error": its warnings about foreign models say nothing to a user

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where the model leaves a size open."""


class OnnxModel:
    """A loaded network; one instance may be used by any number of threads at once.

    Args:
        path: the ONNX file.
        threads: processor threads for one call; 0 takes as many as there are `available_cores`.
        provider: where it runs; operations that CUDA does not have run on the CPU.

    Attributes:
        path: as given.
        input_name: name of the input.
        input_shape: its sizes.
        output_name: name of the output.
        output_shape: its sizes.

    Raises:
        BundleError: it cannot be loaded, or has another number of inputs or outputs, or one that is not float32.
        ConfigError: CUDA is asked for, and this ONNX Runtime or this machine has none.
        ValueError: threads below 0.
    """

    def __init__(self, path: Path, *, threads: int = 0, provider: Provider = "cpu") -> None:
        if threads < 0:
            raise ValueError(f"threads must be at least 0, got {threads}")
        self.path = path
        _check_available(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS[provider])
        except ORT_ERRORS as error:
            raise BundleError(f"{path} cannot be loaded by ONNX Runtime: {_one_line(error)}") from error
        if self._session.get_providers()[0] != _PROVIDERS[provider][0]:  # it falls back without a word
            raise ConfigError(f"ONNX Runtime cannot start CUDA for {path} (no device, or CUDA and cuDNN do not load)")
        self.input_name, self.input_shape = self._only("input", self._session.get_inputs())
        self.output_name, self.output_shape = self._only("output", self._session.get_outputs())

    @property
    def batch(self) -> int | None:
        """The batch size that the file prescribes; None when any will do."""
        return self.input_shape[0] if self.input_shape else None

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output for a batch.

        Args:
            values: float32 (N, ...); N at most `batch` where that is prescribed (the rest is filled up).

        Returns:
            float32 (N, ...).

        Raises:
            BundleError: the network refuses the values or fails on them.
        """
        count = len(values)
        if self.batch is not None and count < self.batch:
            values = np.concatenate([values, np.repeat(values[:1], self.batch - count, axis=0)])
        try:
            output: NDArray[np.float32] = self._session.run([self.output_name], {self.input_name: values})[0]
        except ORT_ERRORS as error:
            raise BundleError(f"{self.path} cannot be run: {_one_line(error)}") from error
        if output.ndim == 0 or len(output) != len(values):
            raise BundleError(f"{self.path}: the output for {len(values)} crops has shape {tuple(output.shape)}")
        rows: NDArray[np.float32] = output[:count]
        return rows

    def _only(self, kind: str, nodes: list[onnxruntime.NodeArg]) -> tuple[str, Shape]:
        if len(nodes) != 1:
            names = ", ".join(node.name for node in nodes)
            raise BundleError(f"{self.path} must have one {kind}, it has {len(nodes)}: {names}")
        node = nodes[0]
        if node.type != "tensor(float)":
            raise BundleError(f"{self.path}: {kind} '{node.name}' must be tensor(float), it is {node.type}")
        return node.name, tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)


def available_cores() -> int:
    """Processor cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shapes_agree(found: Shape, wanted: Shape) -> bool:
    """Whether two shapes agree where both are known; an empty one is open even in its number of sizes."""
    return len(found) in (0, len(wanted)) and all(
        have is None or want is None or have == want for have, want in zip(found, wanted, strict=False)
    )


def shown(shape: Shape) -> str:
    """A shape in words, ``N x 3 x 112 x 112``."""
    return " x ".join("N" if size is None else str(size) for size in shape) or "of open shape"


def onnx_opset(data: bytes) -> int:
    """Version of the default operator set of a serialised ONNX model.

    Reads the two protobuf fields it needs, so that serving and importing do without the package ``onnx``:
    ModelProto.opset_import is field 8, OperatorSetIdProto has the domain in field 1 and the version in field 2.

    Raises:
        BundleError: the bytes are no ONNX model.
    """
    try:
        for field, value in _protobuf_fields(memoryview(data)):
            if field == 8 and isinstance(value, memoryview):
                entry = dict(_protobuf_fields(value))
                domain, version = entry.get(1, memoryview(b"")), entry.get(2)
                if isinstance(domain, memoryview) and bytes(domain) in (b"", b"ai.onnx") and isinstance(version, int):
                    return version
    except (IndexError, ValueError) as error:
        raise BundleError("the file is not an ONNX model") from error
    raise BundleError("the file is not an ONNX model (it names no operator set)")


def _protobuf_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one protobuf message: integers for varints, raw bytes for everything else."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown protobuf wire type {kind}")
        if position + length > len(data):
            raise ValueError("protobuf message ends early")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A protobuf number (seven bits a byte, the lowest first) and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("protobuf number is too long")


def _check_available(provider: Provider) -> None:
    if provider not in _PROVIDERS:
        raise ValueError(f"provider is '{provider}'; it must be one of {', '.join(_PROVIDERS)}")
    if _PROVIDERS[provider][0] not in onnxruntime.get_available_providers():
        raise ConfigError(
            "this ONNX Runtime has no CUDA; install the package onnxruntime-gpu in place of onnxruntime, or use "
            "provider cpu"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
