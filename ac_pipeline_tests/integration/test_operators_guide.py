"""The operators' guide is what happens: every command of it is run, in its order, on real services.

Lines of its `sh` blocks that begin with `ac-pipeline` are run; `# exits 1: ...` behind one states its exit code, else
it is 0. `$NAME` is taken from what the last command said that tells it. What the tasks find is prepared in `BEFORE`.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.cli.main import cli as command_line
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.checks import CHECKS
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.accounts.listing import AccountState
from ac_pipeline.operations.inspection.links import LinkState
from ac_pipeline.operations.removal.snapshot import open_vault, take_snapshot
from ac_pipeline.sync.lexicon_gate import SCHEMA
from ac_pipeline_tests.commands import inside
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.relay import Everybody, relay_server
from ac_pipeline_tests.scripted_storage import ObjectServer

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operators-guide.md").read_text()
SLUG = "2025.10.15.12.30.45.123"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
MOOD = "computer.aesthetic.mood"

_EXITS = re.compile(r"^exits (\d): \S")
_VARIABLE = re.compile(r"\$([A-Z]+)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an `sh` block, below its section's heading; `words` are those before a comment."""

    section: str
    words: tuple[str, ...]
    comment: str

    @property
    def exit_code(self) -> int:
        stated = _EXITS.match(self.comment)
        return int(stated[1]) if stated else 0

    def __str__(self) -> str:
        return " ".join(self.words)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The section and the text of every fenced block of a language."""
    section, inside = "", None
    kept: list[str] = []
    for line in GUIDE.splitlines():
        if line.startswith("```"):
            if inside == language:
                yield section, "\n".join(kept)
            inside, kept = (line[3:] if inside is None else None), []
        elif inside is not None:
            kept.append(line)
        elif line.startswith("## "):
            section = line[3:]


def lines(program: str = "ac-pipeline") -> list[Line]:
    """All lines of the guide that run a program."""
    found = []
    for section, text in blocks("sh"):
        for line in filter(None, text.splitlines()):
            command, _, comment = line.partition(" # ")
            if command.split()[0] != program:
                continue
            found.append(Line(section, tuple(shlex.split(command)), comment.strip()))
    return found


def told(name: str, words: tuple[str, ...], said: Any) -> str:
    """What a command's JSON says for a variable of the guide."""
    if name == "HASH":
        return str(said["hash"])
    if name == "SNAPSHOT":
        return str(said[0]["id"])
    if words[1] == "plan":
        return str(sum(said["orphans_kept"].values()))
    return str(said["acceptable" if words[1] == "differences" else "confirm"])


CONFIRMED = ("plan", "wipe", "restore-documents", "differences", "accounts", "snapshots")
TELLS = {"HASH": ("plan",), "SNAPSHOT": ("snapshots",), "N": CONFIRMED}


def told_by(found: list[Line], place: int) -> dict[str, int]:
    """Variable of the line at this place -> place of the last line before it that tells it."""
    names = {name for word in found[place].words for name in _VARIABLE.findall(word)}
    return {
        name: max(
            number for number in range(place) if found[number].words[1:2] and found[number].words[1] in TELLS[name]
        )
        for name in names
    }


# ----------------------------------------------------------------------------------------------- what the tasks find


@pytest.fixture(scope="module")
def pds(services_folder: Path) -> Iterator[Pds]:
    """A PDS of its own: the guide speaks of everybody on it."""
    folder = services_folder / "pds-of-the-guide"
    folder.mkdir()
    server = Pds(folder)
    yield server
    server.close()


