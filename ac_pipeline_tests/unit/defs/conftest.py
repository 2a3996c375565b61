"""What the tests of the operators' jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.desk import Desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    with open_instance() as instance:
        yield Desk(instance)
