"""The sync: of what is selected, of a saved plan, or of a few users first. The job `sync_users` is the assets'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import Any, Final

from pydantic import model_validator

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.items import item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import media_type, page_of
from ac_pipeline.mongo.ledger.plans import SHORTEST, Line, SavedPlan
from ac_pipeline.operations.declare import (
    Declaration,
    Report,
    Selected,
    Table,
    Work,
    command_line,
    option,
    sweep_option,
)
from ac_pipeline.operations.findings import confirm_sweep
from ac_pipeline.operations.plan import kept_lines, make_plan, operation_of, selection_of
from ac_pipeline.operations.sync_report import counted, sync_answer
from ac_pipeline.sync.engine import Engine, sync_accounts
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.planning.diff import AccountPlan
from ac_pipeline.sync.planning.plan import COPIES, Kind
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Agreement, PlannedOperation, Selection, line
from ac_pipeline.sync.verify import Verification, verify

SHOWN = 3
"""Records of a user whose addresses are shown."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a record can be looked at: its `at://` URI, and its page where it has one."""

    uri: str
    page: str | None

    def to_json(self) -> dict[str, object]:
        return {"uri": self.uri, "page": self.page}


@dataclass(frozen=True, slots=True)
class Look:
    """What a user's repository holds after a turn."""

    verification: Verification
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One user's turn, and the look afterwards; none where the account could not be read.

    Args:
        planned: Kind of operation -> how many there were.
    """

    account: Account
    planned: Counter[str]
    report: AccountReport
    look: Look | None


def canary(
    engine: Engine, accounts: Sequence[Account], selection: Selection, number: int, *, run_id: str, workers: int
) -> Iterator[Trial]:
    """Mirror the first so many accounts that have something to do, one after another; only looks run ahead.

    Raises:
        Transient: An account could not be read.
    """
    done = 0
    looks: Iterator[tuple[Account, Counter[str] | PipelineError]] = for_accounts(
        accounts, lambda each: _operations(engine, each, selection), workers, unread, ordered=True
    )
    for account, planned in looks:
        if isinstance(planned, PipelineError):
            yield Trial(account, Counter(), AccountReport(account.key, error=planned), None)
            continue
        if not planned:
            continue
        report = engine.sync(account, selection, run_id)
        yield Trial(account, planned, report, look(engine, account, selection, run_id))
        done += 1
        if done == number:
            return


def look(engine: Engine, account: Account, selection: Selection, run_id: str) -> Look:
    """Verify a user, and find a few records that this run has written.

    Raises:
        Transient: It could not be read.
    """
    verification = verify(engine, account, selection)
    plan, _ = engine.survey(account, selection)
    addresses: list[Address] = []
    for made in plan.plans:
        entries = plan.entries[made.media.name]
        for kept in made.kept:
            document = kept.wanted.document
            entry = entries.get(document.id)
            if entry is not None and entry.run_id == run_id and len(addresses) < SHOWN:
                uri = at_uri(str(account.did), made.media.nsid, kept.rkey)
                addresses.append(Address(uri, page_of(made.media, document.code)))
    return Look(verification, tuple(addresses))


def _operations(engine: Engine, account: Account, selection: Selection) -> Counter[str]:
    plan, report = engine.survey(account, selection)
    return Counter(operation.kind.value for operation in plan.operations() if report.blocked is None)


Looks = list[tuple[Account, Look]]


class SyncParameters(Selected):
    """What to sync, and how."""

    plan: str = option("", "Carry out this plan and nothing else.", metavar="HASH")
    canary: int | None = option(None, "The first N users with work, then stop.", metavar="N", ge=1)
    dry_run: bool = option(False, "The same as `plan`; of a plan, what has moved since.")
    sweep: int | None = sweep_option()
    full: bool = option(False, "Read every repository, and look whether media was replaced.")
    blobs: bool = option(False, "Ask for every blob, too, and upload again what the PDS has lost.")
    renditions: bool = option(False, "Make every thumbnail and video again from its source.")

    @model_validator(mode="after")
    def _fitting(self) -> SyncParameters:
        others = self.model_dump(exclude_defaults=True).keys() - {"plan", "canary", "dry_run", "sweep"}
        if self.plan and others:
            raise Misconfigured("--plan has its own selection: leave the other selectors out.")
        if self.canary is not None and self.dry_run:
            raise Misconfigured("--canary writes, --dry-run does not: choose one.")
        if self.canary is not None and self.sweep is not None and not self.plan:
            raise Misconfigured("--sweep is about all chosen users, --canary about the first: choose one.")
        return self

    def swept(self, types: Sequence[str], number: int) -> str:
        """The command that deletes so many records of these types although the database is doubted."""
        return command_line("sync", self, types=types, sweep=number)


def run_sync(work: Work, parameters: SyncParameters) -> Report:
    """Make the PDS hold exactly the eligible items, each once; a second run changes nothing.

    With --plan only what that plan lists is done, and only where it is still the same; what has moved since is listed,
    and the exit code is 1. --canary stops after a few users, verifies them, and says how to go on.
    """
    if parameters.plan:
        return _by_plan(work, parameters)
    pipeline = work.pipeline
    accounts = parameters.accounts(pipeline)
    selection = parameters.selection(
        sweep=parameters.sweep, full=parameters.full, blobs=parameters.blobs, renditions=parameters.renditions
    )
    if parameters.dry_run:
        return make_plan(
            pipeline,
            accounts,
            selection,
            everybody=parameters.everybody,
            swept=parameters.swept,
            watch=work.watch("Planning"),
        )
    if parameters.canary is not None:
        return _canary(work, parameters, accounts, selection, parameters.canary)

    def reports() -> Iterator[AccountReport]:
        for media in selection.types:
            pipeline.safeguard.look(media, within=timedelta(hours=1))  # what a later one compares with
        confirm_sweep(pipeline, accounts, selection, work.run_id)
        yield from sync_accounts(
            pipeline.engine, accounts, selection, work.run_id, pipeline.settings.ac_concurrent_users
        )

    report = counted(work, reports, len(accounts))
    kept = {name: tally.orphans_kept for name, tally in report.totals().items()}
    return sync_answer(report, lines=kept_lines(kept, parameters.swept))


def _by_plan(work: Work, parameters: SyncParameters) -> Report:
    """Carry out a saved plan, in the audit before it starts; what moved goes to a file as it comes (OPS-6)."""
    pipeline, dry = work.pipeline, parameters.dry_run
    plan = pipeline.plans.find(parameters.plan)
    accounts, selection = pipeline.accounts.all(), selection_of(plan.selection)
    moved = Table("moved", ("moved", "user", "item", "operation", "rkey", "reason", "why"), "Moved since, and not done")
    same, before, clean, turned = 0, 0, True, list[Account]()

    def reports() -> Iterator[AccountReport]:
        nonlocal same, before, clean
        for turn in agreed_sync(
            pipeline.engine,
            plan,
            pipeline.plans.lines(plan),
            accounts,
            run_id=work.run_id,
            workers=pipeline.settings.ac_concurrent_users,
            dry=dry,
            canary=parameters.canary,
            sweep=parameters.sweep,
        ):
            same, before, clean = same + turn.same, before + turn.done_before, clean and turn.clean
            moved.extend(each.to_json() for each in turn.moved)
            if turn.account is not None and turn.report is not None:
                turned.append(turn.account)
                yield turn.report
            elif turn.account is not None and turn.error is not None:
                yield AccountReport(turn.account.key, error=turn.error)

    if dry:
        report = counted(work, reports, plan.users)
    else:
        planned = [account for account in accounts if account.id in set(plan.accounts)]
        types = [media.name for media in selection.types]
        with pipeline.audit.during("sync-plan", planned, types, plan_hash=plan.hash, counts=dict(plan.counts)) as entry:
            report = counted(work, reports, plan.users)
            entry.counts.update(done=same, done_before=before, moved=moved.count)
    looks: Looks = []
    if parameters.canary is not None:
        looks = [(each, look(pipeline.engine, each, selection, report.run_id)) for each in turned]
    on = f"ac-pipeline sync --plan {plan.hash[:12]}" if parameters.canary is not None else None
    told = {"plan": plan.hash, "dry_run": dry, "same": same, "before": before}
    return sync_answer(
        report,
        f"Plan {plan.hash[:SHORTEST]} of {plan.when:%Y-%m-%d %H:%M} UTC: {same} of {plan.operations} operations "
        f"{'are' if dry else 'were'} as planned, {before} were in place already, {moved.count} have moved.",
        well=clean and _complete(looks),
        more={**told, **_looks_json(looks, on), "moved": moved},
        tables=[moved, _verified(looks)],
        lines=_look_lines(looks, on),
    )


def _canary(
    work: Work, parameters: SyncParameters, accounts: Sequence[Account], selection: Selection, number: int
) -> Report:
    looks: Looks = []

    def reports() -> Iterator[AccountReport]:
        engine, workers = work.pipeline.engine, work.pipeline.settings.ac_concurrent_users
        for trial in canary(engine, accounts, selection, number, run_id=work.run_id, workers=workers):
            if trial.look is not None:
                looks.append((trial.account, trial.look))
            yield trial.report

    report = counted(work, reports, min(number, len(accounts)))
    on = command_line("sync", parameters, canary=None)
    return sync_answer(
        report,
        well=_complete(looks),
        more=_looks_json(looks, on),
        tables=[_verified(looks)],
        lines=[*([] if looks else ["Nobody has anything to do."]), *_look_lines(looks, on)],
    )


def _complete(looks: Looks) -> bool:
    return all(found.verification.complete for _, found in looks)


def _looks_json(looks: Looks, on: str | None) -> Mapping[str, Any]:
    seen = [
        {
            "user": account.key,
            "verification": found.verification.to_json(),
            "records": [address.to_json() for address in found.addresses],
        }
        for account, found in looks
    ]
    return {"canary": seen, "go_on": on}


def _verified(looks: Looks) -> Table:
    """How the users so far verify."""
    columns = ("user", "expected", "verified", "missing", "extra", "different", "blobs")
    return Table("canary", columns, "Verified").extend(
        {
            **found.verification.to_json(),
            "user": account.key,
            "blobs": f"{found.verification.blobs_verified} of {found.verification.blobs_expected}",
        }
        for account, found in looks
    )


def _look_lines(looks: Looks, on: str | None) -> list[str]:
    """Where to look at their records, and how to go on."""
    lines = [
        f"{account.key}: {address.uri}{f'  {address.page}' if address.page else ''}"
        for account, found in looks
        for address in found.addresses
    ]
    return lines if on is None else [*lines, "Have a look; then go on with:", "", f"  {on}"]


SYNC: Final = Declaration("sync", "", "", SyncParameters, run_sync)


_DELETES = {Kind.DELETE.value, Kind.DELETE_ORPHAN.value, Kind.DELETE_DUPLICATE.value, Kind.DELETE_COPY.value}
_LINKED = {Kind.ADOPT.value, Kind.HEAL.value, Kind.RENDER.value}


class Change(StrEnum):
    """How a line of a plan, or what is found now, differs from the other."""

    NEW = "new since"
    GONE = "no longer needed"
    CHANGED = "changed"
    BLOCKED = "not possible"


@dataclass(frozen=True, slots=True)
class Moved:
    """One operation that is not carried out, and why.

    Args:
        operation: As the plan has it; what is found now where the plan has none.
        why: What is so different, in words.
    """

    change: Change
    operation: PlannedOperation
    why: str = ""

    def to_json(self) -> dict[str, object]:
        return {"moved": self.change.value, **self.operation.to_json(), "why": self.why}


@dataclass(slots=True)
class AgreedTurn:
    """What became of one account's part of a plan.

    Args:
        same: Operations that were as agreed, and done unless it was a dry run.
        done_before: Operations whose result is there already: by an earlier run of the same plan, or by somebody else.
        moved: What was not done.
        report: What the sync did, or None when nothing was to be done.
        error: Why the account could not be looked at.
    """

    account: Account | None
    same: int = 0
    done_before: int = 0
    moved: list[Moved] = field(default_factory=list)
    report: AccountReport | None = None
    error: PipelineError | None = None

    @property
    def clean(self) -> bool:
        """Whether everything agreed to is done and nothing moved."""
        report = self.report
        unwell = report is not None and (report.error or report.blocked or report.failures)
        return not (self.moved or self.error or unwell)


def agreed_sync(
    engine: Engine,
    plan: SavedPlan,
    lines: Iterable[Line],
    accounts: Sequence[Account],
    *,
    run_id: str,
    workers: int,
    dry: bool = False,
    canary: int | None = None,
    sweep: int | None = None,
) -> Iterator[AgreedTurn]:
    """Carry a plan out, account after account, and look at the others it was about for what is new.

    Args:
        lines: The plan's operations, by account.
        accounts: All accounts there are now.
        dry: Only say what would be done and what has moved.
        canary: Stop after so many accounts with something to do.
        sweep: How many records without a document it deletes, of a plan that was made to do so whatever is doubted.

    Raises:
        Misconfigured: It is another number.

    Yields:
        A turn for each account of the plan, then one for each other account in which something is new.
    """
    selection = selection_of(plan.selection)
    if not dry:
        number = plan.counts.get(Kind.DELETE_ORPHAN.value, 0) if selection.sweep is not None else None
        if sweep != number:
            raise Misconfigured(
                "This plan was made without --sweep: leave it out, or make another plan. Nothing was written."
                if number is None
                else f"This plan deletes {number} records without a document although the database is doubted: to "
                f"carry it out, name the number with --sweep {number}. Nothing was written."
            )
        selection = replace(selection, sweep=number)
    known = {account.id: account for account in accounts}
    about = plan.selection["accounts"]
    parts = ((id, [operation_of(each) for each in part]) for id, part in groupby(lines, lambda each: each.account))
    waiting: dict[str, list[PlannedOperation]] = {}

    def planned_accounts() -> Iterator[Account]:
        for id, operations in parts:
            account = known.get(id)
            waiting[id] = operations
            yield account if account is not None else Account(id, operations[0].user)

    def turn(account: Account) -> AgreedTurn:
        operations = waiting.pop(account.id)
        if account.id not in known:
            gone = [Moved(Change.GONE, each, "its account is not on the platform any more") for each in operations]
            return AgreedTurn(None, moved=gone)
        return account_turn(engine, account, selection, operations, run_id, dry=dry)

    def failed(account: Account, error: PipelineError) -> AgreedTurn:
        return AgreedTurn(account, error=error)

    if canary is not None:  # one by one: nobody's turn may have begun when it ends
        worked = 0
        for account in planned_accounts():
            taken = turn(account)
            yield taken
            worked += bool(taken.same)
            if worked == canary:
                return
    else:
        for _, taken in for_accounts(planned_accounts(), turn, workers, failed, ordered=True):
            yield taken
    inside = set(plan.accounts)
    others = [each for each in accounts if each.id not in inside and (about is None or each.id in set(about))]

    def look(account: Account) -> AgreedTurn:
        return account_turn(engine, account, selection, [], run_id, dry=True)

    for _, taken in for_accounts(others, look, workers, failed, ordered=True):
        if taken.moved or taken.error:
            yield taken


def account_turn(
    engine: Engine,
    account: Account,
    selection: Selection,
    operations: Sequence[PlannedOperation],
    run_id: str,
    *,
    dry: bool,
) -> AgreedTurn:
    """One account: planned anew, compared with what was agreed to, and what is the same carried out."""
    taken = AgreedTurn(account)
    try:
        plan, foreseen = engine.survey(account, selection)
    except Transient as error:
        taken.error = error
        return taken
    if plan.repository is None:
        reason = foreseen.blocked.message if foreseen.blocked is not None else "nothing of it is mirrored"
        taken.moved = [Moved(Change.BLOCKED, each, reason) for each in operations]
        return taken
    if foreseen.blocked is not None and not operations:  # as the plan would have it: blocked users have no operations
        return taken
    same = compare(plan, operations, taken)
    taken.same = len(same)
    if dry or not same:
        return taken
    taken.report = engine.sync(account, _only(selection, same), run_id)
    told = {(each.operation.item, each.operation.rkey) for each in taken.moved}
    for operation in taken.report.aside:
        if (operation.item, operation.rkey) not in told:  # moved between our look and the write
            now = line(account.key, operation)
            taken.moved.append(Moved(Change.CHANGED, now, "left alone: something about its item is not as agreed"))
    return taken


def compare(plan: AccountPlan, operations: Sequence[PlannedOperation], taken: AgreedTurn) -> list[PlannedOperation]:
    """Which of the agreed operations are to be done now; what differs is put into `taken`."""
    agreement = Agreement(tuple(operations))
    found = plan.operations()
    allowed = [operation for operation in found if agreement.allows(operation)]
    others: dict[str, list[PlannedOperation]] = {}
    for operation in found:
        if not agreement.allows(operation):
            others.setdefault(operation.item, []).append(line(plan.account.key, operation))
    matched = {(operation.item, operation.rkey) for operation in allowed}
    same: list[PlannedOperation] = []
    unmatched: list[PlannedOperation] = []
    for each in operations:
        (same if (each.item, each.rkey) in matched else unmatched).append(each)
    for each in unmatched:
        if each.item in others:
            now = others[each.item]
            said = ", ".join(f"{other.operation} {other.rkey}" for other in now)
            taken.moved.append(Moved(Change.CHANGED, each, f"now it is {said}: {now[0].reason}"))
        elif in_place(plan, each):
            taken.done_before += 1
        else:
            taken.moved.append(Moved(Change.GONE, each))
    replaced = {each.item for each in unmatched}
    for item, listed in others.items():
        if item not in replaced:
            taken.moved += [Moved(Change.NEW, each) for each in listed]
    return same


def in_place(plan: AccountPlan, operation: PlannedOperation) -> bool:
    """Whether the repository and the link are as this operation would have left them."""
    media = media_type(operation.type)
    records: Mapping[str, str] = plan.repository.records if plan.repository is not None else {}
    copy = operation.operation == Kind.DELETE_COPY.value
    held = records.get(f"{COPIES if copy else media.nsid}/{operation.rkey}")
    if operation.operation in _DELETES:
        return held is None
    if operation.operation in _LINKED:
        return held is not None and _is_kept(plan, media, operation)
    if operation.operation == Kind.UNLINK.value:
        return all(d.link is None for d in plan.documents[media.name] if d.id == operation.document)
    return held == operation.cid


def _is_kept(plan: AccountPlan, media: MediaType, operation: PlannedOperation) -> bool:
    for made in plan.plans:
        for kept in made.kept if made.media == media else ():
            document = kept.wanted.document
            if (item_id(media.name, document.id), kept.rkey) == (operation.item, operation.rkey):
                return operation.fingerprint in (None, document.fingerprint)
    return False


def _only(selection: Selection, same: Sequence[PlannedOperation]) -> Selection:
    """The selection of exactly these operations. Records without a document are looked at only if one is to go."""
    names = {each.type for each in same}
    return replace(
        selection,
        types=tuple(media for media in selection.types if media.name in names),
        items=frozenset((each.type, each.document) for each in same),
        since=None,
        until=None,
        limit=None,
        orphans=any(each.operation in (Kind.DELETE_ORPHAN.value, Kind.DELETE_COPY.value) for each in same),
        agreed=Agreement(tuple(same)),
    )
