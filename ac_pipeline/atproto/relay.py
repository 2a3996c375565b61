"""A relay, asked how far it passes the accounts of a PDS on to the network. Reading only, without login.

What its answers mean beside the PDS's own is `operations/visibility.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from ac_pipeline.atproto.answers import Call
from ac_pipeline.atproto.budget import Budget, Charge
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.errors import AccountInactive, AccountUnknown, Misconfigured, ServerFailed, Transient

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
    """

    def __init__(
        self, url: str, *, http: httpx.Client, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        # Whatever lifts the limits of our PDS is nobody else's business: no bypass key.
        budget = Budget(clock=clock, sleep=sleep, max_wait=310.0)
        with self._named():
            self._transport = Transport(url, http=http, bypass_key=None, clock=clock, sleep=sleep, budget=budget)
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
                content = self._transport.json(self._transport.send(request))
            except AccountUnknown:
                return UNKNOWN
            except AccountInactive as error:
                named = (error.answer or "inactive").partition(":")[0]
                return named.removeprefix("Repo").removeprefix("Account").lower()
        return _state(content)

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
                content = self._transport.json(self._transport.send(request))
                repos = content.get("repos")
                if not isinstance(repos, list) or not all(
                    isinstance(repo, dict) and isinstance(repo.get("did"), str) for repo in repos
                ):
                    raise ServerFailed(f"listRepos at {self.place} answers in an unknown shape.")
            yield from ((repo["did"], _state(repo)) for repo in repos)
            following = content.get("cursor")
            if not following:
                return
            if not isinstance(following, str) or following == cursor:
                raise ServerFailed(f"listRepos at {self.place} does not get beyond {cursor!r}.")
            cursor = following

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


def _state(content: dict[str, object]) -> str:
    if content.get("active", True) is True:
        return "active"
    status = content.get("status")
    return status if isinstance(status, str) and status else "inactive"