@dataclass(slots=True)
class Stage:
    """The platform of the guide: ada, bob and carol, their work, and what happens to it between the tasks."""

    slice: Slice
    objects: ObjectServer
    monkeypatch: pytest.MonkeyPatch
    stack: ExitStack
    people: dict[str, Account] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        self.people = {name: self.slice.user(name) for name in ("ada", "bob", "carol", "lexi")}
        add = self.slice.add
        for name in ("ada", "bob", "carol"):
            user = self.people[name]
            self.ids[f"{name}'s mood"] = add("mood", user, mood="fine")
            self.ids[f"{name}'s piece"] = add("piece", user, slug=f"piece-of-{name}")
        add("kidlisp", self.people["ada"], code="cow", source="(wipe blue)")

    def the_original_was_here(self) -> None:
        """Records of an interrupted run: nobody has stored their links."""
        for name in ("bob", "carol"):
            user, fields = self.people[name], {"code": f"its{name}", "source": f"(line {name})"}
            id = self.slice.add("kidlisp", user, **fields)
            page = f"https://aesthetic.computer/${fields['code']}"
            self.slice.put(user, "kidlisp", {**fields, "acUrl": page, "when": WHEN_TEXT, "ref": id})

    def abc_is_made(self) -> None:
        self.slice.add("painting", self.people["ada"], code="abc", slug=SLUG)

    def abc_is_repaired(self) -> None:
        path = f"{self.people['ada'].id}/painting/{SLUG}.png"
        self.objects.put(USER_BUCKET, path, pixel_art(64, 48))

    def a_link_is_lost(self) -> None:
        moods = self.slice.database["moods"]
        moods.update_one({"_id": ObjectId(self.ids["bob's mood"])}, {"$unset": {"atproto": ""}})

    def others_write(self) -> None:
        for name in ("ada", "bob"):
            user = self.people[name]
            ((rkey, record),) = self.slice.records(user, "mood").items()
            body = {"repo": user.did, "collection": MOOD, "rkey": rkey, "record": record | {"mood": "theirs"}}
            self.slice.call(user, "com.atproto.repo.putRecord", body)

    def a_document_is_lost(self) -> None:
        self.slice.database["pieces"].delete_one({"_id": ObjectId(self.ids["bob's piece"])})

    def many_documents_are_lost(self) -> None:
        bob = self.people["bob"]
        ids = [self.slice.add("mood", bob, mood=f"mood {number}") for number in range(11)]
        self.slice.sync(bob)
        self.slice.database["moods"].delete_many({"_id": {"$in": [ObjectId(id) for id in ids]}})

    def carol_leaves(self) -> None:
        take_snapshot(open_vault(self.slice.pipeline), self.people["carol"], MEDIA_TYPES)
        self.slice.database["account-deletions"].insert_one({"_id": self.people["carol"].id, "state": "scheduled"})

    def dora_comes(self) -> None:
        id = f"auth0|{ObjectId()}"
        self.slice.database["users"].insert_one({"_id": id, "code": "ac25dorad"})
        self.slice.database["@handles"].insert_one({"_id": id, "handle": "dora-of-the-guide"})
        self.monkeypatch.setenv("AC_ACCOUNT_EMAIL_DOMAIN", "example.test")

    def a_relay_is_named(self) -> None:
        self.monkeypatch.setenv("AC_RELAY_URL", self.stack.enter_context(relay_server(Everybody())))

    def an_authority_is_named(self) -> None:
        self.monkeypatch.setenv("AC_LEXICON_AUTHORITY", str(self.people["lexi"].did))

    def the_published_lexicon_differs(self) -> None:
        """A mood's text was optional: ours, which asks for it, breaks that promise."""
        lexi = self.people["lexi"]
        schema = copy.deepcopy(dict(load_lexicons().documents[MOOD]))
        schema["defs"]["main"]["record"]["required"] = []
        body = {"repo": lexi.did, "collection": SCHEMA, "rkey": MOOD, "record": {"$type": SCHEMA, **schema}}
        self.slice.call(lexi, "com.atproto.repo.putRecord", body)


BEFORE: Mapping[str, Callable[[Stage], object]] = {
    "ac-pipeline accounts list": Stage.open,
    "ac-pipeline links": Stage.the_original_was_here,
    "ac-pipeline sync --user ada (2)": Stage.abc_is_made,
    "ac-pipeline retry --item painting:abc": Stage.abc_is_repaired,
    "ac-pipeline links (3)": Stage.a_link_is_lost,
    "ac-pipeline differences": Stage.others_write,
    "ac-pipeline restore-documents (3)": Stage.a_document_is_lost,
    "ac-pipeline sync --user bob (2)": Stage.many_documents_are_lost,
    "ac-pipeline erasure": Stage.carol_leaves,
    "ac-pipeline accounts create-guest --confirm art-guest --why first set-up": Stage.dora_comes,
    "ac-pipeline accounts visibility": Stage.a_relay_is_named,
    "ac-pipeline lexicons check --no-scan": Stage.an_authority_is_named,
    "ac-pipeline lexicons check --no-scan (2)": Stage.the_published_lexicon_differs,
}
"""What happens before a line of the guide; where it stands there more than once, with its number from the second on."""


