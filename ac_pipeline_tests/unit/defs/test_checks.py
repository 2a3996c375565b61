"""The checks: what a person must look at, whose it is, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.defs.alerts.messages import decide
from ac_pipeline.defs.alerts.ticks_and_checks import look_at_checks
from ac_pipeline.defs.assets.records import STEP, SYNC_CHANGED_USERS
from ac_pipeline.defs.checks import (
    ACCOUNTS_USABLE,
    BLOBS_PRESENT,
    CHECKS,
    COLLECTION_INTACT,
    INPUT_ARRIVES,
    LEXICON_VALID,
    LINKS_CONSISTENT,
    NO_QUARANTINED_ITEMS,
    NOTHING_DEFERRED,
    RECORDS_MATCH_DOCUMENTS,
    evaluate_checks,
    record_checks,
)
from ac_pipeline.defs.metadata import ROWS
from ac_pipeline.errors import AccountDeleted, NoCredentials, ServerFailed, ServiceUnreachable
from ac_pipeline.items import Failure, Finding, LastLook, RepositoryCheckpoint, Stage, State
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.ledger.receipts import Aspect, Part, Receipt
from ac_pipeline.settings import Allowance, allowance
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import cells_of
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror
from ac_pipeline_tests.unit.defs.site import KEYS, MOODS, PAINTINGS, RECORDS, Site

PAINTING = media_type("painting")
MOOD = media_type("mood")
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ASPECTS = {
    RECORDS_MATCH_DOCUMENTS: Aspect.RECORDS,
    LINKS_CONSISTENT: Aspect.LINKS,
    BLOBS_PRESENT: Aspect.BLOBS,
    LEXICON_VALID: Aspect.LEXICON,
}


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance, mirror, KEYS)


def value(check: dg.AssetCheckEvaluation, name: str) -> Any:
    return check.metadata[name].value


def judged(mirror: ScriptedMirror, name: str) -> dg.AssetCheckResult:
    """A check of the moods, without a run."""
    (result,) = evaluate_checks(mirror, [dg.AssetCheckKey(MOODS, name)])  # type: ignore[arg-type]
    return result


def rows(check: dg.AssetCheckEvaluation) -> list[dict[str, Any]]:
    return cells_of(value(check, "items"))


def receive(mirror: ScriptedMirror, user: str, *, at: datetime = NOW, **parts: Part) -> None:
    """A receipt of this user: `painting_records=Part(...)` and the like."""
    cells = {(name.split("_")[0], Aspect(name.split("_")[1])): part for name, part in parts.items()}
    mirror.receipts.save(Receipt(f"auth0|{user}", user, f"did:plc:{user}", at, "run-1", cells))


def broken(item: str, state: str, count: int = 1) -> Part:
    uri = f"at://did:plc:bea/{PAINTING.nsid}/3k"
    return Part(5, 5 - count, {state: count}, 0, (Finding(item, "bea", state, "what was found", "what to do", (uri,)),))


def test_every_records_asset_has_every_check_with_words_for_an_operator() -> None:
    """VERIFY-3, VERIFY-5, OPS-1: that of the blobs only where there are blobs."""
    found = {(spec.asset_key, spec.name): str(spec.description) for spec in record_checks()}
    for media, asset in zip(MEDIA_TYPES, RECORDS, strict=True):
        names = {name for key, name in found if key == asset}
        everywhere = {NO_QUARANTINED_ITEMS, NOTHING_DEFERRED, ACCOUNTS_USABLE}
        everywhere |= {RECORDS_MATCH_DOCUMENTS, LINKS_CONSISTENT, LEXICON_VALID}
        everywhere |= {COLLECTION_INTACT, INPUT_ARRIVES}
        assert names == everywhere | ({BLOBS_PRESENT} if media.blobs else set())
    assert all(len(text) > 80 for text in found.values())
    assert "verify_users" in found[MOODS, RECORDS_MATCH_DOCUMENTS]
    assert "No painting of any user" in found[PAINTINGS, NO_QUARANTINED_ITEMS]


# ------------------------------------------------------------------------------------------------- quarantined items


def test_every_quarantined_item_is_named_also_when_a_user_of_the_range_fails(
    site: Site, mirror: ScriptedMirror
) -> None:
    """VERIFY-12, OPS-1, OPS-2: item, reason, partition key, attempts; the run itself does not report success."""
    item = mirror.quarantine("bea", PAINTING, "no candidate is left")
    mirror.trouble("cyd", *[ServerFailed("502") for _ in range(9)])
    assert not site.run(*RECORDS).success
    check = site.check(PAINTINGS, NO_QUARANTINED_ITEMS)
    assert (check.passed, check.severity) == (False, ERROR)
    assert str(check.description).startswith("Quarantined: 1, in partitions: 1. Correct the documents")
    (row,) = rows(check)
    assert (row["item"], row["user"], row["class"]) == (item, "bea", "source-missing")
    assert row["message"].startswith("no candidate is left. ")
    assert f"bea · rendition, attempts: 3 · `{item}`" in value(check, "items_links")
    assert (value(check, "partitions"), value(check, "error_classes")) == ({"bea": 1}, {"source-missing": 1})
    assert (value(check, "quarantined"), value(check, "users"), value(check, "looked_at")) == (1, 1, "all users")
    assert site.check(MOODS, NO_QUARANTINED_ITEMS).passed


def test_a_run_of_one_user_still_names_the_items_of_all(site: Site, mirror: ScriptedMirror) -> None:
    """VERIFY-12: whoever runs later does not hide who is quarantined."""
    mirror.quarantine("bea", PAINTING, "no candidate is left")
    assert site.run_one("ada", PAINTINGS).success
    check = site.check(PAINTINGS, NO_QUARANTINED_ITEMS)
    assert [row["user"] for row in rows(check)] == ["bea"]
    assert check.target_materialization_data is not None


@pytest.mark.parametrize(
    ("threshold", "known", "quarantined", "severity"),
    [
        ("0", 0, 1, ERROR),
        ("2", 0, 2, WARN),
        ("2", 0, 3, ERROR),
        ("10%", 20, 2, WARN),
        ("10%", 19, 2, ERROR),
    ],
)
def test_quarantined_items_are_an_error_beyond_the_threshold_and_a_warning_up_to_it(  # noqa: PLR0917 - a table
    site: Site, mirror: ScriptedMirror, threshold: str, known: int, quarantined: int, severity: dg.AssetCheckSeverity
) -> None:
    """OPS-1: both sides of a number and of a share; the check fails either way."""
    mirror.allowed, mirror.items_in_ledger = allowance(threshold), known
    for _ in range(quarantined):
        mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, NO_QUARANTINED_ITEMS)
    assert (check.passed, check.severity) == (False, severity)
    assert value(check, "threshold") == threshold


def test_without_a_quarantined_item_the_check_passes(site: Site, mirror: ScriptedMirror) -> None:
    mirror.allowed = Allowance(5)
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, NO_QUARANTINED_ITEMS)
    assert check.passed
    assert "items" not in check.metadata


@pytest.mark.parametrize("count", [ROWS, ROWS + 1])
def test_a_result_counts_every_item_and_lists_the_first(site: Site, mirror: ScriptedMirror, count: int) -> None:
    for _ in range(count):
        mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, NO_QUARANTINED_ITEMS)
    assert (value(check, "quarantined"), len(rows(check))) == (count, ROWS)
    assert ("items_not_shown" in check.metadata) == (count > ROWS)


# --------------------------------------------------------------------------------------------------- deferred items


def defer(mirror: ScriptedMirror, user: str, until: datetime | None) -> str:
    item = mirror.quarantine(user, PAINTING, "")
    failure = Failure(Stage.WRITE, "rate-limited", "the blobs of the day are spent")
    entry = mirror.ledger[item]
    mirror.ledger[item] = replace(entry, state=State.DEFERRED, failure=failure, deferred_until=until)
    return item


def test_deferred_items_are_a_warning_that_says_when_the_rest_will_fit(site: Site, mirror: ScriptedMirror) -> None:
    """LIMIT-6, LIMIT-8: the partition is green, nothing is to be done."""
    defer(mirror, "ada", NOW)
    last = defer(mirror, "bea", NOW + timedelta(hours=5))
    assert site.run(PAINTINGS).success
    check = site.check(PAINTINGS, NOTHING_DEFERRED)
    assert (check.passed, check.severity) == (False, WARN)
    assert str(check.description).startswith(
        "Deferred: 2, in partitions: 2. The last is due at 2026-01-02 08:04 UTC. Nothing is to be done"
    )
    assert value(check, "partitions") == {"ada": 1, "bea": 1}
    assert last in {row["item"] for row in rows(check)}
    assert site.check(PAINTINGS, NO_QUARANTINED_ITEMS).passed


def test_deferred_items_without_a_known_moment_are_tried_by_the_next_run(site: Site, mirror: ScriptedMirror) -> None:
    defer(mirror, "ada", None)
    site.run(PAINTINGS)
    assert "The next run tries them." in str(site.check(PAINTINGS, NOTHING_DEFERRED).description)


def test_when_nothing_waits_the_check_passes(site: Site) -> None:
    site.run(PAINTINGS)
    assert site.check(PAINTINGS, NOTHING_DEFERRED).passed


# -------------------------------------------------------------------------------------------------------- receipts


@pytest.mark.parametrize("name", list(ASPECTS))
def test_what_the_last_verification_found_wrong_fails_the_check_of_its_own(
    site: Site, mirror: ScriptedMirror, name: str
) -> None:
    """VERIFY-2, VERIFY-3, VERIFY-5, VERIFY-12: user, item, reason, repair, URI and an address to open."""
    aspect = ASPECTS[name].value
    sound = {f"painting_{each.value}": Part(5, 5) for each in Aspect}
    receive(mirror, "ada", **sound)
    receive(mirror, "bea", **{**sound, f"painting_{aspect}": broken("painting:1", "missing", 2)})
    site.run(PAINTINGS)
    failed = {each for each in ASPECTS if not site.check(PAINTINGS, each).passed}
    assert failed == {name}
    check = site.check(PAINTINGS, name)
    assert check.severity is ERROR
    assert "missing 2" in str(check.description)
    assert "in partitions: 1" in str(check.description)
    assert (value(check, "expected"), value(check, "verified"), value(check, "missing")) == (10, 8, 2)
    assert (value(check, "users_verified"), value(check, "partitions")) == (2, {"bea": 2})
    (row,) = rows(check)
    assert row == {
        "user": "bea",
        "item": "painting:1",
        "state": "missing",
        "reason": "what was found",
        "repair": "what to do",
        "uri": f"at://did:plc:bea/{PAINTING.nsid}/3k",
        "verified": "2026-01-02 03:04",
    }
    assert f"?repo=did%3Aplc%3Abea&collection={PAINTING.nsid}&rkey=3k)" in value(check, "items_links")


@pytest.mark.parametrize("name", list(ASPECTS))
def test_what_was_never_verified_is_a_warning_and_not_a_pass(site: Site, name: str) -> None:
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, name)
    assert (check.passed, check.severity) == (False, WARN)
    assert "launch the job verify_users" in str(check.description)


def test_the_last_verification_that_found_all_right_passes_and_says_how_old_it_is(
    site: Site, mirror: ScriptedMirror
) -> None:
    receive(mirror, "ada", at=NOW - timedelta(days=3), painting_records=Part(5, 5))
    receive(mirror, "bea", painting_records=Part(2, 2, warnings=1))
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS)
    assert check.passed
    assert check.description == "All 7 are right. Users verified: 2, the longest ago on 2025-12-30."
    assert (value(check, "missing"), value(check, "extra"), value(check, "warnings")) == (0, 0, 1)


@pytest.mark.parametrize(
    ("age", "settled", "passes"),
    [(1, ("painting",), True), (-1, ("painting",), False), (0, ("painting",), False), (1, ("mood",), False)],
    ids=["settled since", "settled before", "at the same moment", "another type"],
)
def test_what_a_sync_has_settled_since_counts_no_more(
    site: Site, mirror: ScriptedMirror, age: int, settled: tuple[str, ...], passes: bool
) -> None:
    """VERIFY-9: only a sync that left the repository as it has to be takes a finding back."""
    receive(mirror, "bea", painting_records=broken("painting:1", "missing"))
    mark = RepositoryCheckpoint("did:plc:bea", "3k", NOW + timedelta(seconds=age), dict.fromkeys(settled, "hash"), {})
    mirror.left["did:plc:bea"] = mark
    site.run(PAINTINGS)
    assert site.check(PAINTINGS, RECORDS_MATCH_DOCUMENTS).passed is passes


def test_a_blob_that_was_missing_stays_so_until_it_is_verified_again(site: Site, mirror: ScriptedMirror) -> None:
    """VERIFY-5: that a repository is settled says nothing of blobs."""
    receive(mirror, "bea", painting_blobs=broken("painting:1", "missing"))
    mirror.left["did:plc:bea"] = RepositoryCheckpoint(
        "did:plc:bea", "3k", NOW + timedelta(days=1), {"painting": "hash"}, {}
    )
    site.run(PAINTINGS)
    assert not site.check(PAINTINGS, BLOBS_PRESENT).passed
    receive(mirror, "bea", painting_blobs=Part(5, 5))
    site.run(PAINTINGS)
    assert site.check(PAINTINGS, BLOBS_PRESENT).passed


def test_a_record_that_was_refused_for_its_lexicon_fails_that_check_before_any_verification(
    site: Site, mirror: ScriptedMirror
) -> None:
    """REC-1, VERIFY-3: it was never written; the next class of error beside it does not count."""
    refused = mirror.quarantine("bea", PAINTING, "$.when: must be a datetime", "invalid-record")
    mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.run(PAINTINGS)
    check = site.check(PAINTINGS, LEXICON_VALID)
    assert (check.passed, check.severity) == (False, ERROR)
    assert [(row["item"], row["state"], row["reason"]) for row in rows(check)] == [
        (refused, "refused", "$.when: must be a datetime")
    ]
    assert value(check, "partitions") == {"bea": 1}
    assert value(check, "refused") == 1


# -------------------------------------------------------------------------------------------------------- evaluation


def test_checks_are_evaluated_once_although_a_step_is_tried_again(site: Site, mirror: ScriptedMirror) -> None:
    mirror.trouble("cyd", *[ServerFailed("502") for _ in range(9)])
    result = site.run(PAINTINGS)
    evaluated = [each.check_name for each in result.get_asset_check_evaluations()]
    assert len(evaluated) == len(set(evaluated)) == len(CHECKS)


def test_a_ledger_that_cannot_be_read_does_not_hide_why_the_step_failed(site: Site, mirror: ScriptedMirror) -> None:
    mirror.broken = ServiceUnreachable("Could not read users: MongoDB does not answer.")
    result = site.run(PAINTINGS)
    assert not result.success
    failure = [event for event in result.all_events if event.is_step_failure][-1].step_failure_data
    assert failure.user_failure_data is not None
    assert "4 of 4 users have to be run again" in str(failure.user_failure_data.description)


@pytest.mark.parametrize("name", [NO_QUARANTINED_ITEMS, NOTHING_DEFERRED, ACCOUNTS_USABLE, *ASPECTS])
def test_each_check_can_be_executed_alone_and_nobody_is_synchronised(
    site: Site, mirror: ScriptedMirror, name: str
) -> None:
    mirror.quarantine("bea", PAINTING, "no candidate is left", "invalid-record")
    defer(mirror, "ada", NOW)
    lose(mirror, "cyd")
    for aspect in Aspect:
        receive(mirror, "bea", **{f"painting_{aspect.value}": broken("painting:1", "missing")})
    asset = next(
        each
        for each in site.definitions.assets or ()
        if isinstance(each, dg.AssetsDefinition) and PAINTINGS in each.keys
    )
    result = dg.materialize(
        [asset],
        instance=site.instance,
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(PAINTINGS, name)),
        resources={"pipeline": mirror},
    )
    assert [(each.check_name, each.passed) for each in result.get_asset_check_evaluations()] == [(name, False)]
    assert not mirror.turns


# --------------------------------------------------------------------------------------------------- blocked accounts


def lose(mirror: ScriptedMirror, *users: str, ago: timedelta = timedelta(hours=1)) -> None:
    """Mongo loses the passwords of these users, and a run finds that a mood of each waits."""
    for user in users:
        mirror.known[user] = replace(mirror.known[user], blocked=NoCredentials("Mongo holds no password"))
        wait(mirror, user, NoCredentials.code, ago=ago)


def wait(mirror: ScriptedMirror, user: str, error_class: str, *, ago: timedelta, cid: str | None = "bafy") -> str:
    item = mirror.quarantine(user, MOOD, "", error_class)
    at = datetime.now(UTC) - ago
    mirror.ledger[item] = replace(mirror.ledger[item], state=State.BLOCKED, updated_at=at, cid=cid)
    return item


def test_a_user_without_password_is_a_warning_that_names_the_user_and_the_reason(
    site: Site, mirror: ScriptedMirror
) -> None:
    """SEEN-1: of each records asset, whoever the run was about."""
    lose(mirror, "bea")
    site.run_one("ada", MOODS, PAINTINGS)
    check = site.check(MOODS, ACCOUNTS_USABLE)
    assert (check.passed, check.severity) == (False, WARN)
    assert "Blocked: 1 of 4 accounts (no-credentials 1)" in str(check.description)
    (row,) = cells_of(value(check, "blocked_accounts"))
    assert (row["user"], row["items"], row["class"], row["message"]) == (
        "bea", 1, "no-credentials", "Mongo holds no password",
    )  # fmt: skip
    assert not site.check(PAINTINGS, ACCOUNTS_USABLE).passed
    mirror.known["bea"] = replace(mirror.known["bea"], blocked=None)
    site.run_one("ada", MOODS)
    assert site.check(MOODS, ACCOUNTS_USABLE).passed, "the next run picks bea up: nobody needs to act"


@pytest.mark.parametrize(
    ("of", "lost", "ago", "threshold", "severity"),
    [
        (40, 20, timedelta(days=9), "10%", ERROR),
        (40, 4, timedelta(days=9), "10%", WARN),
        (40, 5, timedelta(days=9), "10%", ERROR),
        (40, 5, timedelta(days=9), "5", WARN),
        (4, 2, timedelta(0), "10%", WARN),
        (2, 2, timedelta(0), "10%", ERROR),
        (300, 7, timedelta(hours=23), "10%", ERROR),
        (300, 7, timedelta(hours=25), "10%", WARN),
        (300, 6, timedelta(0), "10%", WARN),
    ],
)
def test_many_blocked_accounts_are_an_error_by_their_share_or_when_they_come_at_once(
    of: int, lost: int, ago: timedelta, threshold: str, severity: dg.AssetCheckSeverity
) -> None:
    """SEEN-1: a wrong PDS_URL is one event."""
    mirror = ScriptedMirror(*(f"user{number}" for number in range(of)))
    mirror.blocked_allowed = allowance(threshold)
    lose(mirror, *list(mirror.known)[:lost], ago=ago)
    check = judged(mirror, ACCOUNTS_USABLE)
    assert (check.passed, check.severity) == (False, severity)
    assert check.metadata["blocked"].value == lost


def test_whom_the_pds_refused_is_blocked_and_whom_nobody_misses_is_not(mirror: ScriptedMirror) -> None:
    """SEEN-1: a wipe's hold, an owner who leaves and a new user of another type are no lost credentials."""
    wait(mirror, "ada", "wrong-password", ago=timedelta(0), cid=None)
    wait(mirror, "bea", "on-hold", ago=timedelta(0))
    mirror.known["cyd"] = replace(mirror.known["cyd"], blocked=AccountDeleted("deleted"))
    mirror.known["dan"] = Account("auth0|dan", "dan", blocked=NoCredentials("no DID and no password"))
    check = judged(mirror, ACCOUNTS_USABLE)
    assert (check.metadata["partitions"].value, check.metadata["accounts"].value) == (["ada"], 3)
    wait(mirror, "dan", "no-credentials", ago=timedelta(0), cid=None)
    check = judged(mirror, ACCOUNTS_USABLE)
    assert check.metadata["partitions"].value == ["ada", "dan"]
    assert check.metadata["blocked_lately"].value == 1, "dan never had an account"


