"""One error tree, complete and drawn."""

import inspect
import pickle

import pytest

from facemargin import client
from facemargin.client import errors
from facemargin.client.errors import BY_SLUG, BY_STATUS, TYPE_PREFIX, ServiceProblem, problem_from
from facemargin.errors import FacemarginError
from service.problems import ALL_PROBLEMS
from service.problems import TYPE_PREFIX as SERVICE_PREFIX

OF_THE_OTHER_API = "compreface"
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, FacemarginError) and kind is not FacemarginError
}


def test_every_problem_of_the_service_has_its_error() -> None:
    assert TYPE_PREFIX == SERVICE_PREFIX
    slugs = {slug for slug in ALL_PROBLEMS if OF_THE_OTHER_API not in slug}
    assert slugs - BY_SLUG.keys() == set()
    assert BY_SLUG.keys() - ALL_PROBLEMS.keys() == set()


def test_errors_that_may_be_tried_again_are_those_of_429_and_503() -> None:
    for slug, problem in ALL_PROBLEMS.items():
        again = issubclass(BY_SLUG.get(slug, ServiceProblem), errors.TryLater)
        assert again is (problem.status in (429, 503) and slug != "detector-missing"), slug


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if "──" in line:
            left, _, right = line.partition("── ")
            drawn.append((len(left), right.split()[0]))
    for number, (depth, name) in enumerate(drawn):
        above = next((n for d, n in reversed(drawn[:number]) if d < depth), "FacemarginError")
        assert CLASSES[name].__base__.__name__ == above
    assert {name for _, name in drawn} == CLASSES.keys()


def test_every_error_is_exported() -> None:
    assert CLASSES.keys() <= set(client.__all__)
    assert set(client.__all__) == {name for name in vars(client) if name in client.__all__}


@pytest.mark.parametrize(("status", "kind"), BY_STATUS.items())
def test_an_unknown_problem_is_told_by_its_status(status: int, kind: type[ServiceProblem]) -> None:
    assert type(problem_from({"status": status, "type": "urn:other:thing"})) is kind


def test_a_problem_has_its_members_and_survives_pickling() -> None:
    body = {
        "type": "urn:facemargin:problem:several-faces",
        "title": "Several",
        "status": 422,
        "detail": "3 faces",
        "request_id": "ab12",
        "faces": 3,
    }
    for error in (problem_from(body, 2.5), pickle.loads(pickle.dumps(problem_from(body, 2.5)))):
        assert isinstance(error, errors.SeveralFaces)
        assert (error.slug, error.title, error.status, error.detail) == ("several-faces", "Several", 422, "3 faces")
        assert (error.members, error.request_id, error.retry_after) == ({"faces": 3}, "ab12", 2.5)
        assert str(error) == "3 faces (several-faces, status 422, request ab12)"


def test_a_problem_of_no_known_status_is_a_plain_one() -> None:
    error = problem_from({"status": 418, "title": "A teapot"})
    assert type(error) is ServiceProblem
    assert str(error) == "A teapot (about:blank, status 418)"
