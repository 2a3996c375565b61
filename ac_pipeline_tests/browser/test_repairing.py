"""What an operator does when the cause of a failure is gone: the item again, or who failed of a backfill again."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline_tests.browser.conftest import MILLISECONDS, PAINTINGS, Shoot, Stage, picture_of
from ac_pipeline_tests.harness import USER_BUCKET

SLUG = "2025.11.03.10.00.00.000"

pytestmark = pytest.mark.browser


def retry_in_the_launchpad(stage: Stage, page: Page, config: str) -> None:
    """The job, Launchpad, its config, Launch Run; returns when the run has succeeded."""
    page.goto(f"{stage.dagster.url}/locations/ac_pipeline/jobs/retry_items")
    page.get_by_role("tab", name="Launchpad", exact=True).click()
    launch = page.get_by_role("button", name="Launch Run")
    expect(launch).to_be_enabled()  # the config is there with its defaults, and is found to be right
    page.get_by_text("all_failed: false").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(f"ops:\n  retry_failed_items:\n    config:\n      {config}\n")
    expect(page.get_by_text("all_failed: false")).to_be_hidden()
    expect(launch).to_be_enabled()
    launch.click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=MILLISECONDS)


@pytest.mark.parametrize(
    ("who", "code", "config"),
    [("fern", "fe9", 'items: ["painting:fe9"]'), ("emil", "em9", "error_class: source-missing")],
    ids=["item", "error-class"],
)
def test_an_item_is_run_again_from_the_launchpad_when_its_source_is_there(  # noqa: PLR0917 - fixtures
    stage: Stage, page: Page, shoot: Shoot, who: str, code: str, config: str
) -> None:
    """OPS-3: quarantined until somebody asks; then exactly it is published, and no other failed item is tried."""
    user = stage.platform.pipeline.accounts.find(who)
    item = stage.painting(user, code, SLUG, picture=None)
    id = item.partition(":")[2]
    stage.platform.sync(user)
    lost = stage.platform.entry("painting", id)
    assert (lost.state, lost.failure and lost.failure.error_class) == (State.QUARANTINED, "source-missing")
    before = stage.platform.listed(user, "painting")
    others = attempts(stage, item)

    stage.objects.put(USER_BUCKET, picture_of(user, SLUG), pixel_art(64, 48, seed=7))
    retry_in_the_launchpad(stage, page, config)
    shoot(page, "retried")
    after = stage.platform.listed(user, "painting")
    (rkey,) = set(after) - set(before)
    assert (after[rkey][1]["ref"], after[rkey][1]["code"]) == (id, code)
    assert {key: after[key] for key in before} == before
    assert stage.platform.entry("painting", id).state is State.WRITTEN
    assert attempts(stage, item) == others


def attempts(stage: Stage, apart_from: str) -> dict[str, int]:
    """How often each quarantined item was tried."""
    found = stage.platform.pipeline.ledger.find(states={State.QUARANTINED})
    return {entry.item: entry.attempts for entry in found if entry.item != apart_from}


def test_who_failed_of_a_backfill_is_run_again_from_its_page_and_nobody_else(
    stage: Stage, page: Page, shoot: Shoot
) -> None:
    """RUN-1, RUN-5: storage that does not answer turns one user red; when it does, one click is enough."""
    platform = stage.platform
    gwen, hugo = platform.pipeline.accounts.find("gwen"), platform.pipeline.accounts.find("hugo")
    new = {user.key: stage.painting(user, f"{user.key[:2]}9", SLUG, pixel_art(64, 48)) for user in (gwen, hugo)}
    stage.objects.fail(USER_BUCKET, picture_of(gwen, SLUG), 503)
    backfill = stage.dagster.launch_backfill([PAINTINGS], ["gwen", "hugo"])
    assert stage.dagster.finish(backfill).status == "COMPLETED_FAILED"
    assert stage.dagster.partitions(PAINTINGS).failed == {"gwen"}
    done = platform.listed(hugo, "painting")
    assert {f"painting:{record['ref']}" for _, record in done.values()} > {new["hugo"]}

    stage.objects.heal(USER_BUCKET, picture_of(gwen, SLUG))
    page.goto(f"{stage.dagster.url}/runs/b/{backfill}")
    page.get_by_role("button", name="expand_more", exact=True).click()
    page.get_by_role("menuitem", name="Re-execute from failure").click()
    expect(page.get_by_text("Created backfill")).to_be_visible()
    page.get_by_text("View", exact=True).click()
    expect(page).to_have_url(re.compile(rf"/runs/b/(?!{backfill})\w+"))
    again = page.url.rpartition("/")[2]
    shoot(page, "re-executed")
    assert stage.dagster.finish(again).succeeded
    keys = stage.dagster.partition_keys(PAINTINGS)
    (run,) = stage.dagster.runs(again)
    assert run.keys(keys) == ["gwen"]
    assert not stage.dagster.partitions(PAINTINGS).failed
    assert new["gwen"] in {f"painting:{record['ref']}" for record in platform.records(gwen, "painting").values()}
    assert platform.listed(hugo, "painting") == done
