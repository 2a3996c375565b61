"""Which accounts the network sees: what the PDS says of each, beside what a relay says of it.

A relay takes a limited number of accounts from one PDS, 100 by default; those beyond are throttled there while every
write to the PDS succeeds (atproto facts, Limits). Reading only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Final, Protocol

from ac_pipeline.atproto.messages import RepositoryStatus
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.declare import Declaration, Parameters, Report, Table, Work, option
from ac_pipeline.wiring import Pipeline, open_relay

ACTIVE: Final = "active"
THROTTLED: Final = "throttled"
UNKNOWN: Final = "unknown"
ACCOUNTS_OF_A_HOST: Final = 100
"""Accounts of one PDS that a relay passes on by default (atproto facts, Limits)."""

ADVICE: Final = (
    f"A relay passes on {ACCOUNTS_OF_A_HOST} accounts of one PDS by default and throttles the others, although the PDS "
    "accepts all they write. The limit is lifted at the relay, by its operator: ask them to raise the account limit of "
    "this host (for Bluesky's relays in the issues of github.com/bluesky-social/pds), and to count its accounts anew."
)

_QUESTIONS_AT_ONCE: Final = 8


class Relay(Protocol):
    """What is asked of the relay; see `atproto/relay.py`."""

    def state(self, did: str) -> str: ...
    def states(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """An account of which PDS and relay do not say the same; `user` is empty when Mongo does not know it."""

    user: str
    did: str
    pds: str
    relay: str


@dataclass(frozen=True, slots=True)
class Visibility:
    """What both sides say.

    Args:
        pds: State -> accounts, as the PDS has it.
        relay: State -> the same accounts, as the relay has it.
        differences: Accounts that differ, by key and DID.
        place: Address of the relay, without secrets.
    """

    pds: Mapping[str, int]
    relay: Mapping[str, int]
    differences: tuple[Difference, ...]
    place: str = ""

    @property
    def hidden(self) -> int:
        """Accounts that are active on the PDS and do not reach the network."""
        return sum(each.pds == ACTIVE for each in self.differences)

    def to_json(self) -> dict[str, object]:
        return {
            "pds": dict(self.pds),
            "relay": dict(self.relay),
            "hidden": self.hidden,
            "differences": [asdict(each) for each in self.differences],
            "advice": ADVICE if self.relay.get(THROTTLED) else None,
        }


def look_from_relay(pipeline: Pipeline, url: str | None = None, *, by_list: bool = False) -> Visibility:
    """Ask a relay for every account of our PDS.

    Args:
        url: Address of the relay; None for AC_RELAY_URL.
        by_list: See `compare_visibility`.

    Raises:
        Misconfigured: No relay is named, or its address cannot be used.
        Transient: Mongo, PDS or relay did not answer: nothing can be said.
    """
    url = url or pipeline.settings.ac_relay_url
    if url is None:
        raise Misconfigured(
            "AC_RELAY_URL is not set: set it, or the command's `--relay`, to a relay such as https://relay1.us-east.bsky.network."
        )
    with open_relay(pipeline.settings, url) as relay:
        keys = {account.did: account.key for account in pipeline.accounts.all() if account.did is not None}
        hosted = pipeline.server.list_repositories()
        found = compare_visibility(hosted, keys, relay, workers=_QUESTIONS_AT_ONCE, by_list=by_list)
        return replace(found, place=relay.place)


def compare_visibility(
    hosted: Iterable[RepositoryStatus], keys: Mapping[str, str], relay: Relay, *, workers: int, by_list: bool = False
) -> Visibility:
    """Ask the relay for every account of the PDS.

    Args:
        hosted: Every repository of the PDS.
        keys: DID -> partition key.
        relay: Whom to ask.
        workers: Questions at once.
        by_list: Read the relay's own list instead of asking for each account; for a relay of few hosts.

    Raises:
        Transient: PDS or relay did not answer: nothing can be said.
    """
    there = {each.did: ACTIVE if each.active else each.status or "inactive" for each in hosted}
    if by_list:
        listed = {did: state for did, state in relay.states() if did in there}
        seen = [listed.get(did, UNKNOWN) for did in there]
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="relay") as pool:
            seen = list(pool.map(relay.state, there))
    differences = [
        Difference(keys.get(did, ""), did, state, at_relay)
        for (did, state), at_relay in zip(there.items(), seen, strict=True)
        if state != at_relay
    ]
    return Visibility(
        _counted(there.values()), _counted(seen), tuple(sorted(differences, key=lambda each: (each.user, each.did)))
    )


def _counted(states: Iterable[str]) -> dict[str, int]:
    """Counts, with the three that people look for always there."""
    return {ACTIVE: 0, THROTTLED: 0, UNKNOWN: 0} | dict(sorted(Counter(states).items()))


class VisibilityParameters(Parameters):
    """How to ask which relay."""

    relay: str = option("", "Address of the relay. Left out: AC_RELAY_URL.", metavar="URL")
    by_list: bool = option(
        False, "Read the relay's own list instead of asking for each account: for a relay of few hosts."
    )


def run_visibility(work: Work, parameters: VisibilityParameters) -> Report:
    """Compare what the PDS and a relay say of every account: who is throttled there and does not reach the network,
    while every write succeeds. Changes nothing.
    """
    found = look_from_relay(work.pipeline, parameters.relay or None, by_list=parameters.by_list)
    states, differing = (
        Table("states", ("state", "pds", "relay")),
        Table("accounts_that_differ", ("user", "did", "pds", "relay")),
    )
    for state in dict.fromkeys([*found.pds, *found.relay]):
        states.add({"state": state, "pds": found.pds.get(state, 0), "relay": found.relay.get(state, 0)})
    return Report(
        f"{found.hidden} accounts are active on the PDS and do not reach the network by {found.place}.",
        {"relay_url": found.place, **found.to_json()},
        [states, differing.extend(asdict(each) for each in found.differences)],
        {"relay": found.place, "hidden": found.hidden},
        [ADVICE] if found.relay.get(THROTTLED) else [],
        exit_code=1 if found.hidden else 0,
    )


VISIBILITY: Final = Declaration(
    "accounts visibility",
    "account_visibility",
    "ask_the_relay",
    VisibilityParameters,
    run_visibility,
)
