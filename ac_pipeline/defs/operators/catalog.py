"""All jobs of operators, in the order in which a guide tells them."""

from typing import Final

from ac_pipeline.defs.operators.accounts import account_visibility, list_accounts, verify_credentials
from ac_pipeline.defs.operators.differences import settle_differences
from ac_pipeline.defs.operators.erasures import erasure_report, forget_snapshots
from ac_pipeline.defs.operators.lexicons import check_lexicons, publish_lexicons
from ac_pipeline.defs.operators.plans import flight_plan_asset, plan_users
from ac_pipeline.defs.operators.registrations import (
    create_guest_account,
    provision_accounts,
    repair_handles,
    rotate_password,
)
from ac_pipeline.defs.operators.removals import restore_user, take_snapshot, wipe_user
from ac_pipeline.defs.operators.repairs import heal_links, restore_documents

OPERATOR_ASSETS: Final = (flight_plan_asset,)

OPERATOR_JOBS: Final = (
    plan_users,
    take_snapshot,
    wipe_user,
    restore_user,
    heal_links,
    settle_differences,
    restore_documents,
    erasure_report,
    forget_snapshots,
    list_accounts,
    create_guest_account,
    provision_accounts,
    verify_credentials,
    rotate_password,
    repair_handles,
    account_visibility,
    check_lexicons,
    publish_lexicons,
)
