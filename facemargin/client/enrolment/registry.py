"""Names to people of a collection: each is found, or made, once, however many pictures and threads ask."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from facemargin.client.clients import Client
from facemargin.client.enrolment.sources import Someone
from facemargin.client.errors import IdempotencyGone
from facemargin.client.operations.members import Unchanged
from facemargin.client.replies import Person
from facemargin.errors import DataError

_MOST_ERASED_BEFORE = 100


class Registry:
    """The people of a collection, as pictures ask for them.

    Args:
        client: to the service.
        collection: its name.
        key: makes an Idempotency-Key of words.
    """

    def __init__(self, client: Client, collection: str, key: Callable[..., str]) -> None:
        self._client = client
        self._collection = collection
        self._key = key
        self._known: dict[str, Future[str]] = {}
        self._lock = threading.Lock()

    def id_of(self, person: Someone) -> str:
        """The id of a person, who is made if the source gives only a name and nobody has it.

        Raises:
            DataError: several people of the collection have the name, or the id's person has another one.
            ClientError: the service refuses.
        """
        with self._lock:
            known = self._known.get(person.identity)
            mine = known is None
            if known is None:
                known = self._known[person.identity] = Future()
        if mine:
            try:
                known.set_result(self._settle(person))
            except BaseException as error:  # whoever waits for this person must hear of it
                known.set_exception(error)
        return known.result()

    def _settle(self, person: Someone) -> str:
        found = self._found(person)
        if found is None:
            return self._made(person).id
        if person.expires_at not in (None, found.expires_at):
            key = self._key("expires", found.id, str(person.expires_at))
            self._client.change_person(
                self._collection, found.id, expires_at=person.expires_at or Unchanged.UNCHANGED, idempotency_key=key
            )
        return found.id

    def _found(self, person: Someone) -> Person | None:
        if person.person_id is not None:
            found = self._client.person(self._collection, person.person_id)
            if person.name not in ("", found.name):
                raise DataError(f"person {found.id} is '{found.name}' in the collection, and '{person.name}' here")
            return found
        named = self._client.people_page(self._collection, name=person.name, limit=2).people
        if len(named) > 1:
            raise DataError(f"several people of the collection are named '{person.name}'; say which by a person_id")
        return named[0] if named else None

    def _made(self, person: Someone) -> Person:
        """A new person; one of the name who was made and erased before does not stand in the way."""
        for erased in range(_MOST_ERASED_BEFORE):
            key = self._key("person", person.name, str(person.expires_at), str(erased))
            try:
                return self._client.add_person(
                    self._collection, person.name, expires_at=person.expires_at, idempotency_key=key
                )
            except IdempotencyGone:
                continue
        raise DataError(f"'{person.name}' was made and erased {_MOST_ERASED_BEFORE} times; wait a day")
