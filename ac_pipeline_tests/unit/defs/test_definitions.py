"""The code location: what it holds, and that it loads anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.definitions import build_defs, defs, where_runs_write
from ac_pipeline.defs.assets.catalog import (
    CHANGED,
    POOL_LIMITS,
    RECORDS_A_RUN,
    RENDITIONS,
    RENDITIONS_A_RUN,
    records_key,
    rendition_key,
)
from ac_pipeline.defs.sensors.content import NEW_CONTENT_SENSOR
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.catalog import operations
from ac_pipeline_tests.dagster_instance import open_instance

ROOT = Path(__file__).parents[3]
GRAPH = defs.resolve_asset_graph()
TYPES = ("kidlisp", "moods", "paintings", "pieces", "tapes")


def test_the_asset_keys_are_those_of_the_design() -> None:
    """Design, section 3."""
    assert {key.to_user_string() for key in GRAPH.get_all_asset_keys()} == {
        *(f"mongo/{name}" for name in TYPES),
        *(f"atproto/{name}" for name in TYPES),
        "renditions/painting_thumbnails",
        "renditions/tape_videos",
        "mirror/totals",
        "operations/failed_items",
        "operations/flight_plan",
        "operations/verification",
        *(f"operations/{each.job}" for each in operations() if each.job and not each.asset),
    }


def test_groups_follow_the_flow_and_what_is_of_users_is_partitioned_by_them() -> None:
    groups = {"mongo": "documents", "renditions": "renditions", "atproto": "records", "mirror": "derived"}
    for key in GRAPH.get_all_asset_keys():
        node = GRAPH.get(key)
        if key == dg.AssetKey(["operations", "failed_items"]):
            assert node.group_name == "derived"
        else:
            assert node.group_name == groups.get(key.path[0], "operations")
        assert (node.partitions_def is not None) == (key.path[0] in {"mongo", "renditions", "atproto"})
        assert node.description
        assert node.owners == ["team:aesthetic-computer"]
        assert node.kinds


def test_boxes_tell_source_from_target() -> None:
    for media in MEDIA_TYPES:
        assert str(GRAPH.get(dg.AssetKey(["mongo", media.plural])).description).startswith("Source: documents of the ")
        assert str(GRAPH.get(records_key(media)).description).startswith("Target: records of the ")


def test_records_have_the_fields_of_their_lexicon_as_columns() -> None:
    lexicons = load_lexicons()
    for media in MEDIA_TYPES:
        schema = GRAPH.get(records_key(media)).metadata["dagster/column_schema"]
        fields = lexicons.documents[media.nsid]["defs"]["main"]["record"]
        assert [column.name for column in schema.columns] == list(fields["properties"])
        assert {column.name for column in schema.columns if not column.constraints.nullable} == set(fields["required"])


def test_totals_and_the_verification_tell_when_they_are_old() -> None:
    """OPER-4."""
    specs = {each.key.to_user_string(): each for each in defs.resolve_all_asset_specs()}
    for name in ("mirror/totals", "operations/verification"):
        assert specs[name].freshness_policy is not None


def test_every_type_with_derived_media_has_one_rendition_asset_that_its_records_depend_on() -> None:
    assert [media for media, _ in RENDITIONS.values()] == [media for media in MEDIA_TYPES if media.recipe is not None]
    for media in MEDIA_TYPES:
        parents = {key.to_user_string() for key in GRAPH.get(records_key(media)).parent_keys}
        made = rendition_key(media)
        assert parents == {f"mongo/{media.plural}", *([made.to_user_string()] if made else [])}


def test_assets_that_depend_on_one_another_never_share_a_policy_size() -> None:
    """RUN-1: a backfill would run them together and skip the later stage of a whole range."""
    for key in GRAPH.materializable_asset_keys:
        for parent in GRAPH.get(key).parent_keys & GRAPH.materializable_asset_keys:
            assert GRAPH.get(key).backfill_policy != GRAPH.get(parent).backfill_policy


def test_a_full_backfill_of_4201_users_needs_fewer_than_a_hundred_runs() -> None:
    """RUN-3: the daemon puts assets into one run that have one policy and wait for the same stage."""
    groups = set()
    for key in GRAPH.materializable_asset_keys:
        policy = GRAPH.get(key).backfill_policy
        assert policy is not None
        assert policy.max_partitions_per_run is not None
        groups.add((policy.max_partitions_per_run, bool(GRAPH.get(key).parent_keys & GRAPH.materializable_asset_keys)))
    assert groups == {(360, False), (180, False), (180, True)}
    assert sum(-(-4_201 // size) for size, _ in groups) == 60
    # Records are asked for as each run of renditions ends, paintings and tapes apart when the daemon looks in between.
    assert RENDITIONS_A_RUN % RECORDS_A_RUN == 0
    assert -(-4_201 // RENDITIONS_A_RUN) + 3 * -(-4_201 // RECORDS_A_RUN) == 84


def test_sensors_and_schedules_are_stopped_until_somebody_starts_them() -> None:
    repository = defs.get_repository_def()
    # What looks after runs writes nothing but their state.
    running = {each.name for each in repository.sensor_defs if each.default_status is dg.DefaultSensorStatus.RUNNING}
    assert running == {"abandoned_runs_sensor"}
    assert all(each.default_status is dg.DefaultScheduleStatus.STOPPED for each in repository.schedule_defs)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["api", "grpc"]], ids=["import", "code server"])
def test_the_code_location_loads_in_a_fresh_interpreter_with_an_empty_environment(
    tmp_path: Path, arguments: list[str]
) -> None:
    """No setting is read, nothing is connected, no warning is given; a step or tick reads the settings. A code server
    says where its runs write, who only imports the definitions is told nothing."""
    program = (
        "import dagster as dg, ac_pipeline.definitions as location;"
        "dg.Definitions.validate_loadable(location.defs);"
        "print(len(location.defs.get_repository_def().asset_graph.get_all_asset_keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(len(GRAPH.get_all_asset_keys())))
    said = [line.partition(": set them in")[0] for line in done.stderr.splitlines()]
    server = "ac_pipeline: runs cannot work: MONGODB_CONNECTION_STRING and MONGODB_NAME are not set"
    assert said == ([server] if arguments else [])


def test_a_missing_setting_fails_the_run_in_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONGODB_CONNECTION_STRING", "MONGODB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with open_instance() as instance:
        instance.add_dynamic_partitions("users", ["ada"])
        job = build_defs().resolve_job_def("sync_users")
        result = job.execute_in_process(instance=instance, partition_key="ada", raise_on_error=False)
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "MONGODB_CONNECTION_STRING and MONGODB_NAME are not set" in str(failure.user_failure_data.description)
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_a_run_and_the_code_location_say_where_they_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GUARD-4: also a run that fails at once, and without credentials."""
    monkeypatch.setenv("MONGODB_CONNECTION_STRING", "mongodb://user:hunter2@127.0.0.1:1")
    monkeypatch.setenv("MONGODB_NAME", "platform")
    monkeypatch.setenv("PDS_URL", "https://pds.example")
    monkeypatch.setenv("AC_MONGO_TIMEOUT_SECONDS", "0.05")
    monkeypatch.chdir(tmp_path)
    where = "PDS pds.example and database platform at 127.0.0.1:1 (ledger: platform-pipeline)."
    assert where_runs_write() == f"runs work on {where}"
    with open_instance() as instance:
        result = (
            build_defs().resolve_job_def("list_accounts").execute_in_process(instance=instance, raise_on_error=False)
        )
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert f"This run works on {where}" in said
    assert "hunter2" not in str(said)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "says"), [("sync", True), ("links", True), ("status", False)])
