"""Receipts: every user verified against the repository itself, in four aspects, for one read of each repository.

Nothing is repaired. Content is judged by `sync/verify.py`, links and shapes by `links.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

from ac_pipeline.accounts import Account
from ac_pipeline.errors import PipelineError
from ac_pipeline.items import Finding
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger.receipts import Aspect, Found, MongoReceipts, Part, Receipt, Total
from ac_pipeline.operations.inspection.links import Judge, LinkFinding, LinkState, Repair
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.sync.planning.ahead import Ahead, Seen
from ac_pipeline.sync.planning.plan import existing_records
from ac_pipeline.sync.ports import Ledger
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import compare

LISTED = 20
"""Items a receipt lists for each type and aspect; it counts all. `ac-pipeline verify` and `links` list every one."""

_BROKEN_LINKS = frozenset({LinkState.UNLINKED, LinkState.DANGLING, LinkState.CROSSED})


@dataclass(frozen=True, slots=True)
class Findings:
    """What the receipts of all users say together."""

    totals: Mapping[tuple[str, Aspect], Total]  # By type name and aspect
    unsound: tuple[Found, ...] = ()  # What is wrong, by user, without what a sync has put right since


def findings(receipts: MongoReceipts, marks: Ledger, types: Sequence[MediaType]) -> Findings:
    """Add up the receipts of all users.

    A repository that a later sync has left settled holds exactly what is wanted, with every link in place: what was
    wrong before is put right. Of blobs a settled repository says nothing, so that those findings stay until the next
    verification.
    """
    names, checkpoint = [media.name for media in types], cache(marks.checkpoint)

    def settled_since(found: Found) -> bool:
        if found.aspect is Aspect.BLOBS or found.did is None:
            return False
        mark = checkpoint(found.did)
        return mark is not None and mark.at > found.at and found.type in mark.settled

    wrong = tuple(found for found in receipts.unsound(names) if not settled_since(found))
    return Findings(receipts.totals(names), wrong)


def take_receipt(
    engine: Engine, account: Account, types: Sequence[MediaType], *, blobs: bool, run_id: str, now: datetime
) -> Receipt:
    """Verify one account; of its blobs nothing is said unless every one is asked for. What was read of it ahead may say
    that all is right, as in `sync/verify.py`. Raises Transient or RepositoryUnreadable where something could not be
    read: nothing can be said."""
    seen = engine.ahead.take(account) if engine.ahead is not None else None
    receipt = _receipt(engine, account, types, seen, blobs=blobs, run_id=run_id, now=now)
    if seen is None or not any(part.unsound for part in receipt.parts.values()):
        return receipt
    return _receipt(engine, account, types, None, blobs=blobs, run_id=run_id, now=now)


def _receipt(
    engine: Engine,
    account: Account,
    types: Sequence[MediaType],
    seen: Seen | None,
    *,
    blobs: bool,
    run_id: str,
    now: datetime,
) -> Receipt:
    plan, report = engine.survey(account, Selection(types=tuple(types), full=True), seen=seen)
    if plan.repository is None:
        blocked = report.blocked.message if report.blocked is not None else "nothing of it is mirrored"
        return Receipt(account.id, account.key, account.did, now, run_id, blocked=blocked)
    parts: dict[tuple[str, Aspect], Part] = {}
    compared = compare(engine, plan, report, blobs=blobs)
    for planned in plan.plans:
        media = planned.media
        found = compared[media.name]
        if report.blocked is None:  # what is missing waits for the account; what was found before still holds
            counts = {name: getattr(found, name) for name in ("missing", "different", "extra", "duplicates")}
            states = {name: count for name, count in counts.items() if count}
            wrong = [item for item in found.items if item.state in {"missing", "different", "extra", "duplicate"}]
            sound = found.expected - found.missing - found.different
            parts[media.name, Aspect.RECORDS] = Part(found.expected, sound, states, 0, _listed(wrong))
        if blobs and media.blobs:
            missing = found.blobs_expected - found.blobs_verified
            wrong = [item for item in found.items if item.state == "blob-missing"]
            states = {"missing": missing} if missing else {}
            part = Part(found.blobs_expected, found.blobs_verified, states, 0, _listed(wrong))
            parts[media.name, Aspect.BLOBS] = part
        existing = existing_records(plan.repository, media)
        judge = Judge(engine.lexicons, account.key, plan.repository.did, planned, existing)
        findings = list(judge.findings(plan.wanted[media.name]))
        parts[media.name, Aspect.LINKS] = _links(findings)
        parts[media.name, Aspect.LEXICON] = _lexicon(findings, len(existing))
    return Receipt(account.id, account.key, account.did, now, run_id, parts)


def take_receipts(
    engine: Engine,
    receipts: MongoReceipts,
    accounts: Sequence[Account],
    types: Sequence[MediaType],
    *,
    blobs: bool,
    run_id: str,
    workers: int,
    now: Callable[[], datetime],
) -> Iterator[tuple[Account, Receipt | PipelineError]]:
    """Verify many accounts, some at once, and keep each receipt as soon as it is made; yields each account as it ends,
    with its receipt or the error that kept it from being made.

    No more accounts are under way than there are workers, and what was read of one is dropped after it: memory does not
    grow with their number (OPS-6). One that cannot be read costs nobody else's receipt. Raises Misconfigured: no
    account can be verified."""

    ahead = Ahead(engine.documents, engine.ledger, engine.server, accounts, Selection(types=tuple(types)))
    engine = replace(engine, ahead=ahead)

    def take(account: Account) -> Receipt | PipelineError:
        receipt = take_receipt(engine, account, types, blobs=blobs, run_id=run_id, now=now())
        receipts.save(receipt)
        return receipt

    return for_accounts(accounts, take, workers, lambda _, error: error)


def _links(findings: Sequence[LinkFinding]) -> Part:
    """Links that are not as they should be. A document never published has none, and is missing, not unlinked. What is
    held back is quarantined, and listed as that; here it only counts as odd (DEL-10)."""
    documents = [finding for finding in findings if finding.state is not LinkState.ORPHAN]
    broken = [each for each in documents if each.state in _BROKEN_LINKS and each.repair is not Repair.PUBLISH]
    wrong = [each for each in broken if each.held is None]
    states, odd = Counter(each.state.value for each in wrong), len(broken) - len(wrong)
    return Part(len(documents), len(documents) - len(wrong), states, odd, _listed(wrong))


def _lexicon(findings: Sequence[LinkFinding], records: int) -> Part:
    """Records that break their lexicon or have a form that older writers left (VERIFY-3), and mere oddities (REC-5)."""
    wrong = [each for each in findings if each.problems or each.state is LinkState.WRONG_SHAPE]
    states = Counter("breaks-lexicon" if each.problems else "old-form" for each in wrong)
    odd = sum(bool(each.warnings) for each in findings) - sum(bool(each.warnings) for each in wrong)
    said = [replace(each, reason="; ".join(each.problems) or each.reason) for each in wrong[:LISTED]]
    return Part(records, max(0, records - len(wrong)), states, odd, _listed(said))


def _listed(wrong: Sequence[Finding]) -> tuple[Finding, ...]:
    """The first ones, as plain findings."""
    listed = []
    for each in wrong[:LISTED]:
        held = each.held if isinstance(each, LinkFinding) else None
        repair = f"none: {held}" if held else str(each.repair)
        listed.append(Finding(each.item, each.user, str(each.state), each.reason, repair, each.uris[:1]))
    return tuple(listed)
