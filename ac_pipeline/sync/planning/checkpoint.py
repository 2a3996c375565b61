"""Checkpoints: when a repository holds exactly what is wanted, and how a later run knows that it does (VERIFY-11).

Pure. All that is wanted of a type is condensed into one hash, which the repository's checkpoint keeps only where the
repository and every link are exactly as they have to be. A run that wants the same of the same revision has nothing to
do there and need not read the repository. The hash is of the state itself, not of what was done to reach it: whatever
changes a record, a link or the rules by which records are built changes the hash or the revision. What the ledger
remembers is compared item by item instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.items import RepositoryCheckpoint
from ac_pipeline.media.base import Link, MediaType, Verdict
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.planning.plan import AccountPlan, Wanted
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.erased import unwanted
from ac_pipeline.sync.writing.recorder import Entries

_FORM = {True: b"2", False: b"2 with copies of erased work"}
"""By whether those go. Raised when the content of the hash changes its meaning: then every repository is read once
more."""


def asks_for_changes(selection: Selection) -> bool:
    """True if it is about all that has changed, and no more: whoever asks for more (`full`, `blobs`, `renditions`,
    `retry`, `sweep`), or for a part, gets the whole way."""
    more = selection.full or selection.blobs or selection.renditions or selection.retry or selection.sweep is not None
    return not more and not selection.partial


def may_be_up_to_date(checkpoint: RepositoryCheckpoint, selection: Selection) -> bool:
    """True if the repository may still be at its checkpoint, with all selected types up to date there."""
    known = checkpoint.settled.keys() & checkpoint.counts.keys()
    return asks_for_changes(selection) and known >= {media.name for media in selection.types}


def is_up_to_date(plan: AccountPlan, checkpoint: RepositoryCheckpoint, now: Callable[[], datetime]) -> bool:
    """True if what is wanted now is what the repository holds at its checkpoint, and the ledger has nothing to learn;
    `plan` is the account as it was read, without its repository.
    """
    ledger = Entries(plan.account, "", now)
    for media in plan.selection.types:
        ledger.know(plan.entries[media.name].values())
        hash_ = _wanted_hash(plan, media, {})
        if hash_ is None or hash_ != checkpoint.settled.get(media.name):
            return False
        # A store that did not answer is asked again.
        if unwanted(plan, media) or not all(_is_known(ledger, wanted) for wanted in plan.wanted[media.name]):
            return False
    return True


def up_to_date_types(plan: AccountPlan, links: Mapping[str, Link | None]) -> dict[str, str]:
    """The types of which the repository is known to hold exactly what is wanted, with the hash of that, once everything
    was done that could be; `links` are what this run has stored, by item: the documents were read before.

    What an earlier one says of a type stays true as long as the repository was only changed by us, in other types.
    """
    known = plan.checkpoint.settled if plan.checkpoint is not None and plan.checkpoint.rev == plan.base else {}
    found = {name: hash_ for name, hash_ in known.items() if name not in plan.changed}
    if plan.selection.partial:
        return found
    for media in plan.selection.types:
        found.pop(media.name, None)
        hash_ = _wanted_hash(plan, media, links)
        if hash_ is not None and _holds_exactly(plan, media, links):
            found[media.name] = hash_
    return found


def counts(plan: AccountPlan) -> dict[str, int]:
    if plan.repository is None:
        return {}
    return {media.name: plan.repository.count(media.nsid) for media in MEDIA_TYPES}


def _wanted_hash(plan: AccountPlan, media: MediaType, links: Mapping[str, Link | None]) -> str | None:
    """sha-256 of what is wanted of each document, with its link; None where something is open, amiss or in doubt."""
    did = str(plan.account.did)
    digest = sha256(_FORM[plan.erase_copies])
    for wanted in sorted(plan.wanted[media.name], key=lambda each: each.document.id):
        link = _link(wanted, links)
        line: list[str | None] = [wanted.document.id]
        if wanted.document.verdict is Verdict.WITHDRAWN:
            if link is not None:
                return None
            line.append("withdrawn")
        else:
            if wanted.cid is None or wanted.failure is not None or link is None or link.rkey is None:
                return None
            if (link.uri, link.did) != (at_uri(did, media.nsid, link.rkey), did):
                return None
            line += [wanted.cid, link.rkey, link.cid]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _holds_exactly(plan: AccountPlan, media: MediaType, links: Mapping[str, Link | None]) -> bool:
    """True if the repository holds one record of each eligible document, where its link says, and none besides; and
    nothing was refused that would have made it so, or given back a lost blob."""
    if plan.repository is None or any(path.startswith(f"{media.nsid}/") for path in plan.refused):
        return False
    copies = [each.path for each in plan.operations() if each.copy and each.media == media]
    if not plan.repository.records.keys().isdisjoint(copies):
        return False
    held = dict(plan.repository.collection(media.nsid))
    # A record may differ from the wanted one by milliseconds, and is then as it should be (REC-7).
    kept = {(each.wanted.document.id, each.cid) for made in plan.plans if made.media == media for each in made.kept}
    found: set[str] = set()
    for wanted in plan.wanted[media.name]:
        link = _link(wanted, links)
        if wanted.document.verdict is Verdict.WITHDRAWN:
            continue
        if link is None or link.rkey is None or link.rkey in found or held.get(link.rkey) != link.cid:
            return False
        if link.cid != wanted.cid and (wanted.document.id, link.cid) not in kept:
            return False
        found.add(link.rkey)
    return found == held.keys()


def _is_known(ledger: Entries, wanted: Wanted) -> bool:
    """True if a run that finds this item unchanged would leave its entry as it is."""
    link = wanted.document.link
    if wanted.document.verdict is Verdict.WITHDRAWN:
        entry = ledger.of(wanted.item)
        return entry is None or entry.withdrawn_at is None
    if link is None or link.rkey is None:
        return False
    return ledger.unchanged(replace(wanted, cid=link.cid), link.rkey) is None


def _link(wanted: Wanted, links: Mapping[str, Link | None]) -> Link | None:
    return links.get(wanted.item, wanted.document.link)
