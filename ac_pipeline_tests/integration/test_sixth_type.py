"""A sixth media type: one module and its lexicon, in a package of their own, and everything else follows by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline_tests.harness import USER_BUCKET, WHEN, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

PACKAGE = Path(__file__).parent / "sixth_type"
NSID = "computer.aesthetic.post"

_DAGSTER = """
import json
import dagster as dg
from ac_pipeline.definitions import build_defs
from ac_pipeline_tests.dagster_instance import open_instance

job = build_defs(retry_seconds=0).resolve_implicit_global_asset_job_def()
graph = job.asset_layer.asset_graph
ours = [key for key in graph.get_all_asset_keys() if "post" in key.path[-1]]
said = {"checks": sorted(key.name for key in graph.asset_check_keys if key.asset_key in ours), "assets": {}}
said["peers"] = sorted(key.name for key in graph.asset_check_keys if key.asset_key.path == ["atproto", "paintings"])
with open_instance() as instance:
    instance.add_dynamic_partitions("users", ["ada"])
    for key in sorted(ours, reverse=True):  # renditions before records
        said["assets"][key.to_user_string()] = None
        if graph.get(key).is_executable:
            job.execute_in_process(
                instance=instance, asset_selection=[key], partition_key="ada", raise_on_error=False
            )
            event = instance.get_latest_materialization_event(key).asset_materialization
            numbers = {name: value.value for name, value in event.metadata.items() if isinstance(value.value, int)}
            said["assets"][key.to_user_string()] = numbers
print(json.dumps(said))
"""

Python = Callable[..., tuple[int, str]]


@pytest.fixture
def python(cli: Run, tmp_path: Path) -> Python:
    """Run Python as where the package is installed; exit code and what it printed on stdout."""
    site = tmp_path / "site"
    site.mkdir()
    site.joinpath("sixth_type").symlink_to(PACKAGE)
    site.joinpath("sixth_type-1.0.dist-info").mkdir()
    named = "[ac_pipeline.media_types]\npost = sixth_type.post:POST\n"
    site.joinpath("sixth_type-1.0.dist-info", "entry_points.txt").write_text(named)
    environment = {**os.environ, "PYTHONPATH": str(site), "AC_SILENT_DAYS": "0"}

    def call(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    return call


def records(slice_: Slice, account: Account) -> dict[str, dict[str, Any]]:
    """The posts that a client which is not ours reads: the document's id -> record."""
    query = {"repo": str(account.did), "collection": NSID}
    answer = httpx.get(f"{slice_.pds.url}/xrpc/com.atproto.repo.listRecords", params=query).raise_for_status()
    return {each["value"]["ref"]: each["value"] for each in answer.json()["records"]}


def test_a_type_of_another_package_is_rendered_written_checked_verified_and_wiped(
    python: Python, slice_: Slice, object_server: ObjectServer
) -> None:
    ada, bea = slice_.user("ada"), slice_.user("bea")
    posts = slice_.database["posts"]

    def post(owner: Account, **fields: Any) -> str:
        id = ObjectId()
        object_server.put(USER_BUCKET, f"{owner.id}/post/{id}.png", pixel_art(24, 16))
        posts.insert_one({"_id": id, "user": owner.id, "when": WHEN, "slug": str(id), **fields})
        return str(id)

    first = post(ada, title="First", text="Hello")
    nameless = post(ada, text="no title")
    post(ada, title="Gone", nuked=True)

    code, out = python("-c", _DAGSTER)
    said = json.loads(out)
    assert code == 0
    assert said["checks"] == said["peers"] != []
    assert sorted(said["assets"]) == ["atproto/posts", "mongo/posts", "renditions/post_thumbnails"]
    assert said["assets"]["renditions/post_thumbnails"]["made"] == 1
    written = said["assets"]["atproto/posts"]
    assert (written["created"], written["quarantined"], written["withdrawn"]) == (1, 1, 1)
    (record,) = records(slice_, ada).values()
    assert (record["ref"], record["title"], record["text"]) == (first, "First", "Hello")
    assert record["thumbnail"]["mimeType"] == "image/png"

    second = post(bea, title="Second")

    def command(*arguments: str) -> tuple[int, Any]:
        code, out = python("-m", "ac_pipeline.cli", *arguments, "--json")
        return code, json.loads(out)

    code, report = command("sync", "--type", "post")
    assert code == 1  # the nameless one is quarantined
    assert {name: report["types"]["post"][name] for name in ("created", "unchanged", "quarantined")} == {
        "created": 1,
        "unchanged": 1,
        "quarantined": 1,
    }
    assert list(records(slice_, bea)) == [second]
    assert command("item", f"post:{nameless}")[1][0]["state"] == "quarantined"

    code, verified = command("verify", "--type", "post")
    assert (code, verified["expected"], verified["verified"], verified["blobs"]["verified"]) == (0, 2, 2, 2)

    assert command("wipe", "ada", "--type", "post", "--confirm", "1")[0] == 0
    assert records(slice_, ada) == {}
    assert list(records(slice_, bea)) == [second]
    assert python("-m", "ac_pipeline.cli", "sync", "--type", "poster")[0] == 2
