"""The job `verify_users`: whom it verifies, what it leaves for people to see, and when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.defs.checks import (
    BLOBS_PRESENT,
    LEXICON_VALID,
    LINKS_CONSISTENT,
    NO_QUARANTINED_ITEMS,
    RECORDS_MATCH_DOCUMENTS,
)
from ac_pipeline.defs.user_jobs import VERIFY_USERS
from ac_pipeline.errors import AccountInactive, ServerFailed, ServiceUnreachable, Unforeseen
from ac_pipeline.items import Finding
from ac_pipeline.mongo.ledger.receipts import Aspect, Part
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import cells_of
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror
from ac_pipeline_tests.unit.defs.site import KEYS, MOODS, PAINTINGS, RECORDS, Site

MISSING = Finding(
    "painting:1",
    "bea",
    "missing",
    "the linked record does not exist",
    "a sync writes it",
    ("at://did:plc:bea/computer.aesthetic.painting/1",),
)
WRONG = Part(4, 3, {"missing": 1}, 0, (MISSING,))


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance, mirror, KEYS)


def verified(mirror: ScriptedMirror) -> list[str]:
    return [receipt.user for receipt in mirror.receipts.saved]


def shown(check: dg.AssetCheckEvaluation, name: str) -> Any:
    return check.metadata[name].value


def test_left_as_it_is_it_verifies_everybody_and_the_checks_pass(site: Site, mirror: ScriptedMirror) -> None:
    """VERIFY-1, VERIFY-12: the result names who was verified."""
    assert site.launch(VERIFY_USERS, {}).success
    assert verified(mirror) == KEYS
    for name in (RECORDS_MATCH_DOCUMENTS, LINKS_CONSISTENT, BLOBS_PRESENT, LEXICON_VALID, NO_QUARANTINED_ITEMS):
        assert site.check(PAINTINGS, name).passed
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert (shown(check, "verified_now"), shown(check, "users_verified")) == (KEYS, 4)
    assert (shown(check, "expected"), shown(check, "verified")) == (8, 8)


def test_a_finding_fails_the_check_and_is_shown_on_the_partition_and_the_job_succeeds(
    site: Site, mirror: ScriptedMirror
) -> None:
    """VERIFY-2, VERIFY-12: item, reason, repair and record of exactly that user."""
    mirror.wrong["bea", "painting", Aspect.RECORDS] = WRONG
    assert site.launch(VERIFY_USERS, {}).success
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert shown(check, "partitions") == {"bea": 1}
    assert site.check(MOODS, RECORDS_MATCH_DOCUMENTS).passed
    assert set(site.observed(PAINTINGS)) == {"bea"}
    said = site.observed(PAINTINGS)["bea"]
    assert {name: said[name] for name in ("expected", "verified", "missing", "extra", "different", "duplicates")} == {
        "expected": 4,
        "verified": 3,
        "missing": 1,
        "extra": 0,
        "different": 0,
        "duplicates": 0,
    }
    assert (said["blobs_expected"], said["blobs_verified"], said["links_wrong"], said["wrong_shaped"]) == (2, 2, 0, 0)
    (row,) = cells_of(said["items"])
    assert (row["user"], row["item"], row["repair"]) == ("bea", "painting:1", "a sync writes it")
    assert "?repo=did%3Aplc%3Abea&collection=computer.aesthetic.painting&rkey=1)" in said["items_links"]
    assert not site.observed(MOODS)


def test_verifying_some_users_does_not_hide_what_is_known_of_the_others(site: Site, mirror: ScriptedMirror) -> None:
    """VERIFY-12."""
    mirror.wrong["bea", "painting", Aspect.RECORDS] = WRONG
    site.launch(VERIFY_USERS, {})
    assert site.launch(VERIFY_USERS, {"users": ["ada", "cyd"]}).success
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert not check.passed
    assert (shown(check, "verified_now"), shown(check, "partitions")) == (["ada", "cyd"], {"bea": 1})
    del mirror.wrong["bea", "painting", Aspect.RECORDS]
    site.launch(VERIFY_USERS, {"users": ["bea"]})
    assert site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS).passed


def test_only_the_chosen_types_are_verified_and_blobs_can_be_left_out(site: Site, mirror: ScriptedMirror) -> None:
    result = site.launch(VERIFY_USERS, {"types": ["painting"], "blobs": False})
    assert {each.asset_key for each in result.get_asset_check_evaluations()} == {PAINTINGS}
    assert {cell for receipt in mirror.receipts.saved for cell in receipt.parts} == {
        ("painting", aspect) for aspect in Aspect if aspect is not Aspect.BLOBS
    }
    assert "Nobody was verified yet" in str(site.check(PAINTINGS, BLOBS_PRESENT).description)


def test_a_user_who_could_not_be_read_fails_the_job_and_the_others_are_verified(
    site: Site, mirror: ScriptedMirror
) -> None:
    """OPS-1, DEL-5: nothing is said of that user, and the job never reports success."""
    mirror.trouble("bea", ServerFailed("the PDS answered 502"))
    mirror.trouble("cyd", Unforeseen("KeyError: nobody foresaw this"))
    result = site.launch(VERIFY_USERS, {})
    assert not result.success
    assert verified(mirror) == ["ada", "dan"]
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "2 of 4 users have to be run again" in str(failure.user_failure_data.description)
    assert "bea: the PDS answered 502" in str(failure.user_failure_data.description)
    assert site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS).passed


def test_a_blocked_user_is_no_failure_and_turns_no_check_green(site: Site, mirror: ScriptedMirror) -> None:
    """ACCT-2, SEEN-1."""
    mirror.wrong["bea", "painting", Aspect.RECORDS] = WRONG
    site.launch(VERIFY_USERS, {})
    mirror.blocked["bea"] = AccountInactive("deactivated")
    assert site.launch(VERIFY_USERS, {}).success
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert not check.passed
    assert shown(check, "partitions") == {"bea": WRONG.unsound}
    assert shown(check, "users_verified") == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"users": ["nobody", "ada"]}, "No user has the partition key nobody"),
        ({"types": ["poem"]}, "poem"),
    ],
)
def test_a_wrong_config_is_refused_before_anybody_is_verified(
    site: Site, mirror: ScriptedMirror, config: dict[str, Any], words: str
) -> None:
    result = site.launch(VERIFY_USERS, config)
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert words in str(failure.user_failure_data.description)
    assert not verified(mirror)


def test_a_ledger_that_does_not_answer_fails_the_job_in_a_sentence(site: Site, mirror: ScriptedMirror) -> None:
    mirror.broken = ServiceUnreachable("Could not read users: MongoDB does not answer.")
    result = site.launch(VERIFY_USERS, {})
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "MongoDB does not answer" in str(failure.user_failure_data.description)


def test_a_synchronised_user_stays_verified_in_the_eyes_of_the_ui(site: Site, mirror: ScriptedMirror) -> None:
    """A check without a result after the last materialisation would show as not evaluated."""
    site.launch(VERIFY_USERS, {})
    site.run(*RECORDS)
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert check.passed
    assert "verified_now" not in check.metadata
