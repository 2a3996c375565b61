"""Data versions in events: what an operator reads from "Unsynced" rests on these tags.

That Dagster takes them as meant is shown on a running one in `integration/test_dagster_stale.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from ac_pipeline.defs.assets.catalog import source_key
from ac_pipeline.errors import AccountInactive, ServerFailed
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror
from ac_pipeline_tests.unit.defs.site import KEYS, MOODS, PAINTINGS, RECORDS, THUMBNAILS, Site

SOURCE = source_key(media_type("painting"))
VERSION = "dagster/data_version"


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance, mirror, KEYS)


def observations(site: Site, asset: dg.AssetKey = SOURCE) -> list[tuple[str | None, str | None]]:
    """Partition and data version of each observation, oldest first."""
    found = site.instance.fetch_observations(asset, limit=100, ascending=True).records
    return [
        (each.partition_key, (each.asset_observation.tags or {}).get(VERSION))
        for each in found
        if each.asset_observation
    ]


def made(site: Site, asset: dg.AssetKey, key: str) -> dict[str, str]:
    """Tags of the last materialisation of a partition."""
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
    (record,) = site.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return dict(record.asset_materialization.tags or {})


def last_id(site: Site, asset: dg.AssetKey, key: str, *, observed: bool = False) -> str:
    fetch = site.instance.fetch_observations if observed else site.instance.fetch_materializations
    (record,) = fetch(dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1).records
    return str(record.storage_id)


def test_each_partition_of_a_range_carries_the_version_of_its_own_records(site: Site, mirror: ScriptedMirror) -> None:
    mirror.documents.update(ada="one", bea="two")
    assert site.run(*RECORDS).success
    assert made(site, PAINTINGS, "ada")[VERSION] == "one-records"
    assert made(site, PAINTINGS, "bea")[VERSION] == "two-records"
    assert made(site, MOODS, "bea")[VERSION] == "two-records"
    assert site.run(THUMBNAILS).success
    assert made(site, THUMBNAILS, "ada")[VERSION] == "renditions"


def test_documents_are_observed_when_first_seen_and_when_they_changed_and_not_again(
    site: Site, mirror: ScriptedMirror
) -> None:
    """An event costs milliseconds: none for a user in whom nothing changed."""
    site.run(PAINTINGS)
    assert sorted(observations(site)) == [(key, "documents") for key in KEYS]
    site.run(PAINTINGS)
    site.run(THUMBNAILS)
    assert len(observations(site)) == 4
    mirror.documents["bea"] = "changed"
    site.run(PAINTINGS)
    assert observations(site)[4:] == [("bea", "changed")]
    assert site.observed(SOURCE)["bea"] == {"documents": 2, "eligible": 2, "withdrawn": 0, "invalid": 0}


def test_a_materialisation_names_the_very_observation_it_was_made_from(site: Site, mirror: ScriptedMirror) -> None:
    """Left to Dagster, what a step has observed for itself would make what it then writes stale at once."""
    site.run(PAINTINGS)
    mirror.documents["bea"] = "changed"
    site.run(PAINTINGS)
    for key, version in (("ada", "documents"), ("bea", "changed")):
        tags = made(site, PAINTINGS, key)
        assert tags["dagster/input_data_version/mongo/paintings"] == version
        assert tags["dagster/input_event_pointer/mongo/paintings"] == last_id(site, SOURCE, key, observed=True)


def test_a_user_who_fails_has_changed_documents_and_the_old_materialisation(site: Site, mirror: ScriptedMirror) -> None:
    """RUN-1: that is what shows as behind."""
    site.run(PAINTINGS)
    before = made(site, PAINTINGS, "bea")
    mirror.documents["bea"] = "changed"
    mirror.trouble("bea", *[ServerFailed("502") for _ in range(9)])
    assert not site.run(PAINTINGS).success
    assert made(site, PAINTINGS, "bea") == before
    assert observations(site)[-1] == ("bea", "changed")


def test_a_record_names_the_rendition_it_was_made_from(site: Site) -> None:
    site.run(THUMBNAILS)
    site.run(PAINTINGS)
    tags = made(site, PAINTINGS, "ada")
    assert tags["dagster/input_event_pointer/renditions/painting_thumbnails"] == last_id(site, THUMBNAILS, "ada")
    assert tags["dagster/input_data_version/renditions/painting_thumbnails"] == "renditions"


def test_what_a_records_run_renders_along_the_way_is_a_materialisation_of_the_renditions(
    site: Site, mirror: ScriptedMirror
) -> None:
    """Their asset is not behind for ever because nobody launches it: once for each new set of blobs."""
    site.run(PAINTINGS)
    assert site.green(THUMBNAILS) == set(KEYS)
    assert "makes what its records lack" in site.said(THUMBNAILS, "ada")["made_by"]
    first = last_id(site, THUMBNAILS, "ada")
    site.run(PAINTINGS)
    assert last_id(site, THUMBNAILS, "ada") == first
    mirror.renditions["ada"] = "another picture"
    site.run(PAINTINGS)
    assert made(site, THUMBNAILS, "ada")[VERSION] == "another picture"
    assert made(site, PAINTINGS, "ada")["dagster/input_event_pointer/renditions/painting_thumbnails"] == last_id(
        site, THUMBNAILS, "ada"
    )


def test_one_user_in_one_run_of_both_stages_has_both_with_versions(site: Site) -> None:
    """RUN-7: the second stage waits for a result of the first."""
    assert site.run_one("ada", THUMBNAILS, PAINTINGS).success
    assert made(site, THUMBNAILS, "ada")[VERSION] == "renditions"
    assert made(site, PAINTINGS, "ada")[VERSION] == "documents-records"


def test_a_range_in_one_run_of_both_stages_skips_nothing(site: Site) -> None:
    """Dagster skips a step that waits for one without results; over a range those have no versions of their own."""
    assert site.run(THUMBNAILS, PAINTINGS).success
    assert site.green(THUMBNAILS) == site.green(PAINTINGS) == set(KEYS)
    assert site.said(THUMBNAILS, "bea")["documents"] == 2


def test_of_a_blocked_account_only_the_documents_have_a_version(site: Site, mirror: ScriptedMirror) -> None:
    """ACCT-1: nothing was written, and that is not another version of it."""
    mirror.blocked["ada"] = AccountInactive("deactivated")
    site.run(PAINTINGS)
    assert ("ada", "documents-blocked") in observations(site)
    assert VERSION not in made(site, PAINTINGS, "ada")


def test_a_key_without_an_account_has_no_version(site: Site, mirror: ScriptedMirror) -> None:
    del mirror.known["bea"]
    site.run(PAINTINGS)
    assert made(site, PAINTINGS, "bea") == {}
