"""The Triton kernels of the streaming partition against autograd through a float64 score matrix.

Without a GPU they run in Triton's interpreter. That is chosen by a variable which must be set before triton is first
imported, by whichever test that may be; so then this file runs itself once, as a script in a process of its own, and
the tests look up what it measured. With a GPU the same measurements are made natively, on larger shapes.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facemargin.heads.geometry import NORM_FLOOR

NATIVE = torch.cuda.is_available()
DEVICE = "cuda" if NATIVE else "cpu"
FLOORED = 2  # the class whose row is below the norm floor

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
needs_cuda = pytest.mark.skipif(not NATIVE, reason="needs a GPU")


class Case(NamedTuple):
    samples: int = 19
    classes: int = 45
    dim: int = 17
    unit: bool = True
    bias: bool = False
    class_weights: bool = False
    weighted: bool = False
    temperature: float = 0.7
    scale: float = 1.0
    dtype: str = "float32"
    products: str = "float32"
    representable: bool = True  # operands rounded to bfloat16 beforehand, where products are
    block_bytes: int | None = None


class Problem(NamedTuple):
    vectors: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    target: Tensor
    class_weights: Tensor | None
    grad_log: Tensor
    grad_weighted: Tensor | None


def combinations() -> dict[str, Case]:
    names = ("unit", "bias", "class_weights", "weighted")
    cases = [dict(zip(names, chosen, strict=True)) for chosen in product((True, False), repeat=4)]
    return {" ".join(name for name in names if case[name]) or "plain": Case(**case) for case in cases}


EXACT = combinations() | {
    "three dimensions": Case(dim=3, bias=True, weighted=True),
    "128 dimensions": Case(dim=128),
    "128 dimensions, free rows": Case(dim=128, unit=False, temperature=8.0),
    "a whole number of tiles": Case(samples=16, classes=64, dim=16),
    "one class": Case(classes=1, unit=False, weighted=True),
    "one sample": Case(samples=1),
    "blocks of one tile": Case(classes=110, bias=True, class_weights=True, weighted=True, block_bytes=1),
    "blocks of two tiles": Case(classes=150, block_bytes=19 * 64 * 4),
    "converted rows in blocks": Case(classes=110, dtype="float16", block_bytes=32 * 17 * 4),
    "a large scale": Case(scale=64.0, temperature=1.0),
}
ROUNDED = {
    "bfloat16, unit rows": Case(dim=128, weighted=True, products="bfloat16"),
    "bfloat16, free rows": Case(dim=128, unit=False, bias=True, temperature=8.0, products="bfloat16"),
    "bfloat16, few dimensions": Case(dim=3, products="bfloat16"),
    "bfloat16 weights": Case(dim=33, dtype="bfloat16", products="bfloat16"),
    "bfloat16, converted rows in blocks": Case(classes=110, products="bfloat16", block_bytes=32 * 17 * 2),
}
UNROUNDED = {
    "bfloat16 against float32": Case(dim=128, products="bfloat16", representable=False),
    "bfloat16 against float32, scale 30": Case(
        dim=128, scale=30.0, temperature=1.0, products="bfloat16", representable=False
    ),
}
BOUNDS = dict.fromkeys(EXACT, 1e-5) | dict.fromkeys(ROUNDED, 4e-3) | dict.fromkeys(UNROUNDED, 1e-2)
BOUNDS["converted rows in blocks"] = 3e-4  # the gradient itself is float16
CASES = EXACT | ROUNDED | UNROUNDED


def make_problem(case: Case, device: str) -> Problem:
    """Random data. Some labels are −1, one row is below the norm floor, targets are lower than plain scores."""
    larger = 12 if device == "cuda" and case.samples > 1 and case.classes > 1 else 1
    samples, classes = case.samples * larger, case.classes * larger
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    vectors, weight = normal(samples, case.dim), normal(classes, case.dim).to(getattr(torch, case.dtype))
    if case.scale > 1:
        vectors = case.scale * vectors / vectors.norm(dim=1, keepdim=True)
    if case.products == "bfloat16" and case.representable:
        vectors, weight = vectors.bfloat16().float(), weight.bfloat16().to(weight.dtype)
    if case.unit and classes > FLOORED:
        weight[FLOORED] *= NORM_FLOOR / 100
    problem = Problem(
        vectors,
        weight,
        normal(classes) if case.bias else None,
        torch.randint(-1, classes, (samples,), generator=generator),
        normal(samples) - 1,
        torch.rand(classes, generator=generator) if case.class_weights else None,
        normal(samples),
        normal(samples) / classes if case.weighted else None,
    )
    return Problem(*(None if value is None else value.to(device) for value in problem))


def run(problem: Problem, case: Case) -> tuple[Any, Any]:
    kernels = importlib.import_module("facemargin.partitions.streaming_triton")
    kept, kernels._BLOCK_BYTES = kernels._BLOCK_BYTES, case.block_bytes or kernels._BLOCK_BYTES
    how = {"temperature": case.temperature, "products": case.products}
    vectors, weight, bias, labels, target, class_weights, grad_log, grad_weighted = problem
    try:
        sums = kernels.forward(
            vectors, weight, bias, labels, target, class_weights, unit_rows=case.unit, weighted=case.weighted, **how
        )
        log_z = sums.maximum + sums.log_sum
        gradients = kernels.backward(
            vectors, weight, bias, labels, class_weights, log_z, sums.inverse_norms, grad_log, grad_weighted, **how
        )
    finally:
        kernels._BLOCK_BYTES = kept
    return sums, gradients


def dense(problem: Problem, case: Case) -> dict[str, Tensor | None]:
    """The same from a float64 score matrix and autograd; the target is a constant there, too."""
    vectors, weight = (value.double().requires_grad_() for value in problem[:2])
    bias = None if problem.bias is None else problem.bias.double().requires_grad_()
    floored = weight.square().sum(1, keepdim=True).clamp_min(NORM_FLOOR**2).sqrt()
    scores = vectors @ (weight / floored if case.unit else weight).T
    scores = (scores if bias is None else scores + bias) / case.temperature
    hit = problem.labels[:, None] == torch.arange(len(weight), device=weight.device)
    scores = torch.where(hit, problem.target.double()[:, None], scores)
    log_z = scores.logsumexp(1)
    loss = log_z @ problem.grad_log.double()
    weighted_scores = None
    if problem.grad_weighted is not None:
        weighted_scores = scores.sum(1) if problem.class_weights is None else scores @ problem.class_weights.double()
        loss = loss + weighted_scores @ problem.grad_weighted.double()
    loss.backward()
    values = (log_z, weighted_scores, vectors.grad, weight.grad, None if bias is None else bias.grad)
    return dict(zip(("log_z", "weighted_scores", "vectors", "weight", "bias"), values, strict=True))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def errors(case: Case, device: str) -> dict[str, float]:
    """Norm-wise relative error of each result; the floored row apart, since its gradient is far longer."""
    problem = make_problem(case, device)
    sums, gradients = run(problem, case)
    found = {"log_z": sums.maximum + sums.log_sum, "weighted_scores": sums.weighted_scores, **gradients._asdict()}
    expected = {name: None if value is None else value.detach() for name, value in dense(problem, case).items()}
    assert {name for name in found if found[name] is None} == {name for name in expected if expected[name] is None}
    assert gradients.weight.dtype == problem.weight.dtype
    if case.unit and len(problem.weight) > FLOORED:
        others = torch.arange(len(problem.weight), device=device) != FLOORED
        floored = found["weight"][FLOORED], expected["weight"][FLOORED]
        if case.dtype == "float16":
            floored = floored[0], floored[1].clamp(-65504, 65504)
        found |= {"weight": found["weight"][others], "floored": floored[0]}
        expected |= {"weight": expected["weight"][others], "floored": floored[1]}
    return {name: relative_error(found[name], expected[name]) for name in found if found[name] is not None}


def nothing(samples: int, classes: int) -> Callable[[str], Any]:
    def shapes(device: str) -> Any:
        problem = make_problem(Case(bias=True, class_weights=True, weighted=True), device)
        cut = {name: getattr(problem, name)[:samples] for name in ("vectors", "labels", "target")}
        cut |= {name: getattr(problem, name)[:samples] for name in ("grad_log", "grad_weighted")}
        cut |= {name: getattr(problem, name)[:classes] for name in ("weight", "bias", "class_weights")}
        sums, gradients = run(problem._replace(**cut), Case(weighted=True))
        return {
            "log_z": (sums.maximum + sums.log_sum).tolist(),
            "weighted_scores": sums.weighted_scores.tolist(),
            "gradients": [[list(value.shape), float(value.abs().sum())] for value in gradients],
        }

    return shapes


def far_above_its_target(device: str) -> list[bool]:
    """A plain score of 900 whose margined one is 0: exp(900 − log Z) overflows, and must not be used."""
    vectors, weight = torch.eye(2, device=device) * 900, torch.eye(3, 2, device=device)
    labels, target = torch.tensor([0, 1], device=device), torch.zeros(2, device=device)
    problem = Problem(vectors, weight, None, labels, target, None, torch.ones(2, device=device), None)
    sums, gradients = run(problem, Case(temperature=1.0))
    return [bool(value.isfinite().all()) for value in (sums.maximum, sums.log_sum, gradients.vectors, gradients.weight)]


def repeated(device: str) -> bool:
    case = Case(bias=True, weighted=True, products="bfloat16", block_bytes=2000)
    problem = make_problem(case, device)
    once, again = (run(problem, case) for _ in range(2))
    pairs = zip(once[0] + once[1], again[0] + again[1], strict=True)
    return all(torch.equal(first, second) for first, second in pairs if first is not None)


def left_alone(device: str) -> bool:
    case = Case(bias=True, class_weights=True, weighted=True)
    problem, untouched = make_problem(case, device), make_problem(case, device)
    run(problem, case)
    return all(torch.equal(value, before) for value, before in zip(problem, untouched, strict=True))


class Allocations(TorchDispatchMode):
    """Bytes of every new storage that a torch operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._kept.append(storage)
                self.bytes.setdefault(storage.data_ptr(), storage.nbytes())
        return result


