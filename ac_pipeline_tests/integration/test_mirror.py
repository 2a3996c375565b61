"""The mirror end to end on real services: documents in MongoDB, records on a PDS, links and ledger in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline_tests.harness import Slice, open_slice


@pytest.fixture
def slice_(mongo_database: Any, mongo_server: Any, pds: Any, object_server: Any, tmp_path: Path) -> Iterator[Slice]:
    with open_slice(mongo_database, mongo_server.uri, pds, object_server.url_template, tmp_path) as opened:
        yield opened


def test_a_second_sync_over_unchanged_data_writes_and_uploads_nothing(slice_: Slice) -> None:
    """WRITE-1, WRITE-4, VERIFY-1."""
    user = slice_.user("ada")
    for number in range(300):
        slice_.add("mood", user, mood=f"mood {number}")
    first = slice_.sync(user)
    assert first.error is None
    assert first.types["mood"].created == first.types["mood"].planned == 300
    before = slice_.pipeline.server.usage()
    second = slice_.sync(user)
    used = (slice_.pipeline.server.usage() - before).requests
    assert second.types["mood"].unchanged == second.types["mood"].planned == 300
    assert used["apply_writes"] == used["upload_blob"] == used["create_session"] == 0
    assert len(slice_.records(user, "mood")) == 300
