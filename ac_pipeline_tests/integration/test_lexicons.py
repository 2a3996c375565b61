"""The lexicons' gate and publication on a real PDS, through the command line."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.lexicon_gate import SCHEMA
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run

MOOD = "computer.aesthetic.mood"


@pytest.fixture
def authority(slice_: Slice, cli: Run, monkeypatch: pytest.MonkeyPatch) -> Account:
    """A user of the platform whose repository holds the lexicons."""
    account = slice_.user("lexi")
    monkeypatch.setenv("AC_LEXICON_AUTHORITY", str(account.did))
    return account


def publish_other(slice_: Slice, authority: Account, **record: Any) -> None:
    """Publish a mood lexicon whose `record` differs from ours, as an earlier version might."""
    schema = copy.deepcopy(dict(load_lexicons().documents[MOOD]))
    schema["defs"]["main"]["record"].update(record)
    body = {"repo": authority.did, "collection": SCHEMA, "rkey": MOOD, "record": {"$type": SCHEMA, **schema}}
    slice_.call(authority, "com.atproto.repo.createRecord", body)


def published(slice_: Slice, authority: Account) -> dict[str, Any]:
    repository = slice_.pipeline.server.read_repository(str(authority.did))
    return {nsid: repository.value(f"{SCHEMA}/{nsid}") for nsid, _ in repository.collection(SCHEMA)}


def test_the_lexicons_are_published_once_and_named_in_the_dns(cli: Run, slice_: Slice, authority: Account) -> None:
    """REC-5: what is written is declared where others look for it."""
    code, dry = cli("lexicons", "publish", "--dry-run", "--json")
    assert code == 0
    assert not published(slice_, authority)
    code, first = cli("lexicons", "publish", "--json")
    assert code == 0
    assert json.loads(dry)["published"] == json.loads(first)["published"] == sorted(m.nsid for m in MEDIA_TYPES)
    assert json.loads(first)["dns"] == [f'_lexicon.aesthetic.computer. TXT "did={authority.did}"']
    expected = {nsid: {"$type": SCHEMA, **document} for nsid, document in load_lexicons().documents.items()}
    assert published(slice_, authority) == expected
    rev = slice_.pipeline.server.read_repository(str(authority.did)).rev
    code, again = cli("lexicons", "publish")
    assert code == 0
    assert "Every lexicon is published as it is" in again
    assert slice_.pipeline.server.read_repository(str(authority.did)).rev == rev
    code, checked = cli("lexicons", "check")
    assert code == 0
    assert "same" in checked
    lines = json.loads(cli("audit", "--json")[1])
    assert any("publish-lexicons" in json.dumps(line) for line in lines)


def test_a_breaking_change_keeps_every_record_from_being_written(
    cli: Run, slice_: Slice, authority: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published mood allows longer texts than ours: what others may have written would no longer fit."""
    schema = copy.deepcopy(load_lexicons().documents[MOOD]["defs"]["main"]["record"]["properties"])
    schema["mood"]["maxLength"] = 6000
    publish_other(slice_, authority, properties=schema)
    slice_.add("mood", authority, mood="fine")
    code, text = cli("lexicons", "check", "--no-scan", "--json")
    (found,) = [each for each in json.loads(text)["lexicons"] if each["state"] == "breaking"]
    assert code == 1
    assert found["nsid"] == MOOD
    assert found["changes"] == [
        {"path": "main.record.mood", "effect": "breaking", "what": "maxLength was 6000, and is 5000"}
    ]
    code, _ = cli("sync")
    assert code == 2
    assert not slice_.records(authority, "mood")
    code, _ = cli("lexicons", "publish")
    assert code == 2
    assert published(slice_, authority)[MOOD]["defs"]["main"]["record"]["properties"]["mood"]["maxLength"] == 6000
    assert cli("lexicons", "publish", "--force")[0] == 0
    assert cli("sync")[0] == 0
    assert len(slice_.records(authority, "mood")) == 1


def test_existing_records_are_checked_against_the_lexicons(cli: Run, slice_: Slice) -> None:
    """VERIFY-3: wrong-shaped records are counted and named, whoever wrote them."""
    ada = slice_.user("ada")
    slice_.put(ada, "mood", {"mood": "fine", "when": "2025-10-15T12:30:45.123Z", "ref": "a" * 24})
    wrong = slice_.put(ada, "mood", {"when": "2025-10-15T12:30:45.123Z", "ref": "b" * 24})
    code, text = cli("lexicons", "check", "--json")
    found = json.loads(text)
    (mood,) = [each for each in found["lexicons"] if each["nsid"] == MOOD]
    assert code == 0
    assert (mood["state"], mood["records"], mood["invalid"]) == ("new", 2, 1)
    (example,) = found["examples"]
    assert example["uri"].endswith(f"/{MOOD}/{wrong}")
    assert "mood" in example["problem"]


def test_the_last_seen_versions_stand_in_while_the_publisher_is_away(
    cli: Run, slice_: Slice, authority: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that does not answer stops nobody, once its lexicons were seen; before that it does."""
    assert cli("lexicons", "publish")[0] == 0
    monkeypatch.setenv("AC_LEXICON_PDS_URL", "http://127.0.0.1:9")
    assert cli("lexicons", "check", "--no-scan")[0] == 0
    slice_.add("mood", authority, mood="fine")
    assert cli("sync")[0] == 0
    monkeypatch.setenv("AC_LEXICON_AUTHORITY", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")
    assert cli("lexicons", "check", "--no-scan")[0] == 3


def test_publishing_without_an_authority_says_what_to_set(cli: Run, slice_: Slice) -> None:
    assert cli("lexicons", "publish")[0] == 2
    assert cli("lexicons", "check", "--no-scan")[0] == 0
