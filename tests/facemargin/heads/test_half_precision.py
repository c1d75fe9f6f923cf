"""Half precision: float32 inside, finite everywhere, gradients that saturate."""

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, NORM_FLOOR, Head, make_head

D, C = 16, 7
HALF = [torch.float16, torch.bfloat16]


def adversarial(head: Head, dtype: torch.dtype, copies: int = 300) -> tuple[Tensor, Tensor]:
    """Parallel, antiparallel, zero and random vectors of lengths 1e-8 to 1e4 (0 where the dtype underflows)."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(0, C, (copies * 4,), generator=generator)
    w = head.weight.detach().float()[y] if head.weight.ndim == 2 else torch.randn(len(y), D, generator=generator)
    kind = torch.arange(len(y)) % 4
    noise = torch.randn(len(y), D, generator=generator)
    x = torch.where((kind == 0)[:, None], w, torch.where((kind == 1)[:, None], -w, noise))
    x = x.masked_fill((kind == 2)[:, None], 0)
    lengths = 10 ** (torch.rand(len(y), generator=generator) * 12 - 8)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-6) * lengths[:, None]
    return x.to(dtype), y


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whole_module", [False, True], ids=["float32-weights", "half-weights"])
def test_nothing_is_ever_non_finite_under_autocast(name, dtype, whole_module):
    torch.manual_seed(0)
    head = make_head(name, embedding_dim=D, num_classes=C, temperature=0.05)
    if whole_module:
        head = head.to(dtype)
    x, y = adversarial(head, dtype)
    for rows in (slice(None), slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)):
        embeddings = x[rows].clone().requires_grad_()
        head.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = head(embeddings, y[rows])
            scores = head.logits(embeddings)
        loss.backward()
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())
        assert bool(scores.isfinite().all())
        assert embeddings.grad.dtype == dtype
        for tensor in (embeddings.grad, *(p.grad for p in head.parameters())):
            assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_autocast_computes_what_float32_computes(name, dtype):
    torch.manual_seed(1)
    head = make_head(name, embedding_dim=D, num_classes=C)
    x, y = torch.randn(8, D).to(dtype), torch.arange(8) % C
    with torch.autocast("cpu", dtype=dtype):
        half = head(x, y)
    assert half.item() == head(x.float(), y).item()


def test_cosines_that_round_to_one_in_half_are_told_apart():
    torch.manual_seed(2)
    head = make_head("am-softmax", embedding_dim=2, num_classes=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[1.0, 0.0], [1.0, 0.015]]).to(torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head.logits(x).detach()
    assert z.dtype == torch.float32
    assert float(z[0, 0] - z[1, 0]) == pytest.approx(30 * 0.5 * 0.015**2, rel=0.02)


def test_a_float16_gradient_saturates():
    head = make_head("am-softmax", embedding_dim=2, num_classes=2, scale=64.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[0.0, 2e-4]], dtype=torch.float16, requires_grad=True)
    head(x, torch.tensor([0])).backward()
    assert x.grad.tolist() == [[-65504.0, 0.0]]  # the true value is about −64 / 2e-4 = −320,000


def test_the_norm_floor():
    head = make_head("normface", embedding_dim=2, num_classes=2, scale=8.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    above, below = 2 * NORM_FLOOR, NORM_FLOOR / 4
    z = head.logits(torch.tensor([[above, 0.0], [below, 0.0], [0.0, 0.0]]))[:, 0]
    torch.testing.assert_close(z.detach(), torch.tensor([8.0, 2.0, 0.0]))
    x = torch.zeros(1, 2, requires_grad=True)
    head(x, torch.tensor([0])).backward()
    assert float(x.grad.abs().max()) == pytest.approx(8 * 0.5 / NORM_FLOOR, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HEADS)
def test_cuda_equals_cpu_and_takes_labels_from_either(name):
    torch.manual_seed(1)
    head = make_head(name, embedding_dim=D, num_classes=C)
    x, y = torch.randn(8, D), torch.arange(8) % C
    expected = head(x, y).item()
    head = head.cuda()
    for labels in (y, y.cuda()):
        assert head(x.cuda(), labels).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="out of range"):
        head(x.cuda(), y.cuda() + C)
