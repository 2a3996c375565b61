"""Renditions that nothing needs: found by what does need one, and deleted.

A rendition is needed by an item of the ledger, whatever its state, and by every record on the PDS that refers to it, so
that a lost ledger costs none that is published. What no run has recorded yet is young: a run keeps a rendition first,
then writes its record, and remembers both last, and one that was killed in between is repeated for days. So nothing
younger than `--days` goes. A run that finds one gone meanwhile makes it again.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.errors import AccountInactive, AccountUnknown, HeldBack, Misconfigured, PipelineError
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import Parameters, confirm_option, option, why_option
from ac_pipeline.wiring import Pipeline

PRUNE: Final = "prune-renditions"
"""The action, in the audit."""
_OURS: Final = re.compile(r"baf[a-z2-7]{20,}|\.[0-9a-f]{32}\.part")
"""Names of blobs, and of files whose writer was killed; anything else in the folder is somebody else's."""
_AT_ONCE: Final = 200
_KINDS: Final = ("needed", "young", "unneeded")
_UNLINKED: Final = set(State) - {State.WRITTEN, State.UNCHANGED}


class RenditionsParameters(Parameters):
    """Which renditions are to go."""

    prune: bool = option(False, "Delete those that nothing needs.")
    days: int = option(7, "Leave what was made in so many days: a run may be about to record it.", metavar="N", ge=1)
    confirm: int | None = confirm_option("renditions")
    why: str = why_option()


@declared("renditions", "prune_renditions", "prune_some_renditions")
def run_renditions(work: Work, parameters: RenditionsParameters) -> Report:
    """Count the thumbnails and videos in the rendition store, and find or delete those that no document, no pending
    item and no record on the PDS needs.

    Reads every repository. Without a confirmation nothing is deleted.
    """
    if parameters.confirm is not None and not parameters.prune:
        raise Misconfigured("Nothing was deleted: say --prune as well (`prune` in the launchpad).")
    pipeline = work.pipeline
    since = pipeline.engine.now() - timedelta(days=parameters.days)
    if parameters.prune:
        _refuse_unknown(pipeline, since)
    files = list(pipeline.store.listed("blobs"))  # before what needs them: what is recorded meanwhile is seen
    needed = pipeline.ledger.needed_blobs() | _published(work)
    numbers, sizes = Counter(dict.fromkeys(_KINDS, 0)), Counter[str]()
    unneeded = Table("unneeded", ("rendition", "bytes", "made"), "Needed by nothing")
    for name, size, at in files:
        if not _OURS.fullmatch(name):
            continue
        kind = "needed" if name in needed else "young" if at is None or at >= since else "unneeded"
        numbers[kind] += 1
        sizes[kind] += size
        if kind == "unneeded":
            unneeded.add({"rendition": name, "bytes": size, "made": f"{at:%Y-%m-%d %H:%M:%S}"})
    number = numbers["unneeded"]
    confirm = number if number and parameters.prune else None
    headline = f"{number} renditions are needed by nothing: {sizes['unneeded']} bytes."
    if confirm is not None and parameters.confirms(confirm):
        with pipeline.audit.during(PRUNE, (), (), why=parameters.why, counts={"renditions": number}) as audited:
            audited.counts["renditions"] = number = _delete(work, [row["rendition"] for row in unneeded])
        confirm, headline = None, f"{number} renditions were deleted."
    return Report(
        headline,
        {"number": numbers, "bytes": sizes, "days": parameters.days, "unneeded": unneeded},
        [
            Table.of("renditions", ("", "number", "bytes"), ((each, numbers[each], sizes[each]) for each in _KINDS)),
            unneeded,
        ],
        confirm=confirm,
        exit_code=0 if confirm is None else 2,
    )


def _published(work: Work) -> set[str]:
    """CIDs of all blobs that records on the PDS refer to.

    Raises:
        HeldBack: A repository cannot be read.
        Transient: The PDS does not answer.
    """
    pipeline, found = work.pipeline, set[str]()

    def referred(account: Account) -> set[str]:
        return {cid for _, cid in pipeline.server.read_repository(str(account.did)).blob_references()}

    having = [account for account in pipeline.accounts.all() if account.did is not None]
    for account, answer in work.for_each("Reading", having, referred):
        if not isinstance(answer, PipelineError):
            found |= answer
        elif not isinstance(answer, AccountUnknown | AccountInactive):
            raise HeldBack(f"Which renditions {account.key} needs is not known, so none can go: {answer.message}")
    return found


def _refuse_unknown(pipeline: Pipeline, since: datetime) -> None:
    """Raises HeldBack where nothing is known of a document that is as old as what would be deleted."""
    staying = [account for account in pipeline.accounts.all() if not account.owner_deleted]
    for media in MEDIA_TYPES:
        if media.recipe is None:
            continue
        known = [entry.document for entry in pipeline.ledger.find(states=_UNLINKED, types={media.name})]
        number, oldest = pipeline.documents.unlinked(media, staying, known)
        if number and (oldest is None or oldest < since.timestamp() * 1000):
            raise HeldBack(
                f"There are {media.plural} with neither a record nor an entry in the ledger ({number}), some older "
                "than what would be deleted: which renditions they need is not known. Run `ac-pipeline sync` first."
            )


def _delete(work: Work, names: list[str]) -> int:
    """Delete these unless an item has come to need one; how many went."""
    gone, parts = set[str](), [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
    for part in work.watch("Deleting")(parts, len(parts)):
        going = set(part) - work.pipeline.ledger.used_blobs(part, without=())
        for name in going:
            work.pipeline.store.remove(name)
        gone |= going
    work.pipeline.store.forget_blobs(gone)
    return len(gone)
