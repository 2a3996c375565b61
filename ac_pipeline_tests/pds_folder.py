"""What can go wrong with the data folder of the reference PDS, done to a running one behind its back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ac_pipeline.accounts import Account


def lose_bytes(folder: Path, account: Account, cid: str) -> None:
    """The file of a blob is gone; the PDS believes to have it, as after a disk or a bucket was restored from a copy."""
    Path(folder, "blobs", str(account.did), cid).unlink()


def forget_blob(folder: Path, account: Account, cid: str) -> None:
    """The PDS knows no such blob although a record refers to it, as after a move to another server."""
    lose_bytes(folder, account, cid)
    (store,) = folder.glob(f"actors/*/{account.did}/store.sqlite")
    with closing(sqlite3.connect(store, timeout=30)) as database, database:
        assert database.execute("DELETE FROM blob WHERE cid = ?", (cid,)).rowcount == 1
