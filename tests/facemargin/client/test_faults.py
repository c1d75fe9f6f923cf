"""A network that loses requests and answers: nothing is done twice, nothing is lost."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from facemargin.client import Client, Retries, ServiceUnreachable

FAULTS = {
    "before": httpx.ConnectError("the request is lost"),
    "after": httpx.ReadError("the answer is lost"),
    "half": httpx.RemoteProtocolError("the answer is cut"),
    "slow": httpx.ReadTimeout("the answer comes too late"),
}


class Faulty(httpx.BaseTransport):
    """Loses what the plan says: ``before`` the service acts, or after it did; carries the rest."""

    def __init__(self, inner: httpx.BaseTransport, plan: Iterator[str]) -> None:
        self._inner, self._plan = inner, plan
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fault = next(self._plan, "")
        if fault == "before":
            self.lost += 1
            raise FAULTS[fault]
        answer = self._inner.handle_request(request)
        if fault:
            self.lost += 1
            raise FAULTS[fault]
        return answer


Make = Callable[[Iterator[str]], tuple[Client, Faulty]]


@pytest.fixture
def faulty(client: Client, transport: httpx.BaseTransport) -> Iterator[Make]:
    made: list[Client] = []

    def make(plan: Iterator[str]) -> tuple[Client, Faulty]:
        lossy = Faulty(transport, plan)
        made.append(Client("http://127.0.0.1", transport=lossy, retries=Retries(deadline=30, first_wait=0.0005)))
        return made[-1], lossy

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("faults", [["before"], ["after"], ["half"], ["slow", "after"], ["after", "before", "after"]])
def test_each_write_is_done_once(faulty: Make, client: Client, crop: Any, everybody: Any, faults: list[str]) -> None:
    def once(name: str, /, *args: Any, **more: Any) -> Any:
        lossy, network = faulty(iter(faults))
        reply = getattr(lossy, name)(*args, **more)
        assert network.lost == len(faults)
        return reply

    person = once("add_person", "staff", "Ada")
    face = once("enrol", "staff", person.id, crop(1), aligned=True)
    other = once("enrol", "staff", person.id, crop(2), aligned=True)
    assert everybody(client, "staff") == {"Ada": [face.id, other.id]}
    assert once("change_person", "staff", person.id, name="Ada King").name == "Ada King"
    once("delete_face", "staff", person.id, face.id)
    assert everybody(client, "staff") == {"Ada King": [other.id]}
    once("delete_person", "staff", person.id)
    assert everybody(client, "staff") == {}
    once("delete_collection", "staff")
    assert "staff" not in [item.name for item in client.collections().collections]


def test_many_writes_over_a_bad_network(faulty: Make, client: Client, crop: Any, everybody: Any) -> None:
    rng = random.Random(7)
    plan = iter(lambda: rng.choice(["", "", "before", "after", "half", "slow"]), None)
    lossy, network = faulty(plan)
    expected = {}
    for number in range(6):
        person = lossy.add_person("staff", f"Person {number}")
        expected[person.name] = [lossy.enrol("staff", person.id, crop(number, n), aligned=True).id for n in range(3)]
    assert network.lost > 10
    assert everybody(client, "staff") == expected


def test_without_its_key_the_same_write_is_another_one(client: Client, everybody: Any) -> None:
    """What the tests above would see if the client sent a new key with each try."""
    client.add_person("staff", "Ada")
    client.add_person("staff", "Ada")
    with pytest.raises(AssertionError):
        everybody(client, "staff")


def test_a_network_that_stays_away_is_told(faulty: Make) -> None:
    lossy, _ = faulty(iter(["before"] * 10_000))
    lossy._manner = type(lossy._manner)(5, 5, Retries(deadline=0.05, first_wait=0.001), lossy._manner.clock)
    with pytest.raises(ServiceUnreachable, match="the request is lost"):
        lossy.live()
