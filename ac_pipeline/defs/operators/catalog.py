"""All jobs of operators, in the order in which a guide tells them."""

from typing import Final

from ac_pipeline.defs.operators.erasures import erasure_report, forget_snapshots
from ac_pipeline.defs.operators.plans import flight_plan_asset, plan_users
from ac_pipeline.defs.operators.removals import restore_user, take_snapshot, wipe_user
from ac_pipeline.defs.operators.repairs import heal_links, publish_lexicons, restore_documents

OPERATOR_ASSETS: Final = (flight_plan_asset,)

OPERATOR_JOBS: Final = (
    plan_users,
    take_snapshot,
    wipe_user,
    restore_user,
    heal_links,
    restore_documents,
    erasure_report,
    forget_snapshots,
    publish_lexicons,
)
