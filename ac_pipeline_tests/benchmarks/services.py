"""The local services and the pipeline that benchmarks measure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo.database import Database

from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline.mongo.database import connect
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import Pipeline, open_pipeline


@contextmanager
def open_services(media_url: str | None = None) -> Iterator[tuple[Pipeline, Database[dict[str, Any]], PdsAccounts]]:
    """A pipeline on services of its own, its empty source database, and the accounts of its PDS.

    Args:
        media_url: Of an object storage; the services' own when left out.
    """
    with tempfile.TemporaryDirectory(prefix="ac-bench-") as folder:
        services = LocalServices(Path(folder))
        try:
            addresses = services.up()
            settings = Settings(
                mongodb_connection_string=addresses.mongo,
                mongodb_name="bench",
                pds_url=addresses.pds,
                ac_media_url=media_url or addresses.media,
                ac_renditions_url=f"{folder}/renditions",
                ac_relay_commits_per_hour=0,  # no relay reads this PDS, and its speed is what is measured
            )
            with open_pipeline(settings) as pipeline, PdsAccounts(addresses.pds, addresses.pds_admin_password) as made:
                yield pipeline, connect(addresses.mongo)["bench"], made
        finally:
            services.down()
