"""An operator's way through the UI: type keys, launch a backfill, watch it end, find the item that failed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS, run_config
from ac_pipeline.items import State
from ac_pipeline.local.dagster_ui import SUCCEEDED
from ac_pipeline_tests.browser.conftest import MILLISECONDS, PAINTINGS, SIZE, Shoot, Stage

TYPED = ("ada", "bob", "cleo")

pytestmark = pytest.mark.browser


def choose_partitions(page: Page, keys: tuple[str, ...]) -> None:
    """Type each key into the launch dialog's filter and tick the one line that is left."""
    page.get_by_text("Select a partition or create one").click()
    for key in keys:
        page.get_by_placeholder("Filter partitions").fill(key)
        page.locator("[role=menuitem]", has=page.get_by_text(key, exact=True)).locator("label").click()
    page.keyboard.press("Escape")


def row_of(page: Page, code: str) -> Locator:
    """The item's row in a table of failed items, which begins with its code."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=code, exact=True)).last


def test_a_backfill_of_three_typed_users_leads_to_the_item_that_failed(stage: Stage, page: Page, shoot: Shoot) -> None:
    """RUN-1, RUN-2, RUN-7, OPS-2: what was asked for is done, nothing else; the failed item is three clicks away."""
    untouched = stage.platform.pipeline.accounts.find("dora")
    moods = stage.platform.records(untouched, "mood")
    green = stage.dagster.partitions(PAINTINGS).materialised | set(TYPED)
    page.goto(f"{stage.dagster.url}/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    choose_partitions(page, TYPED)
    page.get_by_role("button", name="Launch backfill").click()
    page.get_by_text("Created backfill").wait_for()
    page.get_by_text("View", exact=True).click()
    expect(page).to_have_url(re.compile(r"/runs/b/\w+"))
    expect(page.get_by_text("In progress", exact=True)).to_have_count(1, timeout=MILLISECONDS)  # the column is left
    expect(page.get_by_text("100% completed")).to_have_count(7)
    shoot(page, "backfill")

    page.goto(f"{stage.dagster.url}/asset-groups")
    for group in ("documents", "renditions", "records", "derived"):
        expect(page.get_by_text(group, exact=True).last).to_be_visible()
    shoot(page, "lineage")

    page.goto(f"{stage.dagster.url}/assets/atproto/paintings?view=partitions")
    expect(page.get_by_text(f"Materialized ({len(green)})")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    page.get_by_text("bob", exact=True).first.click()
    row = row_of(page, "bad")
    expect(row).to_contain_text("unreadable-media")
    expect(row).to_contain_text("launch retry_items")
    assert fits(page, row)
    links = page.get_by_role("row", name="failed_items_links")
    expect(links.get_by_role("link", name="page")).to_have_attribute("href", "https://aesthetic.computer/#bad")
    expect(page.get_by_role("row", name="failed_items_timelines")).to_contain_text("quarantined")
    shoot(page, "partitions")
    row.scroll_into_view_if_needed()
    shoot(page, "failed-items")

    synced = [platform_user for platform_user in stage.platform.pipeline.accounts.all() if platform_user.key in TYPED]
    records = {user.key: len(stage.platform.records(user, "painting")) for user in synced}
    assert records == dict.fromkeys(TYPED, 3)
    assert stage.platform.entry("painting", stage.broken.partition(":")[2]).state is State.QUARANTINED
    assert stage.platform.records(untouched, "mood") == moods


def fits(page: Page, row: Locator) -> bool:
    """True if a row ends within the page (OPER-2)."""
    box = row.bounding_box()
    return box is not None and box["x"] + box["width"] <= SIZE[0]


def test_the_check_names_the_quarantined_item(stage: Stage, page: Page, shoot: Shoot) -> None:
    """OPS-1, OPS-2: a person finds from the asset's check which item has to be looked at."""
    run = stage.dagster.launch_job(SYNC_CHANGED_USERS, run_config(["bob"]))  # sooner done than a backfill
    assert stage.dagster.wait_for_run(run, lambda line: None) == SUCCEEDED
    page.goto(f"{stage.dagster.url}/assets/atproto/paintings?view=checks&checkDetail=no_quarantined_items")
    expect(page.get_by_text("Failed").first).to_be_visible()
    expect(row_of(page, "bad")).to_contain_text("bob")
    assert fits(page, row_of(page, "bad"))
    shoot(page, "check")


def test_totals_and_failed_items_answer_at_a_glance(stage: Stage, page: Page, shoot: Shoot) -> None:
    """OPER-2, OPER-4: what failed and why stands on one page of all users; the numbers are plotted over time."""
    for user in ("bob", "cleo", "emil"):
        for run in (SYNC_CHANGED_USERS, run_config([user])), ("count_mirror", None):
            assert stage.dagster.wait_for_run(stage.dagster.launch_job(*run), lambda _: None) == SUCCEEDED
    page.goto(f"{stage.dagster.url}/assets/operations/failed_items")
    row = page.get_by_role("row", name="painting:bad")
    expect(row).to_contain_text("bob")
    expect(row).to_contain_text("launch retry_items")
    assert fits(page, row)
    shoot(page, "all-failed-items")
    page.goto(f"{stage.dagster.url}/assets/mirror/totals")
    page.get_by_role("button", name="Plots").click()
    page.get_by_text("pending", exact=True).first.scroll_into_view_if_needed()
    expect(page.get_by_text("records", exact=True).first).to_be_visible()
    shoot(page, "totals")


def test_the_partition_of_a_blocked_user_does_not_look_like_one_that_is_well(
    stage: Stage, page: Page, shoot: Shoot
) -> None:
    """SEEN-1: no backfill fails for it; it is shown as behind and begins with the reason."""
    dora = stage.platform.pipeline.accounts.find("dora")
    users = stage.platform.database["users"]
    users.update_one({"_id": dora.id}, {"$unset": {"atproto.password": ""}})
    try:
        backfill = stage.dagster.launch_backfill([["atproto", "moods"]], ["dora"])
        assert stage.dagster.finish(backfill).succeeded
        page.goto(f"{stage.dagster.url}/assets/atproto/moods?view=partitions&partition=dora")
        expect(page.get_by_text("Unsynced").first).to_be_visible()
        expect(page.get_by_role("row", name="status").first).to_contain_text("blocked")
        expect(page.get_by_role("row", name="blocked_reason")).to_contain_text("Mongo holds no password")
        shoot(page, "blocked")
    finally:
        users.update_one({"_id": dora.id}, {"$set": {"atproto.password": dora.password}})
