"""Streaming is dense in other memory: the same loss and gradients whatever the block, the head and the option."""

import copy
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from facemargin.heads import HEADS, NORM_FLOOR, AMSoftmax, Annealing, Features, Head, make_head
from facemargin.partitions import ClassRows, ClassSums, Dense, streaming_memory, streaming_products
from facemargin.partitions import streaming_blocks as blocks
from facemargin.partitions.streaming import Streaming
from facemargin.partitions.streaming_memory import GradientMemory
from facemargin.partitions.streaming_products import Products, hardware_has_bfloat16

D, C, N = 6, 11, 9
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
EVERY_HEAD: list[dict[str, Any]] = [
    {},
    {"class_weights": [0.2 * j for j in range(C)]},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.3, "class_weights": [2 - 0.1 * j for j in range(C)], "temperature": 0.5},
    {"temperature": 3.0},
]
OWN: dict[str, list[dict[str, Any]]] = {
    "l-softmax": [{"margin": 2}, {"margin": 1.7, "annealing": Annealing(base=5, gamma=0.1)}],
    "a-softmax": [{"margin": 3}, {"annealing": Annealing(base=5, gamma=0.1), "label_smoothing": 0.1}],
    "am-softmax": [{"scale": 64.0, "margin": 0.5}, {"learn_scale": True, "label_smoothing": 0.1}],
    "l2-softmax": [{"learn_alpha": True}, {"alpha": 20.0, "learn_alpha": True, "temperature": 2.0}],
    "normface": [{"learn_scale": True}],
    "arcface": [{"scale": 64.0, "margin": 0.5}, {"learn_scale": True, "temperature": 2.0}],
}
OPTIONS = [(name, options) for name in HEADS for options in EVERY_HEAD + OWN.get(name, [])]


def build(name: str, partition: Dense | Streaming, dtype: torch.dtype = torch.float32, **options: Any) -> Head:
    torch.manual_seed(0)
    head = make_head(name, embedding_dim=D, num_classes=C, partition=partition, **options).to(dtype)
    if head.bias is not None:
        nn.init.normal_(head.bias)
    return head


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return x, torch.tensor([0, 3, 3, 10, 5, 7, 3, 0, 1])


