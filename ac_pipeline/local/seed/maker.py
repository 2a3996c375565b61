"""The small change of the demo data: times, ids, codes, slugs, texts, all from one random generator and a fixed clock.

What documents are made of it is in `kinds.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bson import ObjectId

NOW = datetime(2026, 9, 15, 12, 0, 0, tzinfo=UTC)
"""The demo's present. Fixed, so that the same seed makes the same documents on any day."""

_FIRST = datetime(2023, 3, 1, tzinfo=UTC)
_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_VOWELS = "aeiou"
_NANOID = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TID = "234567abcdefghijklmnopqrstuvwxyz"

# fmt: off
_FEELINGS = (
    "calm", "sleepy", "electric", "a bit lost", "grateful", "so-so", "wide awake", "pixelated", "hungry", "new",
)
_PLACES = (
    "on the train", "at my desk", "under the sink", "in the rain", "by the sea", "after lunch", "at 3am", "again",
)
# fmt: on
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
        self._tids: set[str] = set()

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
        """32 characters, as the platform makes them."""
        return "".join(self.random.choices(_NANOID, k=32))

    def did(self) -> str:
        """The DID of nobody."""
        return "did:plc:" + "".join(self.random.choices(_TID, k=24))

    def code(self, collection: str) -> str:
        """A short code, unique in its collection only; case counts (aesthetic-computer facts, section 5)."""
        taken = self._codes.setdefault(collection, set())
        for attempt in range(10_000):
            letters = [self.random.choice(_CONSONANTS), self.random.choice(_VOWELS + "23456789")]
            letters.append(self.random.choice(_CONSONANTS))
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
        for known in sorted(self._codes.get(other, set())):
            code = known.swapcase() if swap_case else known
            if code not in taken:
                taken.add(code)
                return code
        return self.code(collection)

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
        micros = int(when.timestamp() * 1000) * 1000 + self.random.randrange(1000)
        while True:
            number = (micros << 10) | self.random.randrange(1024)
            tid = "".join(_TID[(number >> (5 * place)) & 31] for place in reversed(range(13)))
            if tid not in self._tids:
                self._tids.add(tid)
                return tid
            micros += 1

    def words(self, count: int) -> str:
        return "-".join(self.random.choices(_WORDS, k=count))

    def mood(self) -> str:
        return f"{self.random.choice(_FEELINGS)} {self.random.choice(_PLACES)}{self.random.choice(_ENDINGS)}"

    def kidlisp(self) -> str:
        """A short program; unique, as the platform keeps one document for each source."""

        def program() -> str:
            lines = []
            for _ in range(min(60, int(self.random.paretovariate(1.1)) + 1)):  # mostly a few, now and then many
                shape = self.random.choice(_SHAPES)
                numbers = [str(self.random.randrange(256)) for _ in range(self.random.randint(2, 4))]
                lines.append(f"({shape} {' '.join(numbers)})")
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
