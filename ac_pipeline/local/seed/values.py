"""What the demo data is made of, as values: people, documents with what should become of them, objects, the summary.

The expectations are written down where a document is made, from the facts and the acceptance cases. They never ask the
pipeline's own code: that is what they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

COLLECTIONS = {"painting": "paintings", "mood": "moods", "piece": "pieces", "kidlisp": "kidlisp", "tape": "tapes"}
TYPES = tuple(COLLECTIONS)

USER_BUCKET = "user-aesthetic-computer"
GUEST_BUCKET = "art-aesthetic-computer"
OVEN_BUCKET = "at-blobs-aesthetic-computer"


class Situation(StrEnum):
    """How a person stands with the platform and the PDS."""

    READY = "ready"
    NO_CREDENTIALS = "no credentials"
    DID_ONLY = "DID without password"
    WRONG_PASSWORD = "wrong password"  # noqa: S105 - the name of a situation
    DEACTIVATED = "deactivated"
    TAKEN_DOWN = "taken down"
    UNKNOWN_DID = "DID the PDS does not host"
    HANDLE_ONLY = "no user document"
    SCHEDULED = "deletion scheduled"
    CANCELLED = "deletion cancelled"
    PURGED = "purged, documents left"
    SISTER_TENANT = "sister tenant"

    @property
    def has_account(self) -> bool:
        """Whether an account is made on the PDS."""
        return self not in _WITHOUT_ACCOUNT

    @property
    def blocked(self) -> str | None:
        """Error class by which the pipeline shows the account as blocked, or None."""
        return _BLOCKED.get(self)


_WITHOUT_ACCOUNT = {
    Situation.NO_CREDENTIALS,
    Situation.UNKNOWN_DID,
    Situation.HANDLE_ONLY,
    Situation.PURGED,
    Situation.SISTER_TENANT,
}
_BLOCKED = {
    Situation.NO_CREDENTIALS: "no-credentials",
    Situation.DID_ONLY: "no-credentials",
    Situation.HANDLE_ONLY: "no-credentials",
    Situation.WRONG_PASSWORD: "wrong-password",
    Situation.DEACTIVATED: "account-inactive",
    Situation.TAKEN_DOWN: "account-inactive",
    Situation.UNKNOWN_DID: "account-unknown",
}


@dataclass(frozen=True, slots=True)
class Person:
    """One user of the demo.

    Args:
        id: Auth0 id.
        code: Permanent user code.
        handle: Name on the platform, or None.
        password: Of the PDS account, as Mongo has it.
        situation: See `Situation`.
        flat: Whether the credentials are in the flat fields from before they were nested.
        moods_nuked: Whether all moods were nuked at once.
    """

    id: str
    code: str
    handle: str | None
    password: str = field(repr=False)
    situation: Situation = Situation.READY
    flat: bool = False
    moods_nuked: bool = False

    @property
    def ready(self) -> bool:
        return self.situation in {Situation.READY, Situation.CANCELLED}


class Outcome(StrEnum):
    """What should become of a document."""

    PUBLISHED = "published"
    WITHDRAWN = "withdrawn"
    QUARANTINED = "quarantined"
    DEFERRED = "deferred"
    BLOCKED = "blocked"
    OWNER_DELETED = "owner-deleted"
    PURGED = "purged"


class Past(StrEnum):
    """What an earlier writer left behind for a document: records on the PDS, and a link in Mongo."""

    NOTHING = "nothing"
    CORRECT = "correct, fully linked"
    CORRECT_SHORT_LINK = "correct, linked by rkey alone"
    CORRECT_UNLINKED = "correct, not linked"
    COPIED = "correct, with a copy in `site.standard.document`"
    WHEN_OFF = "`when` off by milliseconds"
    DUPLICATES = "three records, the second linked"
    MONGO_ID = "`mongoId` for `ref`"
    TEXTLESS = "no text"
    TEXT_FIELD = "`text` for `mood`"
    NO_THUMBNAIL = "no thumbnail"
    WHOLE_PICTURE = "whole picture as thumbnail"
    PNG_URL = "`imageUrl` with .png"
    HANDLE_URL = "`imageUrl` by handle and slug"
    SPACES_URL = "`imageUrl` in the storage"
    NO_PAGE = "no `acUrl`"
    NO_REF = "no `ref`, key not in Mongo"
    NO_VIDEO = "no video"
    ORPHAN = "document gone"
    DANGLING = "stored rkey without record"
    CROSSED = "link to another document's record"
    WIPED = "link without rkey after a wipe"
    EMPTY_LINK = "empty link"
    FOREIGN_DID = "link into another repository"
    FOREIGN_RKEY = "link to a record unknown here"

    @property
    def records(self) -> int:
        """How many records it puts on the PDS."""
        if self is Past.DUPLICATES:
            return 3
        return 0 if self in _WITHOUT_RECORD else 1


_FOREIGN = {Past.FOREIGN_DID, Past.FOREIGN_RKEY}
_WITHOUT_RECORD = {Past.NOTHING, Past.DANGLING, Past.CROSSED, Past.WIPED, Past.EMPTY_LINK, *_FOREIGN}
_RIGHT = {Past.CORRECT, Past.CORRECT_SHORT_LINK, Past.CORRECT_UNLINKED, Past.COPIED, Past.WHEN_OFF, Past.DUPLICATES}
_WITHOUT_BLOBS = {"mood", "piece", "kidlisp"}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in storage; `make` gives its bytes, the same ones each time."""

    bucket: str
    key: str
    make: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One document of the demo.

    Args:
        type: Media type.
        kind: Name of its variant, for people.
        owner: Who made it; None for a guest.
        document: As it is in Mongo, before any link.
        outcome: What should become of it.
        error_class: Class of its quarantine.
        past: What earlier writers left of it.
        objects: Its media.
    """

    type: str
    kind: str
    owner: Person | None
    document: dict[str, Any]
    outcome: Outcome
    error_class: str = ""
    past: Past = Past.NOTHING
    objects: tuple[StoredObject, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether a record of it is right as it is (its link may not be). Earlier records never have our blobs."""
        return self.outcome is Outcome.PUBLISHED and self.past in _RIGHT and self.type in _WITHOUT_BLOBS

    @property
    def in_mongo(self) -> bool:
        """An orphan's document is gone: only its record is left."""
        return self.past is not Past.ORPHAN