def test_a_command_that_may_write_says_where(tmp_path: Path, command: str, says: bool) -> None:
    """GUARD-4."""
    done = subprocess.run(
        [sys.executable, "-m", "ac_pipeline.cli", command],
        cwd=tmp_path,
        env={
            "MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1",
            "MONGODB_NAME": "platform",
            "PDS_URL": "https://pds.example",
            "AC_MONGO_TIMEOUT_SECONDS": "0.05",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    where = "Works on PDS pds.example and database platform at 127.0.0.1:1 (ledger: platform-pipeline).\n"
    assert done.returncode == 3
    assert done.stderr.startswith(where) is says
    assert "Works on" not in done.stdout
    assert "MongoDB at 127.0.0.1:1 does not answer" in done.stderr


def test_the_workspace_and_the_instance_are_read_by_dagster_as_they_are_meant(
    tmp_path: Path,
) -> None:
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"] == {
        "module_name": "ac_pipeline.definitions", "attribute": "defs", "location_name": "ac_pipeline",
    }  # fmt: skip
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with open_instance(tmp_path) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert instance.run_monitoring_enabled


def test_new_content_always_finds_a_place_beside_backfills() -> None:
    """DEL-1: its own pool, and more places for runs than all other pools together fill."""
    runs = yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]
    limits = {(each["key"], each.get("value")): each["limit"] for each in runs["tag_concurrency_limits"]}
    places = runs["max_concurrent_runs"]
    assert sum(limit for pool, limit in POOL_LIMITS.items() if pool != CHANGED) < places
    assert limits["dagster/backfill", None] == places - 1
    assert limits["dagster/sensor_name", NEW_CONTENT_SENSOR] <= POOL_LIMITS[CHANGED]
    assert NEW_CONTENT_SENSOR in {each.name for each in defs.get_repository_def().sensor_defs}
