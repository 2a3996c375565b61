"""A user who was wiped, and what a restore holds back."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.sync.report import AccountReport
from ac_pipeline_tests.unit.operations.guarded import Guarded


@pytest.fixture
def world() -> Guarded:
    return Guarded()


def wiped(world: Guarded) -> tuple[Account, dict[str, str], dict[str, str]]:
    """A user with one of each, wiped: the user, the documents and what the repository held."""
    user = world.user()
    ids = world.one_of_each(user)
    before = world.contents(user)
    assert world.wipe(user).clean
    return user, ids, before


def settled(world: Guarded, user: Account) -> AccountReport:
    """A sync that has nothing to write, upload or link, and no entry of the ledger to change."""
    before = len(world.pds.batches(user)), world.pds.count("upload_blob"), len(world.documents.link_writes)
    saves = len(world.ledger.saves)
    report = world.sync(user)
    sent = len(world.pds.batches(user)), world.pds.count("upload_blob"), len(world.documents.link_writes)
    assert (sent, len(world.ledger.saves)) == (before, saves)
    return report


def held(report: Any) -> dict[str, str]:
    return {each.saved.path.split("/")[1]: each.reason for each in report.held}
