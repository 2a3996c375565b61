"""All operations, in the order in which a guide tells them. Commands and jobs are made from this list."""

from __future__ import annotations

from typing import Any, Final

from ac_pipeline.operations.accounts import LIST, VERIFY, VISIBILITY
from ac_pipeline.operations.declare import Declaration
from ac_pipeline.operations.differences import DIFFERENCES
from ac_pipeline.operations.documents import RESTORE_DOCUMENTS
from ac_pipeline.operations.erasure import ERASURE
from ac_pipeline.operations.flight_plan import PLAN, PLANS
from ac_pipeline.operations.forget import SNAPSHOTS, TAKE_SNAPSHOT
from ac_pipeline.operations.inspect import AUDIT, ITEM, ITEMS, STATUS, VERIFICATION
from ac_pipeline.operations.lexicons import CHECK, PUBLISH
from ac_pipeline.operations.links import LINKS
from ac_pipeline.operations.registration import CREATE_GUEST, HANDLES, PROVISION, ROTATE
from ac_pipeline.operations.restore import RESTORE
from ac_pipeline.operations.retry import RETRY
from ac_pipeline.operations.sync import SYNC
from ac_pipeline.operations.wipe import WIPE

OPERATIONS: Final[tuple[Declaration[Any], ...]] = (
    PLAN,
    PLANS,
    SYNC,
    STATUS,
    ITEMS,
    ITEM,
    RETRY,
    VERIFICATION,
    TAKE_SNAPSHOT,
    WIPE,
    RESTORE,
    LINKS,
    DIFFERENCES,
    RESTORE_DOCUMENTS,
    ERASURE,
    SNAPSHOTS,
    AUDIT,
    LIST,
    CREATE_GUEST,
    PROVISION,
    VERIFY,
    ROTATE,
    HANDLES,
    VISIBILITY,
    CHECK,
    PUBLISH,
)
