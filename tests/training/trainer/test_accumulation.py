"""A batch computed in parts is the step of the whole batch; only batch norm, dropout and draws see the parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from facemargin.errors import ConfigError
from training.config import TrainConfig
from training.data.loader import Batch
from training.trainer import Trainer, train, training_images

MakeConfig = Callable[..., TrainConfig]
SMOOTH = {"name": "sphereface20", "width": 0.0625, "embedding_dim": 16}
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "learned scale": {"head": "normface", "heads": {"normface": {"learn_scale": True}}},
    "sharded": {"partition": "sharded", "head": "arcface"},
    "self-normalising": {"partition": "streaming", "partitions": {"streaming": {"self_normalize": 0.1}}},
    "factorised": {"partition": "class-based", "head": "softmax"},
    "all sampled": {"partition": "sampled", "partitions": {"sampled": {"samples": 1.0}}},
    "weights": {
        "heads": {"am-softmax": {"class_weights": [0.0, 0.5, 1, 2, 3, 1, 2, 0], "label_smoothing": 0.1}},
        "optimizer": {"learning_rate": 0.05, "clip_norm": 0.1},
    },
}


def batch(count: int = 7, labels: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(5)
    crops = torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)
    return Batch(crops, torch.tensor(labels or [0, 7, 1, 2, 2, 3, 5][:count]))


def stepped(config: TrainConfig, *batches: Batch) -> tuple[list[float], Trainer]:
    """Losses of a trainer in float64, and the trainer after them."""
    trainer = Trainer(config, training_images(config))
    trainer.backbone.double()
    trainer.head.double()
    return [float(trainer.train_step(one).loss) for one in batches], trainer


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_add_up_to_the_step_of_the_whole_batch(tiny_config: MakeConfig, name: str, parts: int) -> None:
    config = tiny_config(backbone=SMOOTH, **CASES[name])
    batches = batch(), batch(labels=[0, 0, 0, 1, 2, 6, 7])  # of the second, a part may have weights of 0 alone
    expected, whole = stepped(config, *batches)
    found, trainer = stepped(config.model_copy(update={"accumulate": parts}), *batches)
    assert found == pytest.approx(expected, rel=1e-10)
    for mine, theirs in zip(trainer.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_what_is_told_of_a_batch_is_told_of_all_its_samples(tiny_config: MakeConfig) -> None:
    config = tiny_config(backbone=SMOOTH)
    told = {}
    for parts in (1, 3):
        trainer = Trainer(config.model_copy(update={"accumulate": parts}), training_images(config))
        trainer.backbone.double()
        told[parts] = trainer.train_step(batch())
    torch.testing.assert_close(told[3].nll, told[1].nll)
    assert told[3].counted.tolist() == [True] * 7


def test_rows_that_no_part_drew_do_not_move(tiny_config: MakeConfig) -> None:
    few = {"sampled": {"samples": 1}}
    config = tiny_config(backbone=SMOOTH, partition="sampled", partitions=few, accumulate=2, batch_size=4)
    trainer = Trainer(config, training_images(config))
    trainer.backbone.double()
    for _ in range(2):  # with momentum from before
        before = trainer.head.weight.detach().clone()
        drawn: set[int] = set()
        losses = trainer.head.batch_losses

        def noting(*arguments: Any, losses: Any = losses, drawn: set[int] = drawn) -> Any:
            found = losses(*arguments)
            drawn |= set(trainer.head.partition.active_rows.tolist())
            return found

        trainer.head.batch_losses = noting
        trainer.train_step(batch(4, [0, 0, 1, 1]))
        trainer.head.batch_losses = losses
        moved = (trainer.head.weight != before).any(1).nonzero().flatten().tolist()
        assert set(moved) == drawn
        assert {0, 1} <= drawn < set(range(8))


def test_batch_norm_measures_each_part(tiny_config: MakeConfig) -> None:
    backbone = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}
    (one,), _ = stepped(tiny_config(backbone=backbone), batch(6))
    (other,), trainer = stepped(tiny_config(backbone=backbone, accumulate=3), batch(6))
    assert one != pytest.approx(other, rel=1e-6)
    counts = [value for name, value in trainer.backbone.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {3}


def test_parts_too_small_for_batch_norm_are_refused_or_skipped(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size 8 over 1 processes in 5 parts leaves fewer than 2 images"):
        train(tiny_config(accumulate=5))
    assert not (tmp_path / "run").exists()
    trainer = Trainer(config := tiny_config(accumulate=4), training_images(config))
    assert trainer.can_learn_from(batch(7)._replace(others=(8, 8))) is False
    assert trainer.can_learn_from(Batch(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), others=(8,)))
    assert not trainer.can_learn_from(
        Batch(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), others=(8, 7))
    )