def test_deferred_items_of_a_blocked_account_do_not_turn_their_check_green(mirror: ScriptedMirror) -> None:
    """SEEN-1."""
    item = wait(mirror, "ada", "no-credentials", ago=timedelta(0))
    assert judged(mirror, NOTHING_DEFERRED).passed
    mirror.ledger[item] = replace(mirror.ledger[item], deferred_until=NOW)
    assert not judged(mirror, NOTHING_DEFERRED).passed


# ------------------------------------------------------------------------------------------------------- collections


def test_a_collection_that_shrank_and_one_that_nothing_comes_to_fail_their_checks(
    site: Site, mirror: ScriptedMirror
) -> None:
    """GUARD-1, SEEN-3: as errors, each with its sentence and its numbers; a run that kept records has said so."""
    look = LastLook("mood", at=NOW, documents=2, expected=300, known=299, lost=298, newest=1_700_000_000_000)
    mirror.seen["mood"] = look, "The collection holds 2 documents", "No new mood has come"
    assert site.run(MOODS, PAINTINGS).success
    for name, said in ((COLLECTION_INTACT, "The collection holds 2"), (INPUT_ARRIVES, "No new mood")):
        check = site.check(MOODS, name)
        assert (check.passed, check.severity) == (False, ERROR)
        assert str(check.description).startswith(said)
        assert (value(check, "documents"), value(check, "documents_expected")) == (2, 300)
        assert value(check, "records_without_document") == 298
        assert site.check(PAINTINGS, name).passed


def test_a_failed_check_of_a_collection_is_an_alert_with_its_sentence(site: Site, mirror: ScriptedMirror) -> None:
    """GUARD-1, SEEN-3."""
    keys = [spec.key for spec in record_checks()]
    mirror.seen["mood"] = LastLook("mood"), "The collection holds 2 documents, where there were 300", None
    site.run(*RECORDS)
    seen = look_at_checks(site.instance, keys, {}, hold_back=False)
    _, (alert,) = decide({}, seen, 2.0)
    assert alert.headline == "[failed] Check collection_intact of atproto/moods failed"
    assert "where there were 300" in alert.text(2.0, None, str)


def test_the_number_in_the_launchpad_reaches_the_sync(site: Site, mirror: ScriptedMirror) -> None:
    """GUARD-1: of the records assets, and of the job over any users; without it nothing is swept."""
    site.run(PAINTINGS)
    site.job.execute_in_process(
        instance=site.instance,
        asset_selection=[PAINTINGS],
        partition_key="ada",
        run_config={"ops": {STEP: {"config": {"sweep": 19}}}},
    )
    site.launch(SYNC_CHANGED_USERS, {"users": ["ada", "bea"], "sweep": 7})
    assert mirror.sweeps == [None, 19, 7]