def allocated(device: str) -> dict[str, int]:
    """Bytes of torch's allocations beyond inputs and results, with 4 KiB for a block, and of the score matrix."""
    case = Case(samples=32, classes=640, dim=16, products="bfloat16", block_bytes=2**12)
    problem = make_problem(case, device)
    with Allocations() as seen:
        sums, gradients = run(problem, case)
    results = {value.data_ptr() for value in (*problem, *sums, *gradients) if value is not None}
    extra = [size for address, size in seen.bytes.items() if address not in results]
    return {"largest": max(extra), "together": sum(extra), "scores": 4 * 32 * 640}


def heads_wired_to_the_kernels(device: str) -> dict[str, float]:
    """Relative errors of the losses and gradients of heads against those of the dense partition."""
    from facemargin.heads import make_head
    from facemargin.partitions import streaming

    kernels, found = importlib.import_module("facemargin.partitions.streaming_triton"), {}
    kept, streaming._kernel = streaming._kernel, lambda *_: kernels
    x, y = torch.randn(19, 17, generator=torch.Generator().manual_seed(3)), torch.arange(19) % 7
    y[3] = -100
    try:
        for name, options in HEADS.items():
            results = []
            for partition in ("streaming", "dense"):
                torch.manual_seed(0)
                head = make_head(name, embedding_dim=17, num_classes=45, partition=partition, **options).to(device)
                leaf = x.to(device).requires_grad_()
                head(leaf, y.to(device)).backward()
                results.append({"x": leaf.grad, **{key: p.grad for key, p in head.named_parameters()}})
            found |= {f"{name} {key}": relative_error(results[0][key], results[1][key].double()) for key in results[1]}
    finally:
        streaming._kernel = kept
    return found


