"""The jobs `check_lexicons` and `publish_lexicons`."""

from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operator import Operator
from ac_pipeline.defs.operators.tables import KIND, LEFT_OUT, WHY_FIELD, Metadata, Table, refusals
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.operations.lexicons import LexiconCheck

_CHANGE: Final = ("lexicon", "path", "effect", "what")


class CheckConfig(dg.Config):
    """What to read. Nothing is written."""

    scan: bool = Field(
        default=True,
        description="Read every record as well, and compare it with our lexicons; takes minutes for all users.",
    )


@dg.op(name="check_our_lexicons", out=dg.Out(dg.Nothing))
def check_our_lexicons(
    context: dg.OpExecutionContext, config: CheckConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Compare our lexicons with the published ones, and existing records with ours.

    Raises:
        dg.Failure: Something could not be read.
    """
    with refusals():
        found = operator.check_lexicons(records=config.scan)
    if found.breaking:
        context.log.warning(f"No record is written while {', '.join(found.breaking)} would break what is published.")
    for name, reason in found.passed_over.items():
        context.log.warning(f"{name} is not used: {reason}")
    context.add_output_metadata(_checked(found))


@dg.job(
    name="check_lexicons",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Compares our lexicons with those that AC_LEXICON_AUTHORITY has published, and every record with ours. "
    "Writes nothing. While one is breaking, every sync is refused.",
)
def check_lexicons() -> None:
    check_our_lexicons()


class PublishConfig(dg.Config):
    """Left as it is, it only says what would be published."""

    dry_run: bool = Field(default=True, description="Only say what would be published.")
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="publish_our_lexicons", out=dg.Out(dg.Nothing))
def publish_our_lexicons(
    context: dg.OpExecutionContext, config: PublishConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Write our lexicons into the authority's repository; breaking changes are refused.

    Raises:
        dg.Failure: It was refused.
    """
    table = Table(("lexicon", "state", "changes"))
    with refusals():
        published = operator.publish_lexicons(dry_run=config.dry_run, why=config.why)
    for each in published.lexicons:
        changes = [f"{change.path}: {change.what}" for change in each.changes]
        table.add({"lexicon": each.nsid, "state": each.state, "changes": changes})
    name = "would_be_published" if config.dry_run else "published"
    dns = dg.MetadataValue.md("\n".join(f"    {record}" for record in published.dns))
    counts = {"dry_run": config.dry_run, "lexicons": table.count}
    context.add_output_metadata({**counts, **table.metadata(name), "dns_records": dns})


@dg.job(
    name="publish_lexicons",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Publishes our lexicons in the repository of AC_LEXICON_AUTHORITY; what is the same already is left "
    "alone, breaking changes are refused. By default it only says what would be published.",
)
def publish_lexicons() -> None:
    publish_our_lexicons()


def _checked(found: LexiconCheck) -> Metadata:
    read = found.scan
    columns = ("lexicon", "published") if read is None else ("lexicon", "published", "records", "invalid")
    lexicons, changed = Table(columns), Table(_CHANGE)
    for each in found.comparisons:
        counts: dict[str, int] = {}
        if read is not None:
            counts = {"records": read.records.get(each.nsid, 0), "invalid": read.invalid.get(each.nsid, 0)}
        lexicons.add({"lexicon": each.nsid, "published": each.state, **counts})
        for change in each.changes:
            changed.add({"lexicon": each.nsid, "path": change.path, "effect": change.effect.value, "what": change.what})
    invalid, unreadable = Table(("record", "problem")), Table(LEFT_OUT)
    for uri, problem in read.examples if read is not None else ():
        invalid.add({"record": uri, "problem": problem})
    for user, reason in read.unreadable if read is not None else ():
        unreadable.add({"user": user, "message": reason})
    return {
        "authority": found.authority or "AC_LEXICON_AUTHORITY is not set: nothing is known of published versions",
        "breaking": len(found.breaking),
        **lexicons.metadata("lexicons"),
        **changed.metadata("changes_against_the_published_versions"),
        **invalid.metadata("records_that_break_our_lexicon"),
        **unreadable.metadata("not_read"),
    }
