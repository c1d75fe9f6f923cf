"""What the ONNX model alone makes of the machine: ready arrays through the network, by as many calls as a run."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from facemargin.bundle import Bundle
from facemargin.onnx_model import OnnxModel, Provider


def raw_images_per_second(
    bundle: Bundle, *, batch: int, calls: int, threads: int = 1, provider: Provider = "cpu", seconds: float = 1.0
) -> float:
    """Crops a second that the network alone could embed; with flip-sum a crop is two passes.

    Args:
        bundle: the model.
        batch: crops a call.
        calls: at a time, from as many threads.
        threads: of a call.
        provider: where it runs.
        seconds: how long, above 0; every caller makes one more call before, which does not count.

    Raises:
        BundleError: the network fails.
    """
    network = OnnxModel(bundle.model_path, threads=threads, provider=provider)
    shape = (network.batch or batch, 3, *bundle.manifest.preprocessing.size)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ready = threading.Barrier(calls)

    def work(_: int) -> float:
        ready.wait()  # before anything can fail, or the others would wait for ever
        network.run(values)
        crops, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds:
            network.run(values)
            crops += len(values)
        return crops / spent

    with ThreadPoolExecutor(calls) as callers:
        return sum(callers.map(work, range(calls))) / (2 if bundle.manifest.flip_sum else 1)
