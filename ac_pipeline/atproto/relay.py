"""A relay, asked how far it passes the accounts of a PDS on to the network. Reading only, without login.

What its answers mean beside the PDS's own is `operations/accounts/listing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import httpx

from ac_pipeline.atproto.rate_limits import Budget, Charge
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.atproto.xrpc_errors import Call, content_of, did_of, need, page_of
from ac_pipeline.bounds import Limits
from ac_pipeline.errors import AccountInactive, AccountUnknown, Misconfigured, Transient

UNKNOWN: Final = "unknown"
"""State of an account the relay has never heard of."""

_STATUS: Final = "com.atproto.sync.getRepoStatus"
_LIST: Final = "com.atproto.sync.listRepos"
_A_PAGE: Final = 1_000


class Relay:
    """One relay; safe to share between threads.

    Args:
        url: Its address (`AC_RELAY_URL`).
        http: As `transport.open_http` makes it.
        clock: Epoch seconds.
        sleep: Waits that many seconds.
        limits: How long, slow and large answers may be.
    """

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        limits: Limits | None = None,
    ) -> None:
        # Whatever lifts the limits of our PDS is nobody else's business: no bypass key.
        budget = Budget(clock=clock, sleep=sleep, max_wait=310.0)
        with self._named():
            self._transport = Transport(
                url, http=http, bypass_key=None, clock=clock, sleep=sleep, budget=budget, limits=limits
            )
        self._charges = (Charge(self._transport.host, 1),)

    @property
    def place(self) -> str:
        return self._transport.place

    def state(self, did: str) -> str:
        """`active`, else the status the relay gives: `throttled`, `takendown` ...; `unknown` when it has none.

        Raises:
            Transient: It did not answer.
        """
        request = Request(Call.READ, "other", "GET", _STATUS, did, self._charges, params={"did": did})
        with self._named():
            try:
                return self._transport.send(request, lambda body: _state_of(did, body))
            except AccountUnknown:
                return UNKNOWN
            except AccountInactive as error:
                named = (error.answer or "inactive").partition(":")[0]
                return named.removeprefix("Repo").removeprefix("Account").lower()

    def states(self) -> Iterator[tuple[str, str]]:
        """DID and state of every account it lists: on a public relay that is the whole network.

        Raises:
            Transient: A page could not be read; what came before it is not the whole list.
        """
        cursor: str | None = None
        while True:
            params: dict[str, str | int] = {"limit": _A_PAGE} | ({"cursor": cursor} if cursor else {})
            request = Request(Call.READ, "list_repos", "GET", _LIST, "all", self._charges, params=params)
            with self._named():
                repos, cursor = self._transport.send(request, partial(page_of, cursor=cursor))
            yield from ((repo["did"], _state(repo)) for repo in repos)
            if cursor is None:
                return

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the transport name the setting of the PDS; here it is the relay's."""
        try:
            yield
        except Transient as error:
            words = error.message.replace("PDS_URL is a PDS", "AC_RELAY_URL is a relay")
            raise type(error)(
                words.replace("PDS_URL", "AC_RELAY_URL"),
                status=error.status,
                answer=error.answer,
                retry_after=error.retry_after,
            ) from None
        except Misconfigured as error:
            raise Misconfigured(error.message.replace("PDS_URL", "AC_RELAY_URL")) from None


def _state_of(did: str, body: bytes) -> str:
    """The state that an answer to `getRepoStatus` names."""
    content = content_of(body)
    need(did_of(body) == did and isinstance(content.get("active"), bool), "it is about no account, or another one")
    return _state(content)


def _state(content: dict[str, object]) -> str:
    if content.get("active", True) is True:
        return "active"
    status = content.get("status")
    return status if isinstance(status, str) and status else "inactive"
