"""What the indexes of a store are called in an engine that outlives the process."""

import hashlib
from typing import Final

from service.entries import Templates
from service.store import CollectionRow
from service.store.vault import Vault

_DIGITS: Final = 8


class IndexNames:
    """Names of the indexes of one store: ``g_<store>_<collection>_<model and kind of templates>``.

    Several stores may share an engine: each knows its own by the first part, which nobody else can tell the store from.

    Args:
        vault: of the store.
        templates: kind of the entries.
    """

    def __init__(self, vault: Vault, templates: Templates) -> None:
        self._prefix = f"g_{vault.pseudonym('index', 'store')[:_DIGITS]}_"
        self._templates = templates

    def of(self, public_id: str, model: str) -> str:
        """The name of a collection's index by a model."""
        kind = hashlib.sha256(f"{self._templates} {model}".encode()).hexdigest()[:_DIGITS]
        return f"{self._prefix}{public_id.removeprefix('c_')}_{kind}"

    def of_row(self, row: CollectionRow) -> str:
        """The name of the index of a collection by the model that its row names."""
        return self.of(row.public_id, row.model)

    def owns(self, name: str) -> bool:
        """Whether an index is of this store, of whatever collection, model and kind."""
        return name.startswith(self._prefix)
