"""The site that tests of changes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ac_pipeline_tests.integration.changes.site import Site


@pytest.fixture
def site(mongo_database: Any) -> Iterator[Site]:
    made = Site(mongo_database)
    yield made
    mongo_database.client.drop_database(made.own.name)
