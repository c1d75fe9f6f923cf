import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.errors import ConfigError
from facemargin.onnx_model import available_cores
from training.bulk.ranks import Rank, default_threads, rank_of


@given(parts=st.integers(0, 300), of=st.integers(1, 40))
def test_the_ranks_share_all_parts_once_each_and_fairly(parts: int, of: int) -> None:
    shares = [list(Rank(number, of).share(parts)) for number in range(of)]
    assert sorted(number for share in shares for number in share) == list(range(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_is_the_only_rank() -> None:
    assert rank_of(None, None, {}) == Rank(0, 1)


def test_launchers_tell_the_rank_and_options_overrule_them() -> None:
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    assert rank_of(None, None, torchrun) == Rank(2, 4)
    assert rank_of(0, 3, torchrun) == Rank(0, 3)
    assert rank_of(None, None, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}) == Rank(1, 8)


def test_a_batch_script_that_srun_did_not_start_is_one_process() -> None:
    assert rank_of(None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Rank(0, 1)


@pytest.mark.parametrize(
    ("number", "of", "environment", "message"),
    [
        (1, None, {}, "--rank and --world-size go together"),
        (None, 2, {}, "--rank and --world-size go together"),
        (2, 2, {}, "below the world size 2, got 2"),
        (-1, 2, {}, "got -1"),
        (0, 0, {}, "below the world size 0"),
        (None, None, {"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one'"),
    ],
)
def test_an_impossible_rank_is_refused(
    number: int | None, of: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rank_of(number, of, environment)


def test_ranks_of_one_machine_share_its_cores() -> None:
    assert default_threads({}) == available_cores()
    assert default_threads({"LOCAL_WORLD_SIZE": "2"}) == max(1, available_cores() // 2)
    assert default_threads({"LOCAL_WORLD_SIZE": "100000"}) == 1