HEADS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "am-softmax": {"temperature": 2.0},
    "l2-softmax": {"label_smoothing": 0.1, "learn_alpha": True},
    "arcface": {"learn_scale": True, "label_smoothing": 0.2, "class_weights": [1 + 0.1 * j for j in range(45)]},
}


def only_what_is_needed(device: str) -> dict[str, list[bool]]:
    """For each single need: which gradients come, and whether they are the bits of those computed together."""
    kernels = importlib.import_module("facemargin.partitions.streaming_triton")
    problem = make_problem(Case(bias=True), device)
    sums, whole = run(problem, Case(bias=True))
    log_z, found = sums.maximum + sums.log_sum, {}
    for name in whole._fields:
        needs = kernels.Needs(**{other: other == name for other in whole._fields})
        one = kernels.backward(
            *(problem.vectors, problem.weight, problem.bias, problem.labels, None, log_z, sums.inverse_norms),
            *(problem.grad_log, None),
            temperature=Case().temperature,
            needs=needs,
        )
        others = [value is None for key, value in one._asdict().items() if key != name]
        found[name] = [*others, torch.equal(getattr(one, name), getattr(whole, name))]
    return found


def devices_that_fit(device: str) -> dict[str, list[bool]]:
    """GPUs with the shared memory of an H100, an A100, a consumer's card and an old one."""
    kernels = importlib.import_module("facemargin.partitions.streaming_triton")
    kept, found = kernels._most_shared_memory, {}
    for products in ("float32", "bfloat16"):
        found[products] = []
        for kilobytes in (227, 163, 99, 64, 48):
            kernels._most_shared_memory = lambda _, kilobytes=kilobytes: kilobytes * 1024
            found[products].append(kernels.fits(torch.device("cuda"), products))
    kernels._most_shared_memory = kept
    return found


def refusals(device: str) -> dict[str, str]:
    kernels = importlib.import_module("facemargin.partitions.streaming_triton")
    problem, messages = make_problem(Case(), device), {}
    broken = {"products": (problem, Case(products="float16"))}
    broken["weight"] = (problem._replace(weight=problem.weight.T.contiguous().T), Case())
    broken["device"] = (Problem(*(None if value is None else value.cpu() for value in problem)), Case())
    kept, kernels._INTERPRETED = kernels._INTERPRETED, kernels.tl.constexpr(False)
    try:
        for name, (bad, case) in broken.items():
            try:
                run(bad, case)
            except ValueError as error:
                messages[name] = str(error)
    finally:
        kernels._INTERPRETED = kept
    return messages


