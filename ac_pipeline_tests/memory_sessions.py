"""Where sessions are kept in tests without a database."""

from __future__ import annotations

from collections.abc import Sequence

from ac_pipeline.atproto.sessions import Tokens


class MemorySessionStore:
    """Tokens for the life of the process."""

    def __init__(self) -> None:
        self._tokens: dict[str, Tokens] = {}
        self._sign_ins: dict[str, tuple[float, ...]] = {}

    def load(self, did: str) -> Tokens | None:
        return self._tokens.get(did)

    def save(self, did: str, tokens: Tokens) -> None:
        self._tokens[did] = tokens

    def drop(self, did: str) -> None:
        self._tokens.pop(did, None)

    def sign_ins(self, did: str) -> Sequence[float]:
        return self._sign_ins.get(did, ())

    def count_sign_in(self, did: str, at: float, keep: int) -> None:
        self._sign_ins[did] = (*self._sign_ins.get(did, ()), at)[-keep:]
