"""The local services as the tests use them: MongoDB, PDS and object storage answer as the real ones do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ac_pipeline_tests.conftest import Pds


def test_a_test_gets_an_empty_database_that_refuses_what_the_stable_api_refuses(
    mongo: Database[dict[str, Any]],
) -> None:
    """OPS-5: a command outside API version 1 is refused here as on the platform's server."""
    assert mongo.list_collection_names() == []
    mongo["moods"].insert_one({"mood": "calm"})
    with pytest.raises(OperationFailure):
        mongo["moods"].distinct("mood")


def test_an_account_can_write_to_its_repository(pds: Pds) -> None:
    account = pds.create_account()

    written = pds.accounts.call(
        "com.atproto.repo.createRecord",
        {"repo": account.did, "collection": "computer.aesthetic.mood", "record": {"mood": "calm"}},
        token=pds.token(account),
    )

    assert written["uri"].startswith(f"at://{account.did}/computer.aesthetic.mood/")
    assert account.password not in repr(account)


def test_a_killed_pds_comes_back_with_its_accounts(pds: Pds) -> None:
    account = pds.create_account()

    pds.kill()
    pds.start()

    described = httpx.get(f"{pds.url}/xrpc/com.atproto.repo.describeRepo", params={"repo": account.did or ""}).json()
    assert described["handle"] == account.pds_handle
    assert described["didDoc"]["id"] == account.did
