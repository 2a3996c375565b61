"""What the demo data is made of: people, documents with what should become of them, objects, the summary; and the small
change of it all, times, ids, codes and texts, from one random generator and a fixed clock.

The expectations are written down where a document is made, from the facts and the acceptance cases. They never ask the
pipeline's own code: that is what they are compared with.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any

from bson import ObjectId

COLLECTIONS = {"painting": "paintings", "mood": "moods", "piece": "pieces", "kidlisp": "kidlisp", "tape": "tapes"}


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


_FULL = ("uri", "cid", "did", "syncedAt")  # The pipeline's own form of a link


class Past(Enum):
    """What an earlier writer left behind for a document: how many records on the PDS, which fields of a link in Mongo
    besides `rkey` (None: no link; without a record it is a matter of its own), and True if a record is right."""

    NOTHING = "nothing", 0
    CORRECT = "correct, fully linked", 1, _FULL, True
    CORRECT_SHORT_LINK = "correct, linked by rkey alone", 1, (), True
    CORRECT_UNLINKED = "correct, not linked", 1, None, True
    COPIED = "correct, with a copy in `site.standard.document`", 1, _FULL, True
    WHEN_OFF = "`when` off by milliseconds", 1, _FULL, True
    DUPLICATES = "three records, the second linked", 3, ("uri",), True
    MONGO_ID = "`mongoId` for `ref`", 1, ()
    TEXTLESS = "no text", 1, ()
    TEXT_FIELD = "`text` for `mood`", 1, ()
    NO_THUMBNAIL = "no thumbnail", 1, ()
    WHOLE_PICTURE = "whole picture as thumbnail", 1, ()
    PNG_URL = "`imageUrl` with .png", 1, ()
    HANDLE_URL = "`imageUrl` by handle and slug", 1, ()
    SPACES_URL = "`imageUrl` in the storage", 1, ()
    NO_PAGE = "no `acUrl`", 1, ()
    NO_REF = "no `ref`, key not in Mongo", 1
    NO_VIDEO = "no video", 1, ("uri", "cid")
    ORPHAN = "document gone", 1
    DANGLING = "stored rkey without record", 0
    CROSSED = "link to another document's record", 0
    WIPED = "link without rkey after a wipe", 0
    EMPTY_LINK = "empty link", 0
    FOREIGN_DID = "link into another repository", 0
    FOREIGN_RKEY = "link to a record unknown here", 0

    def __init__(self, words: str, records: int, link: tuple[str, ...] | None = None, right: bool = False) -> None:
        self.records, self.link, self.right = records, link, right


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in storage; `make` gives its bytes, the same ones each time."""

    bucket: str
    key: str
    make: Callable[[], bytes]

    @property
    def url(self) -> str:
        return f"https://{self.bucket}.sfo3.digitaloceanspaces.com/{self.key.replace('|', '%7C')}"


@dataclass(frozen=True, slots=True)
class Item:
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
        return self.outcome is Outcome.PUBLISHED and self.past.right and self.type in {"mood", "piece", "kidlisp"}

    @property
    def in_mongo(self) -> bool:
        return self.past is not Past.ORPHAN


@dataclass(frozen=True, slots=True)
class Demo:
    """People (the guest is not among them) and items, in the order in which everything is made."""

    maker: Maker
    cast: tuple[Person, ...]
    items: tuple[Item, ...]


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

    @classmethod
    def of(cls, items: Sequence[Item]) -> TypeSummary:
        """What should be found of one type, by counting what was planned."""
        present = [item for item in items if item.in_mongo]
        outcomes = Counter(item.outcome for item in present)
        copied = Counter(item.outcome for item in present if item.past is Past.COPIED)
        quarantined = Counter(item.error_class for item in present if item.outcome is Outcome.QUARANTINED)
        return cls(
            documents=len(present),
            **{outcome.name.lower(): outcomes[outcome] for outcome in Outcome if outcome is not Outcome.QUARANTINED},
            quarantined=dict(sorted(quarantined.items())),
            kinds=dict(sorted(Counter(item.kind for item in present).items())),
            records=sum(item.past.records for item in items),
            unchanged=sum(item.unchanged for item in present),
            duplicates=sum(item.past.records - 1 for item in present if item.past.records > 1),
            orphans=sum(not item.in_mongo for item in items),
            withdrawn_records=sum(item.past.records for item in present if item.outcome is Outcome.WITHDRAWN),
            copies=copied[Outcome.PUBLISHED],
            withdrawn_copies=copied[Outcome.WITHDRAWN],
        )


@dataclass(frozen=True, slots=True)
class SeedSummary:
    users: int  # Documents in `users`, the guest's included
    ready: int  # Accounts that can be synchronised, the guest's included
    blocked: Mapping[str, int]  # Error class -> accounts
    types: Mapping[str, TypeSummary]  # Media type -> what is there of it
    objects: int  # Objects in storage
    media_bytes: int  # Their bytes
    seconds: float = field(default=0.0, compare=False)  # How long the seed took; not part of what it is

    @classmethod
    def of(cls, demo: Demo, *, users: int, objects: int, media_bytes: int, seconds: float) -> SeedSummary:
        """What should be found, by counting what was planned."""
        blocked = Counter(person.situation.blocked for person in demo.cast)
        types = {type: TypeSummary.of([item for item in demo.items if item.type == type]) for type in COLLECTIONS}
        named = {error_class: blocked[error_class] for error_class in sorted(filter(None, blocked))}
        ready = 1 + sum(person.ready for person in demo.cast)
        return cls(users, ready, named, types, objects, media_bytes, seconds)

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


