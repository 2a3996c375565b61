"""The site that tests of provisioning share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline_tests.integration.provisioning.site import Site, open_site


@pytest.fixture
def site(mongo_database: Any, mongo_server: Any, pds: Any, tmp_path: Path) -> Iterator[Site]:
    with open_site(mongo_database, mongo_server.uri, pds, tmp_path) as opened:
        yield opened