# ------------------------------------------------------------------------------------------------------------- tests


def test_every_command_of_the_guide_does_what_the_guide_says(
    cli: Run, slice_: Slice, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPS-7, PLAN-5, DEL-7, LINK-2, ACCT-1: in the guide's order, with the exit code that it states."""
    found, acts, seen = lines(), set[str](), Counter[str]()
    tellers = {place: told_by(found, place) for place in range(len(found))}
    asked = {teller: name for names in tellers.values() for name, teller in names.items()}
    said: dict[int, str] = {}
    with ExitStack() as stack:
        stack.callback(LocalServices(Path.cwd()).down)
        stage = Stage(slice_, object_server, monkeypatch, stack)
        for place, line in enumerate(found):
            seen[str(line)] += 1
            name = str(line) if seen[str(line)] == 1 else f"{line} ({seen[str(line)]})"
            if name in BEFORE:
                acts.add(name)
                BEFORE[name](stage)
            words = list(line.words[1:])
            for variable, teller in tellers[place].items():
                words = [word.replace(f"${variable}", said[teller]) for word in words]
            code, out = cli(*words, *(["--json"] if place in asked else []))
            assert code == line.exit_code, f"{line.section}: {line} ended with {code}: {out}"
            if place in asked:
                said[place] = told(asked[place], line.words, json.loads(out))
        assert acts == BEFORE.keys()
        dids = {name: str(slice_.account(user.id).did) for name, user in stage.people.items()}
    assert slice_.records(stage.people["carol"], "mood") == {}
    assert [each["mood"] for each in slice_.records(stage.people["ada"], "mood").values()] == ["fine"]
    assert [each["mood"] for each in slice_.records(stage.people["bob"], "mood").values()] == ["theirs"]
    assert len(slice_.records(stage.people["ada"], "painting")) == 1
    assert len(set(dids.values())) == len(dids)


def test_every_command_is_in_the_guide() -> None:
    """OPS-7: a command that nobody is told of fails here."""
    missing = [name for name in commands(command_line, "ac-pipeline") if not re.search(rf"{name}\b", GUIDE)]
    assert missing == []


def commands(group: click.Command, name: str) -> Iterator[str]:
    if not isinstance(group, click.Group):
        yield name
        return
    for each, command in inside(group).items():
        yield from commands(command, f"{name} {each}")


def test_every_make_target_of_the_guide_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.words[1] for line in lines("make")}
    assert {"setup", "dev", "demo"} <= named <= targets


DEFS = build_defs().get_repository_def()


@pytest.mark.parametrize(
    "name",
    sorted(
        [job.name for job in DEFS.get_all_jobs() if not job.name.startswith("__")]
        + [sensor.name for sensor in DEFS.sensor_defs]
        + [schedule.name for schedule in DEFS.schedule_defs]
        + [check.name for check in CHECKS]
    ),
)
def test_everything_in_dagster_is_in_the_guide(name: str) -> None:
    """VERIFY-12: jobs, sensors, schedules and checks."""
    assert f"`{name}`" in GUIDE


@pytest.mark.parametrize("text", [text for _, text in blocks("yaml")])
def test_what_the_launchpad_is_given_is_valid(text: str) -> None:
    """RUN-1: a config of the guide is one that its job takes."""
    comment = text.splitlines()[0]
    job = DEFS.get_job(comment.removeprefix("# job "))
    assert dg.validate_run_config(job, yaml.safe_load(text))


@pytest.mark.parametrize("state", [*LinkState, *AccountState])
def test_every_state_of_links_and_accounts_is_explained(state: LinkState | AccountState) -> None:
    assert re.search(rf"^\| {re.escape(state.value)} \|", GUIDE, re.MULTILINE)


def test_its_own_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_stated_exit_codes_are_written_as_the_guide_says() -> None:
    """A comment behind a command that is no exit code would be taken for 0."""
    assert [str(line) for line in lines() if line.comment and not _EXITS.match(line.comment)] == []
