"""Which partitions a running Dagster shows as "Unsynced": those whose documents are newer than their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, RENDITIONS, USERS, records_key
from ac_pipeline.defs.assets.stage import observation
from ac_pipeline.local.demo import Screen, demo_settings, open_dagster
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.local.services.stack import Addresses
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.planning.plan import Versions, documents_version
from ac_pipeline_tests.dagster_home import PATIENCE
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import USER_BUCKET, Slice

ROOT = Path(__file__).parents[2]
PAINTING = media_type("painting")
RECORDS = records_key(PAINTING)
THUMBNAILS = next(iter(RENDITIONS))
KEYS = ["ada", "bea", "cyd", "dan"]
STALE = """query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  staleStatus(partition: $partition) staleCauses(partition: $partition) { key { path } reason } } } }"""


def run(instance: dg.DagsterInstance, first: str, last: str, *assets: dg.AssetKey) -> None:
    tags = {"dagster/partition": first} if first == last else {RANGE_START: first, RANGE_END: last}
    job = build_defs(retry_seconds=0).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, asset_selection=list(assets), tags=tags).success


def observe(instance: dg.DagsterInstance, slice_: Slice, user: Account) -> None:
    """What a sensor says of documents that changed."""
    documents = list(slice_.pipeline.documents.stream(user, PAINTING))
    seen = observation(PAINTING, user.key, Versions(documents_version(documents)), {"documents": len(documents)})
    instance.report_runless_asset_event(seen)


@pytest.mark.usefixtures("named_services")
def test_only_users_whose_documents_changed_since_their_last_run_are_shown_as_behind(
    slice_: Slice, object_server: Any, mongo_server: Any, pds: Any, tmp_path: Path
) -> None:
    """RUN-7, VERIFY-9: after ranged and single runs; the cause is named; a later run takes it back."""
    users, documents = {}, {}
    for number, key in enumerate(KEYS):
        users[key] = slice_.user(key)
        slug = f"2025.1.2.3.4.5.{number}"
        documents[key] = slice_.add("painting", users[key], code=f"abc{number}", slug=slug, bucket=USER_BUCKET)
        object_server.put(USER_BUCKET, f"{users[key].id}/painting/{slug}.png", pixel_art(24, 16, seed=number))
    addresses = Addresses(
        mongo_server.uri, slice_.database.name, pds.url, pds.admin_password, object_server.url_template, tmp_path
    )
    settings = demo_settings(addresses, tmp_path)
    settings.dagster_home.mkdir()
    with open_instance(settings.dagster_home) as instance:
        instance.add_dynamic_partitions(USERS, KEYS)
        run(instance, "ada", "cyd", THUMBNAILS)
        run(instance, "ada", "cyd", RECORDS)
        for key in ("bea", "cyd"):
            slice_.change("painting", documents[key], code=f"new{key}")
            observe(instance, slice_, users[key])
        run(instance, "cyd", "cyd", RECORDS)
    with open_dagster(ROOT, tmp_path, settings, Screen()) as dagster:
        dagster.wait_until_loaded(PATIENCE)

        def ask(asset: dg.AssetKey, key: str) -> tuple[str, list[tuple[str, str]]]:
            variables = {"key": {"path": list(asset.path)}, "partition": key}
            answer = httpx.post(
                f"{dagster.url}/graphql", json={"query": STALE, "variables": variables}, timeout=PATIENCE
            )
            node = answer.raise_for_status().json()["data"]["assetNodeOrError"]
            return node["staleStatus"], [("/".join(c["key"]["path"]), c["reason"]) for c in node["staleCauses"]]

        behind = [("mongo/paintings", "has a new data version")]
        assert {key: ask(RECORDS, key) for key in KEYS} == {
            "ada": ("FRESH", []),
            "bea": ("STALE", behind),
            "cyd": ("FRESH", []),
            "dan": ("MISSING", []),
        }
        # A records run makes what it lacks: the same picture, so that the renditions of cyd are only seen as old.
        assert ask(THUMBNAILS, "ada") == ("FRESH", [])
        assert ask(THUMBNAILS, "bea") == ("STALE", behind)
