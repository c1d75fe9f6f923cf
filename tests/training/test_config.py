"""Configs: unknown keys, wrong values and flags over files."""

from pathlib import Path
from typing import Any

import pytest

from facemargin.errors import ConfigError
from training.config import load_config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_unknown_key_is_named_with_its_table(tmp_path: Path) -> None:
    path = write(tmp_path / "run.toml", 'output = "x"\n[optimizer]\nlearning_rte = 0.1\n')
    with pytest.raises(ConfigError, match=r"run\.toml: optimizer\.learning_rte: unknown key"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 0", "epochs"),
        ("batch_size = 1", "batch_size"),
        ('device = "tpu"', "device must be auto, cpu, cuda"),
        ('[optimizer]\nname = "adam"', r"optimizer\.name"),
        ("[schedule]\nwarmup = 1.5", r"schedule\.warmup"),
        ('[data]\nprotocol = "lfw-open"', r"needs data\.pairs"),
        ("[augmentation]\nflip = -0.1", r"augmentation\.flip"),
        ("[optimizer]\nlearning_rate = nan", r"optimizer\.learning_rate"),
        ("[optimizer]\nlayer_decay = 0", r"optimizer\.layer_decay"),
        ("[optimizer]\nlayer_decay = 1.1", r"optimizer\.layer_decay"),
        ("freeze = -1", "freeze"),
        ("freeze = true", "freeze: must be a list of parts"),
        (
            'freeze = "stem"',
            r"""must be a list of parts such as \["stem", "stage1"\], or how many; got 'stem'""",
        ),
        ("ema_decay = 1", "ema_decay"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "run.toml", text), {"output": "x"})


def test_malformed_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(write(tmp_path / "run.toml", "epochs = ="))
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="no output folder"):
        load_config(None)


def test_flags_win_over_the_file_and_leave_its_other_values(tmp_path: Path) -> None:
    path = write(tmp_path / "run.toml", 'output = "x"\nepochs = 3\n[optimizer]\nlearning_rate = 0.2\nmomentum = 0.5\n')
    config = load_config(path, {"epochs": 4, "optimizer": {"learning_rate": 0.3}})
    assert (config.epochs, config.optimizer.learning_rate, config.optimizer.momentum) == (4, 0.3, 0.5)


def test_lfw_open_brings_its_validation_and_test_folds(tmp_path: Path) -> None:
    data = {"protocol": "lfw-open", "folders": ["lfw", "celeba"], "pairs": "pairs.txt"}
    config = load_config(None, {"output": "x", "data": data, "test": {"flip_sum": True}})
    assert config.validation is not None
    assert config.test is not None
    assert (config.validation.images, config.validation.folds) == (Path("lfw"), "5")
    assert (config.test.folds, config.test.flip_sum) == ("6-10", True)


def test_options_belong_to_their_head() -> None:
    heads = {"am-softmax": {"margin": 0.2}, "arcface": {"margin": 0.4}}
    values = {"output": "x", "heads": heads}
    assert load_config(None, values | {"head": "arcface"}).head_options == {"margin": 0.4}
    assert load_config(None, values | {"head": "softmax"}).head_options == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partitions": {"smapled": {}}}, r"partitions\.smapled is unknown; known partitions: dense"),
        ({"heads": {"cosface": {}}}, r"heads\.cosface is unknown; known heads: softmax"),
        ({"reset_head": True}, "reset_head needs start_from"),
        ({"freeze": 1}, "freeze needs start_from: without it the parts that stay as they are would be random"),
        ({"freeze_epochs": 1}, "freeze_epochs needs freeze"),
        (
            {"freeze": 1, "start_from": "x", "freeze_epochs": 3, "epochs": 3},
            r"must be below epochs \(3\), got 3; leave",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, {"output": "x"} | values)


def test_a_partition_has_its_own_table() -> None:
    values = {"output": "x", "partition": "sampled", "partitions": {"sampled": {"samples": 0.1}, "nce": {"samples": 9}}}
    assert load_config(None, values).partition_options == {"name": "sampled", "samples": 0.1}
