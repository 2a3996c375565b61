"""All operations, in the order in which a guide tells them. Commands and jobs are made from this list.

What a list of them says stands here, so that `ac-pipeline --help` imports none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ac_pipeline.operations.declare import Declaration

LOOK, SYNC, REPAIR, ACCOUNTS = "Look", "Sync", "Repair and remove", "Accounts"


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation in a list of all.

    Args:
        command: Its words on the command line; empty where only the UI has it.
        place: Where it is declared, as `module:NAME` of `ac_pipeline.operations`.
        group: The heading under which it is listed.
        summary: What it does, in one short sentence.
        example: Arguments of an example.
    """

    command: str
    place: str
    group: str
    summary: str
    example: str = ""

    def declaration(self) -> Declaration[Any]:
        """The operation; its module is imported now."""
        module, _, name = self.place.partition(":")
        found: Declaration[Any] = getattr(import_module(f"ac_pipeline.operations.{module}"), name)
        return found


_ITEMS, _LISTING, _REGISTRATION = "inspection.items", "accounts.listing", "accounts.registration"
_LOST = "inspection.lost_documents"

CATALOG: Final = (
    Entry("plan", "plan:PLAN", LOOK, "Show what a sync would do, why, and what it costs.", "--user ada --type mood"),
    Entry("plans", "plan:PLANS", LOOK, "List the plans that are kept.", "--limit 5"),
    Entry("sync", "sync:SYNC", SYNC, "Make the PDS hold exactly the eligible items, each once.", "--canary 3"),
    Entry("", "sync:APPLY_PLAN", SYNC, "Carry a saved plan out."),  # of the UI; on the command line `sync --plan`
    Entry("status", f"{_ITEMS}:STATUS", LOOK, "Count documents, records and what is pending.", "--type tape"),
    Entry("items", f"{_ITEMS}:ITEMS", LOOK, "List items by state and error.", "--state quarantined --user ada"),
    Entry("item", f"{_ITEMS}:ITEM", LOOK, "Tell one item's history, from document to record.", "painting:abc"),
    Entry("retry", "retry:RETRY", SYNC, "Run failed items again, and nothing else.", "--error-class too-large"),
    Entry("verify", f"{_ITEMS}:VERIFICATION", LOOK, "Compare records and blobs with what is expected.", "--user ada"),
    Entry("snapshot", "removal.prune:TAKE_SNAPSHOT", REPAIR, "Keep what a user's repository holds.", "ada"),
    Entry(
        "wipe", "removal.wipe:WIPE", REPAIR, "Delete a user's records, after a snapshot.", "ada --type mood --dry-run"
    ),
    Entry("restore", "removal.restore:RESTORE", REPAIR, "Bring a user's records back.", "ada --dry-run"),
    Entry(
        "links", "inspection.links:LINKS", REPAIR, "Examine links between documents and records.", "--user ada --heal"
    ),
    Entry("differences", "inspection.differences:DIFFERENCES", REPAIR, "Show what others changed.", "--user ada"),
    Entry("restore-documents", f"{_LOST}:RESTORE_DOCUMENTS", REPAIR, "Rebuild lost documents.", "--user ada"),
    Entry("erasure", "inspection.erasure:ERASURE", REPAIR, "Say what is left of erased work.", "--user ada"),
    Entry("snapshots", "removal.prune:SNAPSHOTS", REPAIR, "List snapshots, or delete some for good.", "--user ada"),
    Entry("renditions", "removal.renditions:RENDITIONS", REPAIR, "Find, or delete, what nothing needs.", "--prune"),
    Entry("audit", f"{_ITEMS}:AUDIT", LOOK, "List who removed records or brought them back.", "--action wipe"),
    Entry("accounts list", f"{_LISTING}:LIST", ACCOUNTS, "Show who can be mirrored and who cannot.", "--state blocked"),
    Entry("accounts create-guest", f"{_REGISTRATION}:CREATE_GUEST", ACCOUNTS, "Make the account of anonymous work."),
    Entry("accounts provision", f"{_REGISTRATION}:PROVISION", ACCOUNTS, "Make missing PDS accounts.", "--dry-run"),
    Entry("accounts verify", f"{_LISTING}:VERIFY", ACCOUNTS, "Sign in as every account.", "--user ada"),
    Entry("accounts rotate", f"{_REGISTRATION}:ROTATE", ACCOUNTS, "Give an account a new password.", "--user ada"),
    Entry("accounts handles", "accounts.handles:HANDLES", ACCOUNTS, "Compare and repair handles.", "--user ada"),
    Entry("accounts visibility", f"{_LISTING}:VISIBILITY", ACCOUNTS, "Show whom a relay throttles."),
    Entry("lexicons check", "lexicons:CHECK", SYNC, "Compare our lexicons with the published ones.", "--no-scan"),
    Entry("lexicons publish", "lexicons:PUBLISH", SYNC, "Publish our lexicons.", "--dry-run"),
)


def operations() -> Iterator[Declaration[Any]]:
    """Every operation, in the order of the catalog; imports all of them."""
    return (each.declaration() for each in CATALOG)
