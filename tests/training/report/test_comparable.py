"""Only runs of one recipe, one training set and one test stand in one table, each of them once."""

from collections.abc import Callable
from typing import Any

import pytest

from facemargin.errors import DataError
from training.report.comparable import require_comparable
from training.report.results import HeadResult

MakeResult = Callable[..., HeadResult]
RECIPE: dict[str, Any] = {
    "epochs": 2, "device": "cpu", "compile": True, "heads": {"arcface": {"margin": 0.5}, "softmax": {}},
    "partitions": {}, "data": {"folders": ["/here/lfw"], "protocol": "all", "workers": 2},
    "optimizer": {"learning_rate": 0.1}, "validation": {"images": "/here/lfw", "folds": "1"},
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe with another value of one setting."""
    section, _, name = path.partition(".")
    return {**RECIPE, section: {**RECIPE.get(section, {}), name: value} if name else value}


def test_what_may_differ(make_result: MakeResult) -> None:
    first = make_result("softmax", recipe=RECIPE)
    others = [
        changed("device", "cuda"), changed("compile", False), changed("data.workers", 0),
        changed("data.folders", ["/there/lfw"]), changed("validation.images", "/there/lfw"),
        changed("heads.arcface", {"margin": 0.3}), changed("partitions.sampled", {"share": 0.1}),
        changed("freeze", []), {},
    ]  # fmt: skip
    results = [make_result("softmax", seed, recipe=recipe) for seed, recipe in enumerate(others, start=1)]
    old = make_result("softmax", 99, recipe={}, data=None, variants=None)
    assert require_comparable([first, *results, old]) == first.people


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("optimizer.learning_rate", 0.2, r"optimizer.learning_rate \(0.1 and 0.2\)"),
        ("backbone.width", 0.5, r"backbone.width \(1.0 and 0.5\)"),
        ("heads.softmax", {"bias": False}, r"heads.softmax \({} and {'bias': False}\)"),
        ("partitions.dense", {"x": 1}, "partitions.dense"),
        ("data.protocol", "lfw-open", "data.protocol"),
        ("validation.folds", "2", "validation.folds"),
        ("start_from", "runs/other", "start_from"),
    ],
)
def test_another_recipe_is_refused_by_the_setting(path: str, value: Any, named: str, make_result: MakeResult) -> None:
    runs = [make_result("softmax", 0, recipe=RECIPE), make_result("arcface", 0, recipe=RECIPE)]
    other = make_result("softmax", 1, recipe=changed(path, value))
    with pytest.raises(DataError, match=rf"softmax, seed 0 and softmax, seed 1 differ in {named}"):
        require_comparable([*runs, other])


def test_other_measurements_are_refused_by_what_differs(make_result: MakeResult) -> None:
    first = make_result("softmax")
    assert first.data is not None
    assert first.variants is not None
    pairs = first.variants.model_copy(update={"same": first.variants.same[::-1]})
    others = {
        "epochs (2 and 5)": {"epochs": 5},
        "test.flip_sum (True and False)": {"test": first.test.model_copy(update={"flip_sum": False})},
        f"data.sha256 ({'ab' * 32} and {'cd' * 32})": {"data": first.data.model_copy(update={"sha256": "cd" * 32})},
        "the validation pairs; only": {"variants": pairs},
    }
    for named, changes in others.items():
        with pytest.raises(DataError) as refused:
            require_comparable([first, make_result("arcface", 1, **changes)])
        assert f"softmax, seed 0 and arcface, seed 1 differ in {named}" in str(refused.value)


def test_a_run_counts_once(make_result: MakeResult) -> None:
    runs = [make_result("softmax"), make_result("softmax", partition="sampled"), make_result("softmax", 1)]
    require_comparable(runs)
    with pytest.raises(DataError, match="two results of softmax, sampled, seed 0"):
        require_comparable([*runs, make_result("softmax", partition="sampled")])


def test_what_was_not_tested_alike_is_refused(make_result: MakeResult) -> None:
    first = make_result("softmax")
    other = first.test.model_copy(update={"protocol": "drawn, folds 4-6"})
    with pytest.raises(DataError, match=r"seed 0 was tested on drawn, folds 4-6, softmax, seed 0 on drawn, folds 1-3"):
        require_comparable([first, make_result("arcface", test=other)])
    with pytest.raises(DataError, match="arcface, seed 0 does not say whose"):
        require_comparable([first, make_result("arcface", people=None)])
