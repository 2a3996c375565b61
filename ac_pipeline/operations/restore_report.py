"""What a restore did, as values. Doing it is `restore.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ac_pipeline.errors import PipelineError
from ac_pipeline.operations.restore_plan import Held
from ac_pipeline.sync.report import AccountReport, ItemFailure


@dataclass(slots=True)
class RestoreReport:
    """What a restore did.

    Args:
        source: `mongo`, or the id of the snapshot.
        restored: Type name -> records written; from Mongo, those the sync wrote.
        present: Records that were there already.
        held: Records that were not brought back, each with its reason.
        failures: Records that the PDS refuses.
        wrong_shaped: Records that came back as they were and break their lexicon: the next sync repairs them in place.
        sync: What the sync did, when it was from Mongo.
        on_hold: Types that are still on hold: the restore has to be run again.
        error: What ended it early; the same command does the rest.
    """

    user: str
    source: str
    restored: dict[str, int] = field(default_factory=dict)
    present: int = 0
    held: list[Held] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)
    wrong_shaped: int = 0
    sync: AccountReport | None = None
    on_hold: list[str] = field(default_factory=list)
    error: PipelineError | None = None
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing failed. What was held back on purpose is not a failure."""
        synced = self.sync is None or not (self.sync.error or self.sync.blocked or self.sync.failures)
        return synced and self.error is None and not self.failures

    def to_json(self) -> dict[str, object]:
        sync = None
        if self.sync is not None:
            sync = {
                "types": {name: tally.to_json() for name, tally in self.sync.types.items()},
                "failures": [failure.to_json() for failure in self.sync.failures],
                "blocked": self.sync.blocked.message if self.sync.blocked else None,
            }
        return {
            "user": self.user,
            "source": self.source,
            "restored": self.restored,
            "present": self.present,
            "held": [held.to_json() for held in self.held],
            "failures": [failure.to_json() for failure in self.failures],
            "wrong_shaped": self.wrong_shaped,
            "sync": sync,
            "on_hold": self.on_hold,
            "error": self.error.message if self.error else None,
            "seconds": round(self.seconds, 3),
        }
