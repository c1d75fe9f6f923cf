from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.bulk.plan import Options, Plan, PlannedSource

OPTIONS = Options(
    aligned=True, faces=None, detector_sha256=None, score_threshold=None,
    batch=16, provider="cpu", part_pictures=100, to_format="parquet", dtype="float32",
)  # fmt: skip


def plan(*counts: int, model_id: str = "0" * 16, **options: Any) -> Plan:
    sources = tuple(
        PlannedSource(name=f"set {number}", format="folder", pictures=count, fingerprint="f")
        for number, count in enumerate(counts)
    )
    return Plan(model_id=model_id, embedding_dim=4, sources=sources, options=OPTIONS.model_copy(update=options))


@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    part_pictures=st.integers(1, 90),
    batch=st.integers(1, 64),
)
def test_the_batches_of_all_parts_are_all_pictures_once_each(counts: list[int], part_pictures: int, batch: int) -> None:
    made = plan(*counts, part_pictures=part_pictures, batch=batch)
    batches = [made.batches(part) for part in range(made.parts)]
    assert [row for part in batches for rows in part for row in rows] == list(range(sum(counts)))
    for number, part in enumerate(batches):
        assert sum(map(len, part)) == len(made.rows(number)) <= part_pictures
        assert all(len(rows) == batch for rows in part[:-1])
        assert 0 < len(part[-1]) <= batch


def test_equal_plans_have_no_differences() -> None:
    assert plan(3, 4).differences(plan(3, 4)) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (plan(3, 4, batch=32), ["batch 16 (there 32)"]),
        (plan(3, 4, dtype="float16", aligned=False), ["aligned True (there False)", "dtype float32 (there float16)"]),
        (plan(3, 4, model_id="1" * 16), [f"model_id {'0' * 16} (there {'1' * 16})"]),
        (plan(3), ["sources set 0, set 1 (there set 0)"]),
        (plan(3, 5), ["the pictures of set 1, which are not those of then"]),
    ],
)
def test_a_difference_is_told_by_name(other: Plan, told: list[str]) -> None:
    assert plan(3, 4).differences(other) == told