@dataclass(frozen=True, slots=True)
class TypeSummary:
    """What the demo has of one type, and what the pipeline should make of it.

    Args:
        documents: In Mongo. The sum of the eight counts that follow.
        published: End with one record each.
        withdrawn: Not eligible by their own fields.
        owner_deleted: Not eligible because their owner's account is scheduled for deletion.
        purged: Left behind by a purged account, which is no partition any more.
        blocked: Eligible documents of blocked accounts.
        quarantined: Error class -> documents of ready accounts that fail for good.
        deferred: Wait for media that the platform is still making.
        kinds: Variant -> documents.
        records: On the PDS before the first sync.
        unchanged: Documents whose record is already right.
        duplicates: Records too many for one document, to be deleted.
        orphans: Records whose document is gone, to be deleted.
        withdrawn_records: Records of withdrawn documents, to be deleted.
        copies: Copies of published documents in `site.standard.document`, to stay.
        withdrawn_copies: Copies of withdrawn documents there, to be deleted.
    """

    documents: int
    published: int
    withdrawn: int
    owner_deleted: int
    purged: int
    blocked: int
    quarantined: Mapping[str, int]
    deferred: int
    kinds: Mapping[str, int]
    records: int
    unchanged: int
    duplicates: int
    orphans: int
    withdrawn_records: int
    copies: int
    withdrawn_copies: int


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """What a seed made.

    Args:
        users: Documents in `users`, the guest's included.
        ready: Accounts that can be synchronised, the guest's included.
        blocked: Error class -> accounts.
        types: Media type -> what is there of it.
        objects: Objects in storage.
        media_bytes: Their bytes.
        seconds: How long the seed took; not part of what it is.
    """

    users: int
    ready: int
    blocked: Mapping[str, int]
    types: Mapping[str, TypeSummary]
    objects: int
    media_bytes: int
    seconds: float = field(default=0.0, compare=False)

    @property
    def documents(self) -> int:
        return sum(one.documents for one in self.types.values())

    def describe(self) -> str:
        """A few lines for people: what is there, and what a synchronisation should make of it."""
        lines = [
            f"{self.users} users ({self.ready} accounts ready, {sum(self.blocked.values())} blocked), "
            f"{self.documents} documents, {self.objects} objects of {self.media_bytes / 1e6:.1f} MB",
            "type     documents  to publish  withdrawn  blocked  quarantine  deferred  records",
        ]
        for name, one in self.types.items():
            withdrawn = one.withdrawn + one.owner_deleted + one.purged
            lines.append(
                f"{name:8}{one.documents:>10}{one.published:>12}{withdrawn:>11}{one.blocked:>9}"
                f"{sum(one.quarantined.values()):>12}{one.deferred:>10}{one.records:>9}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SeedSummary:
        types = {name: TypeSummary(**one) for name, one in content["types"].items()}
        return cls(**{**content, "types": types})