# The demo's present. Fixed, so that the same seed makes the same documents on any day.
NOW = datetime(2026, 9, 15, 12, 0, 0, tzinfo=UTC)

_FIRST = datetime(2023, 3, 1, tzinfo=UTC)
_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_NANOID = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TID = "234567abcdefghijklmnopqrstuvwxyz"

_FEELINGS = ["calm", "sleepy", "electric", "a bit lost", "grateful", "so-so", "wide awake", "pixelated"]
_FEELINGS += ["hungry", "new"]
_PLACES = ["on the train", "at my desk", "under the sink", "in the rain", "by the sea", "after lunch"]
_PLACES += ["at 3am", "again"]
_ENDINGS = ("", "", "", ".", "!", " ~", " :)", " 🌧️", " ✨", " …", " ñandú", " 雨")
_WORDS = ("moss", "lantern", "pixel", "ghost", "tidal", "velvet", "static", "comet", "paper", "neon", "brick", "fern")
_COLOURS = ("red", "navy", "lime", "salmon", "black", "white", "orange", "purple", "cyan", "hotpink")
_SHAPES = ("line", "box", "circle", "tri", "plot", "flood")


class Maker:
    """A source of everything random in the demo; two with the same seed give the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - sample data; the passwords are of throw-away accounts
        self._codes: dict[str, set[str]] = {}
        self._taken: set[str] = set()

    def moment(self) -> datetime:
        """A time of the last years in whole milliseconds, UTC."""
        span = (NOW - _FIRST) // timedelta(milliseconds=1)
        return _FIRST + timedelta(milliseconds=self.random.randrange(span))

    def object_id(self, when: datetime) -> ObjectId:
        """A new ObjectId of a document inserted about then."""
        return ObjectId(f"{int(when.timestamp()):08x}{self.random.getrandbits(64):016x}")

    def hex(self, digits: int) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def password(self) -> str:
        return "".join(self.random.choices(_NANOID, k=32))

    def did(self) -> str:
        """The DID of nobody."""
        return "did:plc:" + "".join(self.random.choices(_TID, k=24))

    def code(self, collection: str) -> str:
        """A short code, unique in its collection only; case counts (aesthetic-computer facts, section 5)."""
        taken = self._codes.setdefault(collection, set())
        for attempt in range(10_000):
            letters = [self.random.choice(some) for some in (_CONSONANTS, "aeiou23456789", _CONSONANTS)]
            if attempt > 10:
                letters = [self.random.choice((letter, letter.upper())) for letter in letters]
            if attempt > 100:
                letters.append(self.random.choice(_CONSONANTS))
            code = "".join(letters)
            if code not in taken:
                taken.add(code)
                return code
        raise RuntimeError(f"no free code is left for {collection}")

    def same_code_elsewhere(self, collection: str, other: str, *, swap_case: bool = False) -> str:
        """A code of `collection` that `other` has too (or has in the other case), as happens on the platform."""
        taken = self._codes.setdefault(collection, set())
        known = (code.swapcase() if swap_case else code for code in sorted(self._codes.get(other, set())))
        if (code := next((code for code in known if code not in taken), None)) is None:
            return self.code(collection)
        taken.add(code)
        return code

    def nanoid(self, length: int = 8) -> str:
        """A guest's slug; unique."""
        return self._unique(lambda: "".join(self.random.choices(_NANOID, k=length)))

    def old_slug(self, when: datetime) -> str:
        """`Y.M.D.h.m.s.mmm`, unpadded but for the milliseconds."""
        parts = (when.year, when.month, when.day, when.hour, when.minute, when.second)
        return self._unique(lambda: ".".join(map(str, parts)) + f".{self.random.randrange(1000):03d}")

    def new_slug(self, when: datetime) -> str:
        """`YYYY.MM.DD.HH.MM.SS.mmm`."""
        return self._unique(lambda: when.strftime("%Y.%m.%d.%H.%M.%S.") + f"{self.random.randrange(1000):03d}")

    def tid(self, when: datetime) -> str:
        """A record key an earlier writer could have made then; unique."""
        micros = itertools.count(int(when.timestamp() * 1000) * 1000 + self.random.randrange(1000))
        numbers = (micro << 10 | self.random.randrange(1024) for micro in micros)
        tids = ("".join(_TID[number >> 5 * place & 31] for place in reversed(range(13))) for number in numbers)
        return self._unique(lambda: next(tids))

    def words(self, count: int) -> str:
        return "-".join(self.random.choices(_WORDS, k=count))

    def mood(self) -> str:
        return f"{self.random.choice(_FEELINGS)} {self.random.choice(_PLACES)}{self.random.choice(_ENDINGS)}"

    def kidlisp(self) -> str:
        """A short program; unique, as the platform keeps one document for each source."""

        def line() -> str:
            shape = self.random.choice(_SHAPES)
            numbers = [str(self.random.randrange(256)) for _ in range(self.random.randint(2, 4))]
            return f"({shape} {' '.join(numbers)})"

        def program() -> str:
            # Mostly a few lines, now and then many.
            lines = [line() for _ in range(min(60, int(self.random.paretovariate(1.1)) + 1))]
            wipe, ink = self.random.choice(_COLOURS), self.random.choice(_COLOURS)
            return "\n".join([f"(wipe {wipe})", f"(ink {ink})", *lines])

        return self._unique(program)

    def _unique(self, make: Callable[[], str]) -> str:
        while (made := make()) in self._taken:
            pass
        self._taken.add(made)
        return made


def naive(when: datetime) -> datetime:
    """As pymongo wants it: UTC without saying so."""
    return when.astimezone(UTC).replace(tzinfo=None)


def iso(when: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, the platform's own form."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
