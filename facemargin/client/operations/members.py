"""People of a collection."""

from datetime import datetime
from enum import Enum
from typing import Literal

from facemargin.client.operation import Call, PageCall, Parts, deletion, given, listing, operation
from facemargin.client.replies import Export, PeoplePage, Person

_PEOPLE = "/v1/collections/{name}/people"
_PERSON = "/v1/collections/{name}/people/{person_id}"


@operation("GET", _PEOPLE, PeoplePage)
def people_page(collection: str, *, limit: int = 100, cursor: str | None = None, name: str | None = None) -> Parts:
    """One page of the people; `people` walks through all of them.

    Args:
        collection: its name.
        limit: most people on the page, up to 1000.
        cursor: ``next`` of the page before.
        name: only people of exactly this name.
    """
    return Parts(path={"name": collection}, query={"limit": limit, "cursor": cursor, "name": name})


def _of_page(page: PeoplePage) -> list[Person]:
    return page.people


@listing(_of_page, Person)
def people(collection: str, *, name: str | None = None, page_size: int = 100) -> PageCall[PeoplePage]:
    """The people of a collection, in the order they came; pages are fetched as they are reached.

    Args:
        collection: its name.
        name: only people of exactly this name.
        page_size: people to a page, up to 1000.
    """

    def page(cursor: str | None) -> Call[PeoplePage]:
        return people_page.call(collection, limit=page_size, cursor=cursor, name=name)

    return page


@operation("GET", _PERSON, Person)
def person(collection: str, person: str) -> Parts:
    """One person, by id."""
    return Parts(path={"name": collection, "person_id": person})


class Unchanged(Enum):
    """Stands for a field that stays as it is, where None means something."""

    UNCHANGED = "unchanged"


@operation("GET", _PERSON + "/export", Export)
def export_person(collection: str, person: str) -> Parts:
    """All that is held about a person: vectors, stored crops, audit records (scope ``admin``)."""
    return Parts(path={"name": collection, "person_id": person})


@operation("POST", _PEOPLE, Person, writes=True)
def add_person(
    collection: str, name: str, *, expires_at: datetime | None = None, idempotency_key: str | None = None
) -> Parts:
    """Add a person without faces; the reply has the id.

    Args:
        collection: its name.
        name: what people call the person; need not be unique.
        expires_at: when the service erases the person by itself, with a time zone; None for never.
        idempotency_key: made up without it.
    """
    fields = given(name=name, expires_at=_moment(expires_at))
    return Parts(path={"name": collection}, fields=fields, idempotency_key=idempotency_key)


@operation("PATCH", _PERSON, Person, writes=True)
def change_person(
    collection: str,
    person: str,
    *,
    name: str | None = None,
    expires_at: datetime | Literal[Unchanged.UNCHANGED] | None = Unchanged.UNCHANGED,
    idempotency_key: str | None = None,
) -> Parts:
    """Change a person's name or end; the faces stay.

    Args:
        collection: its name.
        person: id of the person.
        name: the new name.
        expires_at: when the service erases the person by itself; None for never.
        idempotency_key: made up without it.
    """
    fields = given(name=name)
    if expires_at is not Unchanged.UNCHANGED:
        fields["expires_at"] = _moment(expires_at)
    return Parts(path={"name": collection, "person_id": person}, fields=fields, idempotency_key=idempotency_key)


@deletion(_PERSON)
def delete_person(collection: str, person: str, *, idempotency_key: str | None = None) -> Parts:
    """Delete a person and all faces. This cannot be undone."""
    return Parts(path={"name": collection, "person_id": person}, idempotency_key=idempotency_key)


def _moment(moment: datetime | None) -> str | None:
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"expires_at is {moment}; it needs a time zone")
    return None if moment is None else moment.isoformat()
