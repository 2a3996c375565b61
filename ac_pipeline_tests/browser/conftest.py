"""The stage of the browser tests: a platform with some users, a real Dagster on it, and a Chromium before it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pymongo import MongoClient

from ac_pipeline.accounts import Account
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline_tests.conftest import MongoServer, Pds
from ac_pipeline_tests.dagster_home import PATIENCE, QUICK, QUICK_ENVIRONMENT, DagsterHome, Ui
from ac_pipeline_tests.harness import USER_BUCKET, Slice, open_slice
from ac_pipeline_tests.scripted_storage import ObjectServer

MILLISECONDS = 1000 * PATIENCE
SIZE = (1440, 900)
PAINTINGS = ["atproto", "paintings"]

Shoot = Callable[[Page, str], None]

_CLICK = 60_000.0
"""Milliseconds for a page to show what a click leads to; a second is usual."""
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
        objects: The object storage, to break and to repair.
        broken: Item id of the one painting whose picture cannot be read; it is `bob`'s.
    """

    platform: Slice
    dagster: Ui
    objects: ObjectServer
    broken: str

    def painting(self, user: Account, code: str, slug: str, picture: bytes | None) -> str:
        """One more painting of a user, with its picture where there is one; its item id."""
        if picture is not None:
            self.objects.put(USER_BUCKET, picture_of(user, slug), picture)
        return f"painting:{self.platform.add('painting', user, code=code, slug=slug)}"


def picture_of(user: Account, slug: str) -> str:
    """Where the object storage has the picture of a painting."""
    return f"{user.id}/painting/{slug}.png"


@pytest.fixture(scope="session")
def stage(mongo_server: MongoServer, pds: Pds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Some users with work of all types, one broken painting, and a Dagster that knows them all by their keys."""
    folder = tmp_path_factory.mktemp("browser")
    name = f"browser-{uuid.uuid4().hex}"
    with (
        MongoClient(mongo_server.uri) as client,
        ObjectServer() as objects,
        open_slice(client[name], mongo_server.uri, pds, objects.url_template, folder) as platform,
    ):
        broken = _people(platform, objects)
        settings = platform.pipeline.settings.model_copy(update={"dagster_home": folder / "home"})
        with DagsterHome(settings, retry_seconds=0, changes=QUICK, variables=QUICK_ENVIRONMENT) as home:
            dagster = home.start()
            dagster.start_sensor("users_sensor")
            keys = {account.key for account in platform.pipeline.accounts.all()}
            dagster.wait_for_keys(["atproto", "paintings"], keys, PATIENCE)
            yield Stage(platform, dagster, objects, broken)
        client.drop_database(name)


def _people(platform: Slice, objects: ObjectServer) -> str:
    """Users of whom each has some of everything but tapes; `bob` has a painting that is none, `ada` a tape."""
    broken = ""
    for handle in ("ada", "bob", "cleo", "dora", "emil", "fern", "gwen", "hugo"):
        user = platform.user(handle)
        for number in range(3):
            slug = f"2025.10.15.12.30.4{number}.123"
            objects.put(USER_BUCKET, picture_of(user, slug), pixel_art(64, 48, seed=len(handle) + number))
            platform.add("painting", user, code=f"{handle[:2]}{number}", slug=slug)
            platform.add("mood", user, mood=f"{handle} feels {number}")
            platform.add("kidlisp", user, code=f"{handle[:2]}{number}", source=f"(wipe blue) ; {handle} {number}")
        platform.add("piece", user, slug=f"{handle}-wand")
        if handle == "bob":
            slug = "2025.11.01.08.00.00.000"
            objects.put(USER_BUCKET, picture_of(user, slug), b"not a picture")
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
    context.set_default_timeout(_CLICK)
    expect.set_options(timeout=_CLICK)
    yield context.new_page()
    context.close()


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Take a picture of a page: into the folder that `SCREENSHOTS` names, else only for this run."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"{name}.png")

    return take
