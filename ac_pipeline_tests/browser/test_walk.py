"""Six questions of an operator who has never seen the code: each is answered on one page, three clicks from home."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.assets.totals import COUNT_MIRROR
from ac_pipeline.defs.user_jobs import VERIFY_USERS
from ac_pipeline.local.dagster_ui import SUCCEEDED
from ac_pipeline.operations.plan import run_plan
from ac_pipeline_tests.browser.conftest import SIZE, Shoot, Stage

pytestmark = pytest.mark.browser

MOST = 3
"""Clicks from the home page to an answer (OPER-2)."""


class Walk:
    """A way through the UI, click by click, from its home page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.clicks = 0
        page.goto(url)

    def click(self, what: str) -> Walk:
        """Click on a word."""
        self.page.get_by_text(what, exact=True).first.click()
        self.clicks += 1
        return self

    def asset(self, key: str) -> Walk:
        """Open the catalogue and, in it, an asset; scrolling down is no click."""
        self.click("Catalog")
        link = self.page.locator(f"a[href='/assets/{key}']").first
        self.page.get_by_text("Asset name", exact=True).wait_for()
        self.page.mouse.move(SIZE[0] / 2, SIZE[1] / 2)
        while not link.count():
            self.page.mouse.wheel(0, SIZE[1] / 3)
            self.page.wait_for_timeout(100)
        link.click()
        self.clicks += 1
        return self

    def row(self, name: str, *said: str) -> Walk:
        """A line of the page says this, and it needs no scrolling sideways."""
        row = self.page.get_by_role("row", name=name).first
        for words in said:
            expect(row).to_contain_text(words)
        row.scroll_into_view_if_needed()
        box = row.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= SIZE[0]
        return self


@pytest.fixture(scope="module")
def answered(stage: Stage) -> Iterator[Stage]:
    """Users are synchronised, one is blocked, a painting of another is broken, a mood was removed and one is new; the
    mirror is verified, planned and counted, as the schedules do it."""
    users = stage.platform.database["users"]
    gwen, hugo = (stage.platform.pipeline.accounts.find(name) for name in ("gwen", "hugo"))

    def done(job: str, config: object = None) -> None:
        run = stage.dagster.launch_job(job, config)  # type: ignore[arg-type]
        assert stage.dagster.wait_for_run(run, lambda line: None) == SUCCEEDED

    done(SYNC_CHANGED_USERS, run_config(["bob", "hugo"]))
    mood = stage.platform.database["moods"].find_one_and_update(
        {"user": hugo.id}, {"$set": {"deleted": True, "updatedAt": datetime.now(UTC)}}
    )
    assert mood is not None
    users.update_one({"_id": gwen.id}, {"$unset": {"atproto.password": ""}})
    try:
        done(SYNC_CHANGED_USERS, run_config(["gwen", "hugo"]))
        done(VERIFY_USERS)
        stage.platform.add("mood", hugo, mood="no record yet")
        done(run_plan.job)
        done(COUNT_MIRROR)
        yield stage
    finally:
        users.update_one({"_id": gwen.id}, {"$set": {"atproto.password": gwen.password}})


def test_what_failed_and_why(answered: Stage, page: Page, shoot: Shoot) -> None:
    """OPER-2, OPS-2."""
    walk = Walk(page, answered.dagster.url).asset("operations/failed_items")
    walk.row("painting:bad", "unreadable-media", "launch retry_items", "bob")
    shoot(page, "walk-a-failed")
    assert walk.clicks <= MOST


def test_what_would_be_done_and_what_it_costs(answered: Stage, page: Page, shoot: Shoot) -> None:
    """PLAN-1, OPER-3."""
    walk = Walk(page, answered.dagster.url).asset("operations/flight_plan")
    walk.row("answer", "operations of", "Nothing was written").row("cost", "commits")
    shoot(page, "walk-b-plan")
    assert walk.clicks <= MOST


def test_whether_everyone_is_in_sync_with_the_proof(answered: Stage, page: Page, shoot: Shoot) -> None:
    """VERIFY-12, OPER-4."""
    walk = Walk(page, answered.dagster.url).asset("operations/verification")
    walk.row("answer", "records")
    shoot(page, "walk-c-proof")
    assert walk.clicks <= MOST


def test_who_is_blocked_and_why(answered: Stage, page: Page, shoot: Shoot) -> None:
    """SEEN-1."""
    walk = Walk(page, answered.dagster.url).asset("mirror/totals")
    walk.row("blocked: gwen", "Mongo holds no password")
    shoot(page, "walk-d-blocked")
    assert walk.clicks <= MOST


def test_what_was_deleted_by_whom_and_when(answered: Stage, page: Page, shoot: Shoot) -> None:
    """DEL-6."""
    walk = Walk(page, answered.dagster.url).asset("operations/show_audit")
    walk.row("deleted_items", "hugo", f"{datetime.now(UTC):%Y-%m-%d}")
    shoot(page, "walk-e-deleted")
    assert walk.clicks <= MOST


def test_how_it_has_gone_over_time(answered: Stage, page: Page, shoot: Shoot) -> None:
    """OPER-4."""
    walk = Walk(page, answered.dagster.url).asset("mirror/totals").click("Plots")
    page.get_by_text("pending", exact=True).first.scroll_into_view_if_needed()
    expect(page.get_by_text("records", exact=True).first).to_be_visible()
    shoot(page, "walk-f-plots")
    assert walk.clicks <= MOST
