"""Whether runs may stand in one table: one recipe, one training set, one test, and each run once."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from facemargin.errors import DataError
from training.config import TrainConfig
from training.report.results import HeadResult, PairPeople

_PER_RUN = {"head", "partition", "seed", "output"}
_MACHINE = {"device", "compile", "checkpoint_minutes", "keep_checkpoints"}
_FETCHING = {"data.workers", "data.cache", "data.on_bad_image", "data.max_bad_share"}
_PLACES = {"data.folders", "data.pairs", "validation.images", "validation.pairs"}
"""They differ between machines; the data's fingerprint and the pairs themselves are compared instead."""
_COMPARED_APART = {"epochs", "heads", "partitions", "test"}


def require_comparable(results: Sequence[HeadResult]) -> PairPeople:
    """The people of the test pairs, which all results have in common.

    What a result of an earlier version does not tell is not compared.

    Args:
        results: at least one.

    Raises:
        DataError: two results of one head, partition and seed; results of different pairs, recipes, training data or
            validation pairs; or without the people of their pairs. It names the two runs and the setting.
    """
    first = results[0]
    _require_once(results)
    for result in results:
        if (result.test.protocol, result.test.same) != (first.test.protocol, first.test.same):
            raise DataError(
                f"{called(result)} was tested on {result.test.protocol}, {called(first)} on {first.test.protocol}; "
                "only runs tested on the same pairs can be compared"
            )
        if result.people is None or result.people != first.people:
            raise DataError(f"the result of {called(result)} does not say whose its pairs are")
    _require_same_settings(results)
    return first.people or PairPeople(first=(), second=())


def called(result: HeadResult) -> str:
    """A run in words."""
    partition = "" if result.partition == "dense" else f", {result.partition}"
    return f"{result.head}{partition}, seed {result.seed}"


def _require_once(results: Sequence[HeadResult]) -> None:
    seen = set()
    for result in results:
        if called(result) in seen:
            raise DataError(f"there are two results of {called(result)}; a run counts once: take one of them away")
        seen.add(called(result))


def _require_same_settings(results: Sequence[HeadResult]) -> None:
    """Every setting is that of the first run that tells it."""
    told: dict[str, tuple[HeadResult, Any]] = {}
    for result in results:
        for name, value in _settings(result):
            other, before = told.setdefault(name, (result, value))
            if value != before:
                raise DataError(
                    f"{called(other)} and {called(result)} differ in {name}{_both(before, value)}; "
                    "only runs of one recipe on the same data can be compared"
                )


def _both(one: object, other: object) -> str:
    texts = [str(value) for value in (one, other)]
    return f" ({texts[0]} and {texts[1]})" if max(map(len, texts)) <= 64 else ""


def _settings(result: HeadResult) -> Iterator[tuple[str, Any]]:
    """Name and value of all that must be the same where it is told."""
    yield "epochs", result.epochs
    yield "test.flip_sum", result.test.flip_sum
    if result.data is not None:
        yield "data.sha256", result.data.sha256
    if result.variants is not None:
        yield "the validation pairs", (result.variants.same, result.variants.group, result.variants.people)
    if result.recipe:
        yield f"heads.{result.head}", result.recipe.get("heads", {}).get(result.head, {})
        yield f"partitions.{result.partition}", result.recipe.get("partitions", {}).get(result.partition, {})
        yield from _shared_settings(result.recipe)


def _shared_settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The recipe but for the options of heads and partitions; a setting that is newer than it has its default."""
    defaults = dict(_flat(TrainConfig(output=Path()).model_dump(mode="json")))
    told = defaults | dict(_flat(recipe))
    left_out = _PER_RUN | _MACHINE | _FETCHING | _PLACES
    for name, value in told.items():
        if name not in left_out and name.split(".")[0] not in _COMPARED_APART:
            yield name, value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested settings by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
