"""A relay, asked how far it passes the accounts of a PDS on to the network. Reading only, without login.

What its answers mean beside the PDS's own is `operations/accounts/listing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from ac_pipeline.atproto.rate_limits import Budget
from ac_pipeline.atproto.syntax import is_did
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.atproto.xrpc_errors import Call, need
from ac_pipeline.bounds import Limits
from ac_pipeline.errors import AccountInactive, AccountUnknown, Misconfigured, Transient

UNKNOWN: Final = "unknown"  # State of an account the relay has never heard of

_A_PAGE: Final = 1_000


class Relay:
    """One relay (`AC_RELAY_URL`); safe to share between threads. All raise Transient where it did not answer."""

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # Whatever lifts the limits of our PDS is nobody else's business: no bypass key.
        budget = Budget(clock=clock, sleep=sleep, max_wait=310.0)
        with self._named():
            self._transport = Transport(url, http=http, budget=budget, limits=limits, clock=clock, sleep=sleep)

    @property
    def place(self) -> str:
        return self._transport.place

    def state(self, did: str) -> str:
        """`active`, else the status the relay gives: `throttled`, `takendown` ...; `unknown` when it has none."""

        def question(com: Any) -> str:
            found = com.sync.get_repo_status({"did": did})
            need(found.did == did, "it is about another one")
            return _state(found)

        with self._named():
            try:
                return self._transport.ask(Request(Call.READ, "", did), question)
            except AccountUnknown:
                return UNKNOWN
            except AccountInactive as error:
                named = (error.answer or "inactive").partition(":")[0]
                return named.removeprefix("Repo").removeprefix("Account").lower()

    def states(self) -> Iterator[tuple[str, str]]:
        """DID and state of every account it lists: on a public relay that is the whole network. Where a page cannot be
        read, what came before it is not the whole list."""
        cursor: str | None = None
        before = set[str | None]()
        while True:
            before.add(cursor)

            def question(com: Any, cursor: str | None = cursor) -> Any:
                page = com.sync.list_repos({"limit": _A_PAGE, "cursor": cursor})
                need(all(is_did(repo.did) for repo in page.repos), "it lists no DIDs")
                need(not page.cursor or page.cursor not in before, f"it leads back to {page.cursor!r}")
                return page

            with self._named():
                page = self._transport.ask(Request(Call.READ, "", "all"), question)
            yield from ((repo.did, _state(repo)) for repo in page.repos)
            cursor = page.cursor or None
            if cursor is None:
                return

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the transport name the setting of the PDS; here it is the relay's."""
        try:
            yield
        except (Transient, Misconfigured) as error:
            words = error.message.replace("PDS_URL is a PDS", "AC_RELAY_URL is a relay")
            error.message = words.replace("PDS_URL", "AC_RELAY_URL")
            error.args = (error.message,)
            raise


def _state(found: Any) -> str:
    if found.active is not False:
        return "active"
    return found.status or "inactive"