def everything(head: Head, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The loss and all gradients."""
    leaf = x.clone().requires_grad_()
    head.zero_grad()
    loss = head(leaf, y)
    loss.backward()
    return {"loss": loss.detach(), "x": leaf.grad, **{key: p.grad.clone() for key, p in head.named_parameters()}}


def check(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert float((found[key] - value).norm()) <= tolerance * float(value.norm()), key


@pytest.mark.parametrize("block", [1, 3, 7, C + 1, None])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_loss_and_gradients_are_those_of_dense(dtype, block):
    x, y = batch(dtype)
    y[4] = -100
    for number, (name, options) in enumerate(OPTIONS):
        a = 0.2 * (number % 2)
        dense = build(name, Dense(self_normalize=a), dtype, **options)
        streaming = build(name, Streaming(block=block, self_normalize=a), dtype, **options)
        check(everything(streaming, x, y), everything(dense, x, y), TOLERANCE[dtype])


@pytest.mark.parametrize("name", HEADS)
def test_spatial_embeddings_are_those_of_dense(name):
    x, y = torch.randn(2, D, 3, 2), torch.randint(0, C, (2, 3, 2))
    check(everything(build(name, Streaming(block=4)), x, y), everything(build(name, Dense()), x, y), 1e-5)


def test_the_sums_are_those_of_a_loop_over_samples_and_classes():
    torch.manual_seed(1)
    x, w, b, v = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, D), (C, D), (C,), (C,)))
    target, labels = torch.randn(4, dtype=torch.float64), torch.tensor([2, -1, 2, 10])
    sums = blocks.forward(x, w, b, labels, target, v, unit_rows=True, temperature=1.7, weighted=True, block=3)
    for i in range(4):
        z = [
            sum(p * q for p, q in zip(x[i].tolist(), row, strict=True)) / math.sqrt(sum(q * q for q in row))
            for row in w.tolist()
        ]
        z = [(score + bias) / 1.7 for score, bias in zip(z, b.tolist(), strict=True)]
        if labels[i] >= 0:
            z[int(labels[i])] = target[i].item()
        assert sums.maximum[i].item() == pytest.approx(max(z), rel=1e-12)
        log_z = math.log(math.fsum(math.exp(score) for score in z))
        assert (sums.maximum + sums.log_sum)[i].item() == pytest.approx(log_z, rel=1e-12)
        weighted = math.fsum(p * q for p, q in zip(v.tolist(), z, strict=True))
        assert sums.weighted_scores[i].item() == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_gradcheck(name):
    head = build(name, Streaming(block=4), torch.float64, class_weights=[1 + 0.1 * j for j in range(C)])
    smoothed = build(name, Streaming(block=4, self_normalize=0.1), torch.float64, label_smoothing=0.2)
    x, y = batch(torch.float64)
    for each in (head, smoothed):
        parameters = [p for _, p in each.named_parameters()]
        assert torch.autograd.gradcheck(lambda x, *_, each=each: each(x, y), (x.clone().requires_grad_(), *parameters))


def test_shards_add_up_to_the_whole():
    x, y = batch(torch.float64)
    head = build("arcface", Streaming(block=2), torch.float64, label_smoothing=0.1, temperature=1.3)
    whole = everything(build("arcface", Dense(), torch.float64, label_smoothing=0.1, temperature=1.3), x, y)
    leaf = x.clone().requires_grad_()
    features, parts = head.features(leaf), []
    for start, stop in ((0, 4), (4, 5), (5, C)):
        local = torch.where((y >= start) & (y < stop), y - start, -1)
        rows = ClassRows(head.weight[start:stop], None, None)
        parts.append(head.partition.sums(head, features, rows, local))
    maximum = torch.stack([part.maximum for part in parts]).amax(0)
    log_sum = torch.stack([part.log_sum + part.maximum - maximum for part in parts]).logsumexp(0)
    target, weighted = sum(part.target for part in parts), sum(part.weighted_scores for part in parts)
    sums = head.partition.losses_from(head, ClassSums(maximum, log_sum, target, weighted))
    loss = (0.9 * sums.nll + 0.1 / C * sums.over_classes).mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), whole["loss"])
    torch.testing.assert_close(leaf.grad, whole["x"])
    torch.testing.assert_close(head.weight.grad, whole["weight"])


def test_large_scores_keep_their_digits():
    """log Z near 10⁴: exp(z − log Z) of float32 numbers would be off by 10⁻³."""
    head, dense = build("softmax", Streaming(block=3)), build("softmax", Dense(), torch.float64)
    x, y = batch()
    check(
        {key: value.double() for key, value in everything(head, x * 3e3, y).items()},
        everything(dense, (x * 3e3).double(), y),
        2e-4,
    )


@pytest.mark.parametrize("length", [0.0, NORM_FLOOR / 10, NORM_FLOOR * 10])
def test_rows_about_the_norm_floor(length):
    x, y = batch()
    found = []
    for partition in (Streaming(block=3), Dense()):
        head = build("am-softmax", partition)
        with torch.no_grad():
            head.weight[3:5] *= length / head.weight[3:5].norm(dim=1, keepdim=True)
        found.append(everything(head, x, y))
    check(*found, 1e-5)


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_widened_block_by_block(dtype, products):
    x, y = batch()
    found = []
    for partition in (Streaming(block=3, products=products), Dense()):
        head = build("l2-softmax", partition, dtype, label_smoothing=0.1)
        found.append(everything(head, x, y))
    check(*found, 4e-3 if dtype == torch.float16 else 1.6e-2)


def test_a_half_gradient_saturates():
    head = build("am-softmax", Streaming(block=3), torch.float16)
    with torch.no_grad():
        head.weight *= 1e-6
    x, y = batch()
    (head(x, y) * 1e4).backward()
    assert bool(head.weight.grad.isfinite().all())
    assert float(head.weight.grad.abs().max()) == 65504


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", HEADS)
def test_bfloat16_products(name, smoothing, temperature):
    """Against float32, and against dense with the operands rounded and everything else in float32."""
    torch.manual_seed(2)
    options = {"label_smoothing": smoothing, "temperature": temperature}
    make = {"embedding_dim": 64, "num_classes": 300, **options}
    head = make_head(name, **make, partition=Streaming(block=128, products="bfloat16"))
    dense = make_head(name, **make, partition=Dense())
    x, y = torch.randn(32, 64), torch.randint(0, 300, (32,))
    exact, rounded = head.features(x), head.features(x)
    rounded = rounded._replace(vectors=rounded.vectors.bfloat16().float())
    found = sums_and_gradients(head, exact, head.weight, y)
    dense.load_state_dict(head.state_dict())
    check(found, sums_and_gradients(dense, exact, head.weight, y), 1e-2)
    found = sums_and_gradients(head, rounded, head.weight.bfloat16().float(), y)
    check(found, sums_and_gradients(dense, rounded, head.weight.bfloat16().float(), y), 4e-3)


def sums_and_gradients(head: Head, features: Features, weight: Tensor, y: Tensor) -> dict[str, Tensor]:
    given = Features(*(tensor.detach().clone().requires_grad_() for tensor in features))
    rows = ClassRows(weight.detach().clone().requires_grad_(), head.bias, None)
    sums = head.partition.sums(head, given, rows, y)
    losses = head.partition.losses_from(head, sums)
    nll = losses.nll if losses.over_classes is None else losses.nll + losses.over_classes / len(weight)
    nll.mean().backward()
    return {"nll": nll.detach(), "x": given.vectors.grad, "weight": rows.weight.grad}


def test_bfloat16_products_leave_the_process_as_it_was():
    x = torch.randn(64, 64)
    before = x @ x
    with Products("bfloat16", x).active():
        inside = x @ x
    assert torch.equal(x @ x, before)
    assert torch.equal(inside, before) is not hardware_has_bfloat16()
    assert Products("bfloat16", x).rounds is not hardware_has_bfloat16()
    assert not Products("float32", x).rounds


needs_switch = pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"), reason="needs PyTorch 2.9"
)


@needs_switch
def test_threads_in_bfloat16_products_leave_the_process_as_it_was():
    matmul, active = torch.backends.mkldnn.matmul, streaming_products._onednn_bfloat16
    before, first_left, second_in = matmul.fp32_precision, threading.Event(), threading.Event()
    seen = []

    def second() -> None:
        with active():
            second_in.set()
            assert first_left.wait(30)
            seen.append(matmul.fp32_precision)

    thread = threading.Thread(target=second)
    with active():
        thread.start()
        assert second_in.wait(30)
    first_left.set()
    thread.join(30)
    assert seen == ["bf16"]
    assert matmul.fp32_precision == before


@needs_switch
def test_products_go_on_following_the_setting_above_them():
    matmul, above = torch.backends.mkldnn.matmul, torch.backends.mkldnn
    own, outer = matmul.fp32_precision, above.fp32_precision
    try:
        matmul.fp32_precision = "none"
        above.fp32_precision = "tf32"
        with streaming_products._onednn_bfloat16():
            assert matmul.fp32_precision == "bf16"
        assert matmul.fp32_precision == "tf32"
        above.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee"
        above.fp32_precision, matmul.fp32_precision = "tf32", "ieee"
        with streaming_products._onednn_bfloat16():
            pass
        assert matmul.fp32_precision == "ieee"
    finally:
        above.fp32_precision, matmul.fp32_precision = outer, own


def test_autocast_does_not_decide_what_the_hardware_has():
    known = hardware_has_bfloat16()
    hardware_has_bfloat16.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert hardware_has_bfloat16() is known


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_with_bfloat16_products_loss_and_all_gradients_are_near_those_of_dense(temperature):
    x, y = batch()
    for name, options in OPTIONS:
        chosen = options if temperature is None else {**options, "temperature": temperature}
        found = everything(build(name, Streaming(block=4, products="bfloat16"), **chosen), x, y)
        check(found, everything(build(name, Dense(), **chosen), x, y), 1e-2)


class Allocations(TorchDispatchMode):
    """Storages made by PyTorch's operations, and how many bytes of them were alive at most."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[StorageWeakRef, int] = {}
        self.largest = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                storage = tensor.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        self.sizes = {ref: size for ref, size in self.sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


@pytest.mark.parametrize(
    ("name", "options"),
    [("am-softmax", {}), ("l2-softmax", {"label_smoothing": 0.1}), ("a-softmax", {"temperature": 2.0})],
)
def test_nothing_of_size_samples_times_classes_nor_a_second_gradient_is_made(name, options, monkeypatch):
    written, aligned = [], streaming_memory._aligned
    monkeypatch.setattr(streaming_memory, "_aligned", lambda size: (written.append(size), aligned(size))[1])
    samples, classes, dim = 64, 60_000, 64
    head = make_head(name, embedding_dim=dim, num_classes=classes, partition=Streaming(block=1024), **options)
    x, y = torch.randn(samples, dim, requires_grad=True), torch.randint(0, classes, (samples,))
    with Allocations() as made:
        head(x, y).backward()
    assert head.weight.grad is not None
    gradient, block, per_class = 4 * classes * dim, 4 * 1024 * samples, 4 * classes
    assert written == [gradient]  # from `GradientMemory`, outside PyTorch's operations
    assert made.largest < gradient / 16
    assert made.peak < 4 * block + 3 * per_class + 40 * 4 * samples * dim
    dense = make_head(name, embedding_dim=dim, num_classes=classes, partition=Dense(), **options)
    with Allocations() as made:
        dense(x, y).backward()
    assert made.largest >= gradient
    assert made.peak > 3 * gradient


def test_the_gradient_is_written_to_the_same_memory_in_every_step():
    """The weight's gradient is the memory that the partition keeps: autograd does not copy it."""
    head = build("am-softmax", Streaming())
    x, y = batch()
    head(x, y).backward()
    address = head.weight.grad.data_ptr()
    head.zero_grad(set_to_none=True)
    head(x, y).backward()
    assert head.weight.grad.data_ptr() == address
    kept = head.weight.grad.clone()
    head(x, y).backward()  # accumulates: the next gradient must not overwrite the first
    torch.testing.assert_close(head.weight.grad, 2 * kept)


def test_gradient_memory_follows_shape_and_dtype_and_is_not_copied():
    memory = GradientMemory()
    for parameter in (torch.zeros(3, 2), torch.zeros(5, dtype=torch.float16), torch.zeros(2, 7, dtype=torch.bfloat16)):
        given = memory.like(parameter)
        assert (given.shape, given.dtype) == (parameter.shape, parameter.dtype)
        assert given.data_ptr() % 64 == 0
        del given
    memory.like(torch.zeros(7))
    assert memory._whole is not None
    assert memory.like(torch.zeros(7, device="meta")).is_meta
    assert memory._whole is None
    head = build("softmax", Streaming())
    everything(head, *batch())
    twin = copy.deepcopy(head)
    check(everything(twin, *batch()), everything(head, *batch()), 0.0)
    assert twin.weight.grad.data_ptr() != head.weight.grad.data_ptr()


@pytest.mark.parametrize("frozen", ["weight", "bias", "x"])
def test_what_needs_no_gradient_gets_none_and_changes_no_other(frozen):
    x, y = batch()
    expected = everything(build("softmax", Dense()), x, y)
    head = build("softmax", Streaming(block=4))
    leaf = x.clone().requires_grad_(frozen != "x")
    if frozen != "x":
        head.get_parameter(frozen).requires_grad_(False)
    head(leaf, y).backward()
    found = {"x": leaf.grad, "weight": head.weight.grad, "bias": head.bias.grad}
    assert found.pop(frozen) is None
    check(found, {key: expected[key] for key in found}, 1e-5)


def test_only_needed_gradients_are_computed(monkeypatch):
    asked = []
    original = blocks.backward

    def spy(*tensors, needs, **how):
        asked.append(needs)
        return original(*tensors, needs=needs, **how)

    monkeypatch.setattr(blocks, "backward", spy)
    head = build("softmax", Streaming())
    head.weight.requires_grad_(False)
    x, y = batch()
    head(x, y).backward()
    assert asked == [blocks.Needs(vectors=False, weight=False, bias=True)]
    gradients = original(
        *(x, head.weight, head.bias, y, None, x[:, 0], None, x[:, 0], None), temperature=1.0, needs=asked[0]
    )
    assert gradients.vectors is None
    assert gradients.weight is None


class LearnedMargin(AMSoftmax):
    """A head whose margin is a parameter."""

    name = "learned-margin"

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.learned = nn.Parameter(torch.tensor(0.2))

    def margined_scores(self, features: Features, weight: Tensor) -> Tensor:
        return self.paired_scores(features, weight) - features.length * self.learned


def test_a_parameter_of_the_margin_gets_its_gradient():
    found = []
    for partition in (Streaming(block=4), Dense()):
        torch.manual_seed(0)
        found.append(everything(LearnedMargin(D, C, partition=partition), *batch()))
    assert float(found[1]["learned"]) != 0
    check(*found, 1e-5)


def test_backward_uses_the_lambda_of_its_forward():
    head = build("a-softmax", Streaming(), annealing=Annealing(base=5, gamma=1.0))
    expected = everything(head, *batch())
    x, y = batch()
    leaf = x.clone().requires_grad_()
    loss = head(leaf, y)
    head.advance()
    loss.backward()
    assert torch.equal(leaf.grad, expected["x"])


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    head = build("arcface", Streaming(block=4))
    x, y = batch()
    loss = head(x.requires_grad_(), y)
    first = torch.autograd.grad(loss, (x, head.weight), retain_graph=True)
    again = torch.autograd.grad(loss, (x, head.weight))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_second_derivatives_are_refused_with_what_to_use():
    head = build("softmax", Streaming())
    x, y = batch()
    gradient, *_ = torch.autograd.grad(head(x.requires_grad_(), y), (x, head.weight), create_graph=True)
    torch.testing.assert_close(gradient.detach(), everything(head, x.detach(), y)["x"])
    with pytest.raises(RuntimeError, match=r"'streaming' has no second derivative.*use partition 'dense'"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("block", [1, 2, 3, 4, None])
def test_predict_takes_the_lowest_class_in_a_tie_over_blocks(block):
    head = make_head("softmax", embedding_dim=2, num_classes=7, partition=Streaming(block=block))
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [-1, 0]]))
    assert head.predict(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0], [0.0, 0.0]])).tolist() == [1, 2, 6, 0]


@pytest.mark.parametrize("name", HEADS)
def test_predict_is_the_argmax_of_the_logits(name):
    head = build(name, Streaming(block=3))
    x, _ = batch()
    assert torch.equal(head.predict(x), head.logits(x).argmax(1))


def test_predict_holds_one_block_of_logits():
    head = make_head("arcface", embedding_dim=8, num_classes=10_000, partition=Streaming(block=100))
    with Allocations() as made:
        head.predict(torch.randn(50, 8))
    assert made.largest <= 4 * 100 * 50


def test_options_and_their_ranges():
    partition = Streaming(block=5, products="bfloat16", self_normalize=0.1)
    options = {"name": "streaming", "self_normalize": 0.1, "block": 5, "products": "bfloat16"}
    assert partition.options() == options
    with pytest.raises(ValueError, match=r"block=0 is out of range: it must be an integer ≥ 1"):
        Streaming(block=0)
    with pytest.raises(ValueError, match=r"products='int8' is unknown; known products: float32, bfloat16"):
        Streaming(products="int8")