CHECKS: dict[str, Callable[[str], Any]] = {
    "no samples": nothing(0, 45),
    "no classes": nothing(19, 0),
    "far above its target": far_above_its_target,
    "repeated": repeated,
    "left alone": left_alone,
    **({} if NATIVE else {"allocated": allocated}),
    "heads": heads_wired_to_the_kernels,
    "needs": only_what_is_needed,
    "devices": devices_that_fit,
    "refusals": refusals,
}


def measure(name: str, device: str) -> Any:
    return errors(CASES[name], device) if name in CASES else CHECKS[name](device)


@pytest.fixture(scope="module")
def measured() -> Callable[[str], Any]:
    """What `measure` returns: at once on a GPU, else from one process in which triton interprets."""
    if NATIVE:
        return lambda name: measure(name, DEVICE)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    finished = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout).__getitem__


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_sums_and_gradients_are_those_of_the_score_matrix(name, measured):
    found = measured(name)
    assert {"log_z", "vectors", "weight"} <= found.keys()
    assert all(error <= BOUNDS[name] for error in found.values()), found


@needs_triton
def test_without_samples_the_gradients_are_zero(measured):
    found = measured("no samples")
    assert found["log_z"] == found["weighted_scores"] == []
    assert found["gradients"] == [[[0, 17], 0], [[45, 17], 0], [[45], 0]]


@needs_triton
def test_without_classes_the_sum_is_empty(measured):
    found = measured("no classes")
    assert found["log_z"] == [-torch.inf] * 19
    assert found["weighted_scores"] == [0] * 19
    assert found["gradients"] == [[[19, 17], 0], [[0, 17], 0], [[0], 0]]


@needs_triton
def test_a_plain_score_far_above_its_margined_one_does_not_overflow(measured):
    assert all(measured("far above its target"))


@needs_triton
def test_equal_inputs_give_equal_bits(measured):
    assert measured("repeated")


@needs_triton
def test_the_callers_tensors_are_left_alone(measured):
    assert measured("left alone")


@needs_triton
@pytest.mark.skipif(
    NATIVE, reason="the tiles of a GPU are larger than this problem; a million classes are tested there"
)
def test_scratch_is_bounded_by_the_block_whatever_the_number_of_classes(measured):
    found = measured("allocated")
    assert found["largest"] <= 2**12
    assert found["together"] <= 5 * 2**12 < found["scores"] / 3


@needs_triton
def test_what_cannot_be_computed_is_refused(measured):
    found = measured("refusals")
    assert "products='float16' is unknown; known are: float32, bfloat16" in found["products"]
    assert "weight must be contiguous" in found["weight"]
    assert "vectors are on cpu, the Triton kernels need cuda" in found["device"]


@needs_triton
def test_heads_wired_to_the_kernels_have_the_gradients_of_dense(measured):
    found = measured("heads")
    assert {key.split()[0] for key in found} == set(HEADS)
    assert all(error <= 1e-5 for error in found.values()), found


@needs_triton
def test_only_needed_gradients_are_computed(measured):
    assert measured("needs") == dict.fromkeys(("vectors", "weight", "bias"), [True] * 3)


@needs_triton
def test_a_gpu_with_little_shared_memory_is_left_to_the_blocks(measured):
    assert measured("devices") == {"float32": [True] * 4 + [False], "bfloat16": [True] * 2 + [False] * 3}


def test_without_triton_the_import_says_what_to_use(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "facemargin.partitions.streaming_triton", raising=False)
    with pytest.raises(ImportError, match=r"needs the package triton.*use the PyTorch blocks"):
        importlib.import_module("facemargin.partitions.streaming_triton")


@needs_cuda
@needs_triton
@pytest.mark.slow
def test_a_million_classes_need_64_megabytes_beyond_inputs_and_gradients():
    case = Case(products="bfloat16", temperature=1.0)
    samples, classes, dim = 1024, 1_000_000, 512
    random = torch.Generator("cuda").manual_seed(0)
    vectors = 30 * torch.nn.functional.normalize(torch.randn(samples, dim, device="cuda", generator=random))
    weight = torch.randn(classes, dim, device="cuda", generator=random)
    labels = torch.randint(classes, (samples,), device="cuda", generator=random)
    ones = torch.ones(samples, device="cuda")
    problem = Problem(vectors, weight, None, labels, ones, None, ones, None)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _, gradients = run(problem, case)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak - gradients.weight.nbytes - gradients.vectors.nbytes <= 64e6


if __name__ == "__main__":
    print(json.dumps({name: measure(name, DEVICE) for name in [*CASES, *CHECKS]}))
