"""What an operator turns on after the first backfill, and what comes of it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from ac_pipeline_tests.browser.conftest import MILLISECONDS, Shoot, Stage
from ac_pipeline_tests.dagster_home import wait_until

SENSOR = "new_content_sensor"

pytestmark = pytest.mark.browser


def test_new_content_is_mirrored_once_its_sensor_is_turned_on(stage: Stage, page: Page, shoot: Shoot) -> None:
    """RUN-10, RUN-11: nothing happens before; then what a user makes is a record without anybody's doing."""
    user = stage.platform.pipeline.accounts.find("hugo")
    page.goto(f"{stage.dagster.url}/automation")
    page.get_by_role("link", name=SENSOR).click()
    running = page.get_by_role("row", name="Running")
    switch, slider = running.get_by_role("checkbox"), running.locator("label")
    expect(switch).not_to_be_checked()
    slider.click()
    expect(switch).to_be_checked()
    expect(page.get_by_role("row", name="Latest tick")).not_to_contain_text("never run", timeout=MILLISECONDS)

    id = stage.platform.add("mood", user, mood="just now")
    wait_until(
        lambda: id in {record["ref"] for record in stage.platform.records(user, "mood").values()},
        "the new mood is a record",
    )
    page.get_by_role("button", name="Runs", exact=True).click()
    expect(page.get_by_role("link", name="sync_").first).to_be_visible(timeout=MILLISECONDS)
    shoot(page, "sensor")
    slider.click()
    expect(switch).not_to_be_checked()
    wait_until(lambda: not stage.dagster.unfinished_runs(), "what it launched has ended")
