"""The link book: the links of one account's documents as one run stores them in Mongo.

The documents were read before the run wrote, so it has to be remembered here what their links are by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType
from ac_pipeline.sync.plan import Operation, TypePlan
from ac_pipeline.sync.ports import Documents


class LinkBook:
    """Stores links, and remembers them.

    Args:
        documents: Where links are stored.
        account: Whose documents.
    """

    def __init__(self, documents: Documents, account: Account) -> None:
        self._documents = documents
        self._did = str(account.did)
        self._stored: dict[str, Link | None] = {}

    @property
    def stored(self) -> Mapping[str, Link | None]:
        """What this run has stored, by item; None where a link was cleared."""
        return self._stored

    def update(self, item: str, document: Document, link: Link | None) -> LinkUpdate:
        """The link a document shall have; `write` stores it."""
        self._stored[item] = link
        return LinkUpdate(document.id, link)

    def to_record(self, item: str, document: Document, media: MediaType, rkey: str, cid: str | None) -> LinkUpdate:
        """The link of a document to its record under a key of this account's repository."""
        return self.update(item, document, Link(rkey, at_uri(self._did, media.nsid, rkey), cid, self._did))

    def write(self, media: MediaType, updates: Sequence[LinkUpdate]) -> None:
        """Store links in one bulk write, if there are any."""
        if updates:
            self._documents.write_links(media, updates)

    def mend(self, plan: TypePlan) -> list[Operation]:
        """Store the links that are missing or wrong, unless this run has stored them just so; which they were."""
        mended, updates = [], []
        for operation in plan.links():
            item, document = operation.item, operation.document
            if document is None or (item in self._stored and self._stored[item] == operation.link):
                continue
            updates.append(self.update(item, document, operation.link))
            mended.append(operation)
        self.write(plan.media, updates)
        return mended
