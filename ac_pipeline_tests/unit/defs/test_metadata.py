"""Tables and lists of failed items: what an operator reads and clicks on a partition's page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from ac_pipeline.defs.metadata import LINKED, attempt_line, breakable, escaped, item_entries, run_link, unbroken
from ac_pipeline.errors import ServerFailed
from ac_pipeline.items import Attempt, Stage, State
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import RUN, ScriptedMirror
from ac_pipeline_tests.unit.defs.site import KEYS, PAINTINGS, Site

PAINTING = media_type("painting")
RECORD = (
    "https://pds.example/xrpc/com.atproto.repo.getRecord"
    "?repo=did%3Aplc%3Abea&collection=computer.aesthetic.painting&rkey=1"
)


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance, mirror, KEYS)


def test_a_failed_item_is_linked_with_its_page_its_record_and_the_run_that_last_tried(
    site: Site, mirror: ScriptedMirror
) -> None:
    """OPS-2: one click from the partition's page; the last attempts are those of its timeline."""
    item = mirror.quarantine("bea", PAINTING, "no candidate | is [left]")
    entry = mirror.ledger[item]
    earlier = Attempt(mirror.now - timedelta(days=1), "20260101T000000-abcdef12", Stage.WRITE, State.DEFERRED)
    mirror.ledger[item] = replace(entry, history=(earlier, *entry.history))
    site.run(PAINTINGS)
    said = site.said(PAINTINGS, "bea")
    assert said["failed_items_links"] == (
        f"- abc: [page](https://aesthetic.computer/#abc) · [record]({RECORD}) · last run [6f9619ff](/runs/{RUN})"
    )
    first, links, *timeline = str(said["failed_items_timelines"]).splitlines()
    assert first == (
        r"- **abc** source-missing: no candidate \| is \[left\]. When the file is in storage, launch retry\_items.  "
    )
    assert links == (
        "  [page](https://aesthetic.computer/#abc) · "
        f"[record]({RECORD}) · "
        f"last run [6f9619ff](/runs/{RUN}) · bea · rendition, attempts: 3 · `{item}`"
    )
    assert timeline == [
        "    - 2026-01-01 03:04:05 · `20260101T000000-abcdef12` · write · deferred",
        f"    - 2026-01-02 03:04:05 · [6f9619ff](/runs/{RUN}) · rendition · quarantined · source-missing · "
        r"no candidate \| is \[left\]",
    ]


def test_what_a_person_looks_for_stands_before_the_counts(site: Site, mirror: ScriptedMirror) -> None:
    mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    names = list(site.said(PAINTINGS, "bea"))
    assert names[:5] == ["failed_items", "failed_items_links", "failed_items_timelines", "pictures", "documents"]


def test_a_user_who_failed_shows_the_same_in_an_observation(site: Site, mirror: ScriptedMirror) -> None:
    """RUN-1, OPS-2."""
    item = mirror.quarantine("bea", PAINTING, "no candidate is left")
    mirror.trouble("bea", *[ServerFailed("502") for _ in range(9)])
    site.run(PAINTINGS)
    said = site.observed(PAINTINGS)["bea"]
    assert list(said)[:3] == ["status", "error_class", "error"]
    assert [unbroken(row.data["item"]) for row in said["failed_items"].records] == [item]
    assert f"last run [6f9619ff](/runs/{RUN})" in said["failed_items_links"]


@pytest.mark.parametrize("count", [LINKED, LINKED + 1])
def test_the_list_is_as_long_as_people_read_and_says_what_it_leaves_out(
    site: Site, mirror: ScriptedMirror, count: int
) -> None:
    for _ in range(count):
        mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    said = site.said(PAINTINGS, "bea")
    assert said["failed_items_timelines"].count("- **abc**") == LINKED
    assert ("1 more are in the table" in said["failed_items_timelines"]) == (count > LINKED)
    assert len(said["failed_items_links"]) < 1_000
    assert said["failed_items_links"].splitlines()[-1] == "- the others: failed_items_timelines"


@pytest.mark.parametrize("count", [1, 3])
def test_links_that_fit_into_a_line_each_stand_inline(site: Site, mirror: ScriptedMirror, count: int) -> None:
    """The UI shows Markdown of less than 1,000 characters without a click."""
    for _ in range(count):
        mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    links = site.said(PAINTINGS, "bea")["failed_items_links"]
    assert links.count("- abc:") == count
    assert "the others" not in links
    assert len(links) < 1_000


def test_text_of_an_item_means_itself_in_markdown() -> None:
    """A document's name or an encoder's output must not become a heading, a link or a new line."""
    assert escaped("# a\n*b* <c> [d](e) `f` g|h ~i") == r"\# a \*b\* \<c\> \[d\](e) \`f\` g\|h \~i"


@pytest.mark.parametrize(
    ("run", "shown"),
    [(RUN, f"[6f9619ff](/runs/{RUN})"), ("20260101T000000-abcdef12", "`20260101T000000-abcdef12`"), ("", "`unknown`")],
)
def test_only_runs_of_dagster_are_links(run: str, shown: str) -> None:
    assert run_link(run) == shown


def test_a_long_message_of_an_attempt_is_cut(mirror: ScriptedMirror) -> None:
    line = attempt_line(Attempt(mirror.now, RUN, Stage.RENDITION, State.QUARANTINED, "encoding-failed", "x" * 200))
    assert line.endswith(f" · encoding-failed · {'x' * 120} ...")


@pytest.mark.parametrize("text", ["painting:6b0da4eac3f5942faaba4416", "a/b_long/path-of.png is gone", "short", ""])
def test_long_words_of_a_table_can_be_broken_and_put_together_again(text: str) -> None:
    """OPER-2: a table is as wide as its longest word, and the UI cuts what is wider than the page."""
    shown = breakable(text)
    assert max(map(len, shown.replace(" ", "\u200b").split("\u200b"))) <= 14
    assert unbroken(shown) == text


@pytest.mark.parametrize("message", ["no candidate is left", "m" * 2_000, "`*_[]" * 400])
def test_an_item_s_entry_stands_inline_with_its_links_and_its_whole_id(mirror: ScriptedMirror, message: str) -> None:
    """OPER-2: the UI hides Markdown of 1,000 characters behind a button."""
    item = mirror.quarantine("bea", PAINTING, message)
    other = mirror.quarantine("bea", PAINTING, message)
    shown = {name: entry.value for name, entry in item_entries(mirror, list(mirror.ledger.values())).items()}
    assert list(shown) == ["painting:abc", other]
    assert len(shown["painting:abc"]) < 1_000
    assert shown["painting:abc"].startswith("**source-missing**: ")
    assert shown["painting:abc"].endswith(f"`{item}`")
    assert f"(/runs/{RUN})" in shown["painting:abc"]
