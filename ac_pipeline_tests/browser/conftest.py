"""The stage of the browser tests: a platform with some users, a real Dagster on it, and a Chromium before it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from pymongo import MongoClient

from ac_pipeline.local.artwork import pixel_art, tape_zip
from ac_pipeline.local.dagster_ui import DagsterUi
from ac_pipeline.local.demo import demo_settings, open_dagster
from ac_pipeline.local.demo_screen import Screen
from ac_pipeline.local.object_server import ObjectServer
from ac_pipeline.local.services import Addresses
from ac_pipeline_tests.conftest import MongoServer, Pds
from ac_pipeline_tests.harness import USER_BUCKET, Slice, open_slice

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
"""Seconds for Dagster to load or a backfill to end; 10 and 60 are usual."""
SIZE = (1600, 1000)

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Without a sandbox: tests often run as root, where Chromium refuses to start with one; it only sees our own pages.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a browser test looks at.

    Args:
        platform: The database, the PDS and a pipeline of the test's own between them.
        dagster: The running Dagster.
        broken: Item id of the one painting whose picture cannot be read; it is `bob`'s.
    """

    platform: Slice
    dagster: DagsterUi
    broken: str


@pytest.fixture(scope="session")
def stage(
    mongo_server: MongoServer, pds: Pds, services_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Five users with work of all types, one broken painting, and a Dagster that knows them all by their keys."""
    folder = tmp_path_factory.mktemp("browser")
    with ExitStack() as stack:
        objects = stack.enter_context(ObjectServer())
        client = stack.enter_context(MongoClient(mongo_server.uri))
        database = client[f"browser-{uuid.uuid4().hex}"]
        platform = stack.enter_context(open_slice(database, mongo_server.uri, pds, objects.url_template, folder))
        broken = _people(platform, objects)
        addresses = Addresses(
            mongo_server.uri, database.name, pds.url, pds.admin_password, objects.url_template, folder
        )
        settings = demo_settings(addresses, folder).model_copy(
            update={"ac_renditions_url": platform.pipeline.settings.ac_renditions_url}
        )
        dagster = stack.enter_context(open_dagster(ROOT, folder, settings, Screen()))
        dagster.wait_until_loaded(PATIENCE)
        dagster.start_sensor("users_sensor")
        keys = {account.key for account in platform.pipeline.accounts.all()}
        dagster.wait_for_keys(["atproto", "paintings"], keys, PATIENCE)
        yield Stage(platform, dagster, broken)
    for name in (database.name, f"{database.name}-pipeline"):
        with MongoClient(mongo_server.uri) as client:
            client.drop_database(name)


def _people(platform: Slice, objects: ObjectServer) -> str:
    broken = ""
    for handle in ("ada", "bob", "cleo", "dora", "emil"):
        user = platform.user(handle)
        for number in range(3):
            slug = f"2025.10.15.12.30.4{number}.123"
            objects.put(USER_BUCKET, f"{user.id}/painting/{slug}.png", pixel_art(64, 48, seed=len(handle) + number))
            platform.add("painting", user, code=f"{handle[:2]}{number}", slug=slug)
            platform.add("mood", user, mood=f"{handle} feels {number}")
            platform.add("kidlisp", user, code=f"{handle[:2]}{number}", source=f"(wipe blue) ; {handle} {number}")
        platform.add("piece", user, slug=f"{handle}-wand")
        if handle == "bob":
            slug = "2025.11.01.08.00.00.000"
            objects.put(USER_BUCKET, f"{user.id}/painting/{slug}.png", b"not a picture")
            broken = platform.add("painting", user, code="bad", slug=slug)
        if handle == "ada":
            slug = "2025.11.02.09.00.00.000"
            objects.put(USER_BUCKET, f"{user.id}/{slug}.zip", tape_zip(6, 32, 24))
            platform.add("tape", user, code="tap", slug=slug)
    return f"painting:{broken}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one `AC_CHROMIUM` names."""
    found = next(
        (path for name in (os.environ.get("AC_CHROMIUM"), *_CHROMIUM) if name and (path := shutil.which(name))), None
    )
    if found is None:
        pytest.fail("No Chromium: install Debian's package chromium, or set AC_CHROMIUM to a Chromium's path.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()
