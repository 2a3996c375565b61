"""The servers that hold the contract of the port `DataServer`: the PDS in memory, and the client on a real PDS."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.types import Write
from ac_pipeline.items import BlobRef, Record
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests import pds_folder
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.memory_pds import MemoryPds

MOOD = "computer.aesthetic.mood"
PAINTING = "computer.aesthetic.painting"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""
NOWHERE = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
OTHER_HEAD = "bafyreidlnubb7khzevumufw3ktlidl67pv2qvvyewfsaqzezdi5qsxv5yy"


class World(Protocol):
    """A data server, and what its operator can do to accounts."""

    server: DataServer

    def create_account(self) -> Account: ...

    def deactivate(self, account: Account) -> None: ...

    def take_down(self, account: Account) -> None: ...

    def lose_bytes(self, account: Account, cid: str) -> None: ...

    def forget_blob(self, account: Account, cid: str) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.pds = MemoryPds()
        self.server: DataServer = self.pds

    def create_account(self) -> Account:
        return self.pds.create_account()

    def deactivate(self, account: Account) -> None:
        self.pds.set_status(account, "deactivated")

    def take_down(self, account: Account) -> None:
        self.pds.set_status(account, "takendown")

    def lose_bytes(self, account: Account, cid: str) -> None:
        self.pds.lose_bytes(account, cid)

    def forget_blob(self, account: Account, cid: str) -> None:
        self.pds.lose_blob(account, cid)


class OnPds:
    def __init__(self, pds: Pds, client: PdsClient) -> None:
        self.pds = pds
        self.server: DataServer = client

    def create_account(self) -> Account:
        return self.pds.create_account()

    def deactivate(self, account: Account) -> None:
        self.pds.accounts.deactivate(self.pds.token(account))

    def take_down(self, account: Account) -> None:
        self.pds.accounts.take_down(str(account.did))

    def lose_bytes(self, account: Account, cid: str) -> None:
        pds_folder.lose_bytes(self.pds.folder, account, cid)

    def forget_blob(self, account: Account, cid: str) -> None:
        pds_folder.forget_blob(self.pds.folder, account, cid)


Connect = Callable[..., PdsClient]


def mood(text: str) -> Record:
    return {"$type": MOOD, "mood": text, "when": "2026-01-02T03:04:05.006Z"}


def painting(blob: BlobRef) -> Record:
    return {"$type": PAINTING, "slug": "s", "thumbnail": blob.to_json()}


def create(rkey: str, text: str = "glad") -> Write:
    return Write("create", MOOD, rkey, mood(text))


def did_of(account: Account) -> str:
    assert account.did is not None
    return account.did
