"""All operations, in the order in which a guide tells them. Commands and jobs are made from this list."""

from __future__ import annotations

from typing import Any, Final

from ac_pipeline.operations.accounts.handles import HANDLES
from ac_pipeline.operations.accounts.listing import LIST, VERIFY, VISIBILITY
from ac_pipeline.operations.accounts.registration import CREATE_GUEST, PROVISION, ROTATE
from ac_pipeline.operations.declare import Declaration
from ac_pipeline.operations.inspection.differences import DIFFERENCES
from ac_pipeline.operations.inspection.erasure import ERASURE
from ac_pipeline.operations.inspection.items import AUDIT, ITEM, ITEMS, STATUS, VERIFICATION
from ac_pipeline.operations.inspection.links import LINKS
from ac_pipeline.operations.inspection.lost_documents import RESTORE_DOCUMENTS
from ac_pipeline.operations.lexicons import CHECK, PUBLISH
from ac_pipeline.operations.plan import PLAN, PLANS
from ac_pipeline.operations.removal.prune import SNAPSHOTS, TAKE_SNAPSHOT
from ac_pipeline.operations.removal.restore import RESTORE
from ac_pipeline.operations.removal.wipe import WIPE
from ac_pipeline.operations.retry import RETRY
from ac_pipeline.operations.sync import SYNC

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
