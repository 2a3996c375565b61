"""The instance that tests of alerts share."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.integration.alerts.site import KEYS, Site

ROOT = Path(__file__).parents[3]


@pytest.fixture
def instance(services_folder: Path) -> Iterator[dg.DagsterInstance]:
    """With files, as one without knows no schedules and daemons; on the memory file system, as it writes a lot."""
    home = services_folder / f"dagster-{uuid.uuid4().hex}"
    home.mkdir()
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    settings["run_retries"]["max_retries"] = 1
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with open_instance(home) as made:
        yield made
    shutil.rmtree(home)


@pytest.fixture
def site(instance: dg.DagsterInstance) -> Site:
    return Site(instance, KEYS)
