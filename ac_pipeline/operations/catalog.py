"""All operations, in the order in which a guide tells them; `ac-pipeline --help` lists them and imports none."""

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
    command: str  # Its words on the command line; empty where only the UI has it
    place: str  # Where it is declared, as `module:name` of `ac_pipeline.operations`, for a function `run_name`
    group: str  # The heading under which it is listed
    summary: str  # What it does, in one short sentence
    example: str = ""  # Arguments of an example

    def declaration(self) -> Declaration[Any]:
        """The operation; its module is imported now."""
        module, _, name = self.place.partition(":")
        found: Declaration[Any] = getattr(import_module(f"ac_pipeline.operations.{module}"), f"run_{name}")
        return found


_ITEMS, _LOST = "inspection.items", "inspection.lost_documents"
_LISTING, _PROVISIONING = "accounts.listing", "accounts.provisioning"

CATALOG: Final = (
    Entry("plan", "plan:plan", LOOK, "Show what a sync would do, why, and what it costs.", "--user ada --type mood"),
    Entry("plans", "plan:plans", LOOK, "List the plans that are kept.", "--limit 5"),
    Entry("sync", "sync:sync", SYNC, "Make the PDS hold exactly the eligible items, each once.", "--canary 3"),
    Entry("", "sync:apply_plan", SYNC, "Carry a saved plan out."),  # of the UI; on the command line `sync --plan`
    Entry("status", f"{_ITEMS}:status", LOOK, "Count documents, records and what is pending.", "--type tape"),
    Entry("items", f"{_ITEMS}:items", LOOK, "List items by state and error.", "--state quarantined --user ada"),
    Entry("item", f"{_ITEMS}:item", LOOK, "Tell one item's history, from document to record.", "painting:abc"),
    Entry("retry", "sync:retry", SYNC, "Run failed items again, and nothing else.", "--error-class too-large"),
    Entry("verify", f"{_ITEMS}:verify", LOOK, "Compare records and blobs with what is expected.", "--user ada"),
    Entry("snapshot", "removal.prune:take", REPAIR, "Keep what a user's repository holds.", "ada"),
    Entry(
        "wipe", "removal.wipe:wipe", REPAIR, "Delete a user's records, after a snapshot.", "ada --type mood --dry-run"
    ),
    Entry("restore", "removal.restore:restore", REPAIR, "Bring a user's records back.", "ada --dry-run"),
    Entry(
        "links", "inspection.links:links", REPAIR, "Examine links between documents and records.", "--user ada --heal"
    ),
    Entry("differences", "inspection.differences:differences", REPAIR, "Show what others changed.", "--user ada"),
    Entry(
        "restore-documents",
        f"{_LOST}:restore_documents",
        REPAIR,
        "Rebuild lost documents.",
        "--user ada",
    ),
    Entry("erasure", "inspection.erasure:erasure", REPAIR, "Say what is left of erased work.", "--user ada"),
    Entry("snapshots", "removal.prune:snapshots", REPAIR, "List snapshots, or delete some for good.", "--user ada"),
    Entry("renditions", "removal.renditions:renditions", REPAIR, "Find, or delete, what nothing needs.", "--prune"),
    Entry("audit", f"{_ITEMS}:audit", LOOK, "List who removed records or brought them back.", "--action wipe"),
    Entry("accounts list", f"{_LISTING}:list", ACCOUNTS, "Show who can be mirrored and who cannot.", "--state blocked"),
    Entry("accounts create-guest", f"{_PROVISIONING}:create_guest", ACCOUNTS, "Make the account of anonymous work."),
    Entry("accounts provision", f"{_PROVISIONING}:provision", ACCOUNTS, "Make missing PDS accounts.", "--dry-run"),
    Entry("accounts verify", "accounts.passwords:verify", ACCOUNTS, "Sign in as every account.", "--user ada"),
    Entry("accounts rotate", "accounts.passwords:rotate", ACCOUNTS, "Give an account a new password.", "--user ada"),
    Entry("accounts handles", "accounts.handles:handles", ACCOUNTS, "Compare and repair handles.", "--user ada"),
    Entry("accounts visibility", f"{_LISTING}:visibility", ACCOUNTS, "Show whom a relay throttles."),
    Entry("lexicons check", "lexicons:check", SYNC, "Compare our lexicons with the published ones.", "--no-scan"),
    Entry("lexicons publish", "lexicons:publish", SYNC, "Publish our lexicons.", "--dry-run"),
)


def operations() -> Iterator[Declaration[Any]]:
    """Every operation, in the order of the catalog; imports all of them."""
    return (each.declaration() for each in CATALOG)
