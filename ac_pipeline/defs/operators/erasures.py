"""The jobs `erasure_report` and `forget_snapshots`: what is left of erased work, and letting the last copies go."""

from collections import Counter
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operator import Operator
from ac_pipeline.defs.operators.tables import (
    KIND,
    LEFT_OUT,
    TYPES_FIELD,
    USERS_FIELD,
    WHY_FIELD,
    Metadata,
    Table,
    refusals,
    require_everybody,
    types_of,
)
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.forget import Forgetting
from ac_pipeline.operations.rounds import LeftOut

_COUNTED: Final = ("records", "copies", "links", "blobs", "renditions", "snapshots")
_ERASURE: Final = (
    "user",
    "item",
    "state",
    "reason",
    "records",
    "copies",
    "linked",
    "blobs",
    "renditions",
    "snapshot",
    "since",
    "gone_at",
)
_SNAPSHOT: Final = ("id", "user", "when", "records", "blobs", "bytes", "wipe", "complete")


class ErasureConfig(dg.Config):
    """Whose erasures to look into. Nothing is written."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)


@dg.op(name="look_for_erased_items", out=dg.Out(dg.Nothing))
def look_for_erased_items(
    context: dg.OpExecutionContext, config: ErasureConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Say what is still there of what was to be erased, and what has gone when.

    Raises:
        dg.Failure: Something could not be read.
    """
    pending, gone, left_out = Table(_ERASURE), Table(_ERASURE), Table(LEFT_OUT)
    counts, unread = Counter[str](), 0
    with refusals():
        for each in operator.erasures(config.users, types_of(config.types)):
            if isinstance(each, LeftOut):
                left_out.add({"user": each.user, "message": each.message})
                unread += each.failed
                continue
            (pending if each.pending else gone).add(each.to_json())
            held = {
                "copies": len(each.copies),
                "blobs": len(each.blobs),
                "renditions": len(each.renditions),
                "snapshots": each.snapshot is not None,
            }
            counts.update({"records": len(each.records), "links": each.linked, **held})
    found = {"pending": pending.count, "gone": gone.count, **{name: counts[name] for name in _COUNTED}}
    tables = {**pending.metadata("pending_items"), **gone.metadata("erased_items")}
    metadata = {**found, **tables, **left_out.metadata("not_looked_at")}
    require_everybody(unread, metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="erasure_report",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Says what is still on the PDS, in Mongo, in the rendition store or in snapshots of withdrawn items "
    "and deleted accounts, and what has gone, and when. Writes nothing; a sync erases, forget_snapshots deletes "
    "snapshots.",
)
def erasure_report() -> None:
    look_for_erased_items()


class ForgetConfig(dg.Config):
    """Which snapshots to delete for good. Left as it is, the job refuses; with a user or ids, it says how many."""

    user: str = Field(
        default="", description="Every snapshot of this user: partition key, handle, code or DID; a purged user's DID."
    )
    snapshots: list[str] = Field(default=[], description="These snapshots, by the ids that `erasure_report` shows.")
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of snapshots that will be deleted. Launch once with -1 to be told it; nothing is "
        "deleted then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="forget_some_snapshots", out=dg.Out(dg.Nothing))
def forget_some_snapshots(
    context: dg.OpExecutionContext, config: ForgetConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Delete snapshots with the blobs that only they need.

    Raises:
        dg.Failure: The number was not confirmed, or it was refused.
    """
    with refusals():
        user, ids = config.user.strip(), [id.strip() for id in config.snapshots]
        if bool(user) == bool(ids):
            raise Misconfigured("Nothing was deleted: fill in either `user` or `snapshots` in the launchpad.")
        if config.confirm < 0:
            plan = operator.plan_forgetting(user, ids)
            number = len(plan.snapshots)
            context.add_output_metadata({"dry_run": True, "confirm": number, **_forgetting(plan)})
            context.log.info(f"Nothing was deleted: launch again with confirm {number} to delete {number} snapshots.")
            return
        done = operator.forget(user, ids, config.confirm, config.why)
    context.add_output_metadata({"dry_run": False, "forgotten": len(done.snapshots), **_forgetting(done)})


@dg.job(
    name="forget_snapshots",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Deletes snapshots for good, with the records and blobs that no other snapshot needs: the last step of "
    "an erasure. By default it only says which; deletes nothing until their number is confirmed.",
)
def forget_snapshots() -> None:
    forget_some_snapshots()


def _forgetting(found: Forgetting) -> Metadata:
    table = Table(_SNAPSHOT)
    for each in found.snapshots:
        table.add({**each.to_json(), "records": sum(each.records.values())})
    counts = {"blobs": found.blobs, "shared_blobs": found.shared, "last_copies": found.last_copies}
    return {**counts, "damaged": ", ".join(found.lost) or "none", **table.metadata("snapshots")}
