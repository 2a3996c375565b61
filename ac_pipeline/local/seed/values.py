"""What the demo data is made of, as values: people, documents with what should become of them, objects, the summary.

The expectations are written down where a document is made, from the facts and the acceptance cases. They never ask the
pipeline's own code: that is what they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum, StrEnum
from typing import Any

COLLECTIONS = {"painting": "paintings", "mood": "moods", "piece": "pieces", "kidlisp": "kidlisp", "tape": "tapes"}
TYPES = tuple(COLLECTIONS)

USER_BUCKET = "user-aesthetic-computer"
GUEST_BUCKET = "art-aesthetic-computer"
OVEN_BUCKET = "at-blobs-aesthetic-computer"


class Situation(Enum):
    """How a person stands with the platform and the PDS; whether an account is made there; and the error class by which
    the pipeline shows it as blocked, or None."""

    READY = "ready", True, None
    NO_CREDENTIALS = "no credentials", False, "no-credentials"
    DID_ONLY = "DID without password", True, "no-credentials"
    WRONG_PASSWORD = "wrong password", True, "wrong-password"
    DEACTIVATED = "deactivated", True, "account-inactive"
    TAKEN_DOWN = "taken down", True, "account-inactive"
    UNKNOWN_DID = "DID the PDS does not host", False, "account-unknown"
    HANDLE_ONLY = "no user document", False, "no-credentials"
    SCHEDULED = "deletion scheduled", True, None
    CANCELLED = "deletion cancelled", True, None
    PURGED = "purged, documents left", False, None
    SISTER_TENANT = "sister tenant", False, None

    def __init__(self, words: str, has_account: bool, blocked: str | None) -> None:
        self.has_account, self.blocked = has_account, blocked


@dataclass(frozen=True, slots=True)
class Person:
    """One user of the demo."""

    id: str  # Auth0 id
    code: str  # Permanent user code
    handle: str | None  # Name on the platform, or None
    password: str = field(repr=False)  # Of the PDS account, as Mongo has it
    situation: Situation = Situation.READY
    flat: bool = False  # True if the credentials are in the flat fields from before they were nested
    moods_nuked: bool = False  # True if all moods were nuked at once

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
        return 3 if self is Past.DUPLICATES else int(self not in _WITHOUT_RECORD)


_WITHOUT_RECORD = {Past.NOTHING, Past.DANGLING, Past.CROSSED, Past.WIPED, Past.EMPTY_LINK}
_WITHOUT_RECORD |= {Past.FOREIGN_DID, Past.FOREIGN_RKEY}
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
    """One document of the demo."""

    type: str  # Media type
    kind: str  # Name of its variant, for people
    owner: Person | None  # Who made it; None for a guest
    document: dict[str, Any]  # As it is in Mongo, before any link
    outcome: Outcome  # What should become of it
    error_class: str = ""  # Class of its quarantine
    past: Past = Past.NOTHING  # What earlier writers left of it
    objects: tuple[StoredObject, ...] = ()  # Its media

    @property
    def unchanged(self) -> bool:
        """True if a record of it is right as it is (its link may not be). Earlier records never have our blobs."""
        return self.outcome is Outcome.PUBLISHED and self.past in _RIGHT and self.type in _WITHOUT_BLOBS

    @property
    def in_mongo(self) -> bool:
        """An orphan's document is gone: only its record is left."""
        return self.past is not Past.ORPHAN


@dataclass(frozen=True, slots=True)
class TypeSummary:
    """What the demo has of one type, and what the pipeline should make of it."""

    documents: int  # In Mongo. The sum of the eight counts that follow.
    published: int  # End with one record each
    withdrawn: int  # Not eligible by their own fields
    owner_deleted: int  # Not eligible because their owner's account is scheduled for deletion
    purged: int  # Left behind by a purged account, which is no partition any more
    blocked: int  # Eligible documents of blocked accounts
    quarantined: Mapping[str, int]  # Error class -> documents of ready accounts that fail for good
    deferred: int  # Wait for media that the platform is still making
    kinds: Mapping[str, int]  # Variant -> documents
    records: int  # On the PDS before the first sync
    unchanged: int  # Documents whose record is already right
    duplicates: int  # Records too many for one document, to be deleted
    orphans: int  # Records whose document is gone, to be deleted
    withdrawn_records: int  # Records of withdrawn documents, to be deleted
    copies: int  # Copies of published documents in `site.standard.document`, to stay
    withdrawn_copies: int  # Copies of withdrawn documents there, to be deleted


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """What a seed made."""

    users: int  # Documents in `users`, the guest's included
    ready: int  # Accounts that can be synchronised, the guest's included
    blocked: Mapping[str, int]  # Error class -> accounts
    types: Mapping[str, TypeSummary]  # Media type -> what is there of it
    objects: int  # Objects in storage
    media_bytes: int  # Their bytes
    seconds: float = field(default=0.0, compare=False)  # How long the seed took; not part of what it is

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
