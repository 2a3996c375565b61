"""A value of each BSON type, as the driver hands them out, and nested and damaged ones: what any field may hold."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from bson import SON, Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import strategies as st

_ID = ObjectId("65f0c0ff0123456789abcdef")


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(depth):
        made = {"a": [made]}
    return made


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "int": 7,
    "int64": Int64(2**40),
    "negative": Int64(-(2**63)),
    "float": 1.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "text": "text",
    "empty": "",
    "nul": "a\0b",
    "surrogate": b"caf\xe9".decode(errors="surrogateescape"),
    "code": Code("jsz"),
    "code-with-scope": Code("jsz", {"x": 1}),
    "regex": Regex("a.c", "i"),
    "pattern": re.compile("a.c"),
    "object-id": _ID,
    "binary": Binary(b"\x00\xff", 128),
    "bytes": b"\xff",
    "uuid": UUID(int=1),
    "date": datetime(2025, 10, 15, 12, 30),  # noqa: DTZ001  (naive, as pymongo hands it out)
    "date-with-zone": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    "date-utc": datetime(2025, 10, 15, tzinfo=UTC),
    "date-out-of-range": DatetimeMS(2**60),
    "decimal": Decimal128("1.50"),
    "decimal-nan": Decimal128("NaN"),
    "timestamp": Timestamp(1_760_000_000, 1),
    "dbref": DBRef("users", _ID),
    "min-key": MinKey(),
    "max-key": MaxKey(),
    "array": [1, "a", Code("b"), None],
    "document": {"a": {"b": Regex("c")}},
    "son": SON([("rkey", "3k"), ("uri", Code("x"))]),
    "nested": nested(40),
}
"""By name. All but `pattern`, `uuid`, `date-with-zone` and `surrogate` come back from a server as they are."""

any_value = st.one_of(
    st.sampled_from(list(VALUES.values())),
    st.text(st.characters(), max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    st.builds(Int64, st.integers(-(2**63), 2**63 - 1)),
    st.floats(),
    st.binary(max_size=4),
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-14)))),
    st.builds(DatetimeMS, st.integers(-(2**62), 2**62)),
    st.builds(Code, st.text(max_size=6)),
)
"""Any value a field may hold."""
