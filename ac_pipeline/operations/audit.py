"""The audit, read: who removed or brought back whose records, when and why. Writing it is `mongo/audit.py`."""

from __future__ import annotations

from typing import Final

from ac_pipeline.operations.declare import Declaration, Parameters, Report, Table, Work, option


class AuditParameters(Parameters):
    """Which lines to show."""

    limit: int = option(50, "The last so many.", metavar="N", ge=1)
    action: str = option("", "Only this action, such as wipe or restore.", metavar="NAME")
    user: str = option("", "Only this user's: a key, or a DID.", metavar="KEY")


def run_audit(work: Work, parameters: AuditParameters) -> Report:
    """List operations that remove records or bring them back, the last one first.

    An operation that stays `started` was killed: run it again.
    """
    found = work.pipeline.audit.entries(parameters.limit, parameters.action or None, parameters.user or None)
    table = Table("operations", ("when", "action", "who", "users", "types", "records", "outcome", "why"))
    for each in found:
        counts = ", ".join(f"{name} {number}" for name, number in each.counts.items())
        table.add(
            {
                **each.to_json(),
                "when": f"{each.when:%Y-%m-%d %H:%M:%S}",
                "users": " ".join(each.users),
                "types": " ".join(each.types),
                "records": counts,
            }
        )
    return Report(f"{len(found)} operations.", [each.to_json() for each in found], [table])


AUDIT: Final = Declaration(
    "audit",
    "show_audit",
    "read_the_audit",
    AuditParameters,
    run_audit,
)
