"""How fast the pipeline is, beside what could not be faster and beside what was there before: one table.

Each row is a ratio of two sides that are measured in one run, in turn, on new accounts of the same PDS; the median of
the rounds counts, the spread is that of the rounds. Below each row stands what the other side is. At last some users in
whom nothing changed are synchronised: what that asks of the PDS and of MongoDB is counted, which no other load on the
machine changes.

Prints both sides' figures and the machine's load; quote the ratios, not the figures. `--json FILE` keeps all of it,
every round included; `make bench` keeps it in `bench.json`. `--rows text tapes` measures
those alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pymongo import monitoring

from ac_pipeline.wiring import open_pipeline
from ac_pipeline_tests.benchmarks import arms_media, arms_repositories, arms_text
from ac_pipeline_tests.benchmarks.counting import Requests, Statements, counted_sync
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.benchmarks.rows import HEAD, Group, Measured, measure
from ac_pipeline_tests.benchmarks.services import Bench, open_bench


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each row does in a round; all of it takes some five minutes on two idle cores."""

    users: int = 10  # Of the first sync
    items: int = 4000
    small_users: int = 40
    small_items: int = 7  # As the platform's users have on average
    originals: int = 2  # Small users that the original mirrors: it is slow
    painters: int = 4
    paintings: int = 25  # Of each
    pictures: int = 3  # How often each picture is made into a thumbnail
    frames: int = 90  # Of each tape
    verified_users: int = 60
    verified_items: int = 7
    removed: int = 1500  # Records of the user who is wiped


def groups(bench: Bench, sizes: Sizes, folder: Path, *, sharp: bool) -> dict[str, Callable[[], Group]]:
    """What can be measured, by the name `--rows` takes; `folder` is for files."""
    tapes, pictures = folder / "tapes", folder / "pictures"
    for each in (tapes, pictures):
        each.mkdir()
    return {
        "text": lambda: arms_text.first_sync(bench, sizes.users, sizes.items),
        "small": lambda: arms_text.small_users(bench, sizes.small_users, sizes.originals, sizes.small_items),
        "paintings": lambda: arms_media.paintings(bench, sizes.painters, sizes.paintings),
        "pictures": lambda: arms_media.thumbnails(pictures, sizes.pictures, install=sharp),
        "tapes": lambda: arms_media.tapes(tapes, sizes.frames),
        "verification": lambda: arms_repositories.verification(bench, sizes.verified_users, sizes.verified_items),
        "removal": lambda: arms_repositories.removal(bench, sizes.removed),
    }


ROWS = ("text", "small", "paintings", "pictures", "tapes", "verification", "removal")


def nothing_to_do(bench: Bench, users: int, items: int) -> dict[str, Any]:
    """What the second sync of some users asks for, as `counted_sync` says it."""
    people, rng = bench.signed_in(users), random.Random(1_000_000)
    for account, _ in people:
        bench.insert(arms_text.documents(account.id, items, rng))
    statements, settings = Statements(), bench.pipeline.settings
    monitoring.register(statements)  # for clients that are made from here on: counting is no part of the rows
    uri = SecretStr(f"{settings.mongodb_connection_string.get_secret_value()}&appname=counted")
    with open_pipeline(settings.model_copy(update={"mongodb_connection_string": uri})) as pipeline:
        server = Requests(pipeline.engine.server)
        pipeline.engine.server = server  # type: ignore[assignment]
        accounts = [account for account, _ in people]
        counted_sync(pipeline, accounts, statements, server)
        return {"users": users, **counted_sync(pipeline, accounts, statements, server)}


def show(rounds: int, measured: Sequence[Measured], again: dict[str, Any]) -> None:
    lines = [f"{rounds} rounds on {os.cpu_count()} cores; load is that of the machine after a row's last round", ""]
    for each in measured:
        lines += ["", *each.lines()]
    lines[2] = HEAD
    statements = sum(each["count"] for each in again["statements"].values())
    lines += [
        "",
        f"nothing to do for {again['users']} users: {statements / again['users']:.1f} statements a user, "
        f"{again['cpu_seconds']} CPU s,",
        f"  requests {again['requests']}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--no-sharp", action="store_true", help="leave sharp out, which npm would install")
    parser.add_argument("--json", type=Path, help="keep the table and every round here")
    for size in fields(Sizes):
        parser.add_argument(f"--{size.name.replace('_', '-')}", type=int, default=size.default)
    options = parser.parse_args()
    sizes = Sizes(**{size.name: getattr(options, size.name) for size in fields(Sizes)})
    measured: list[Measured] = []
    with open_bench() as bench, tempfile.TemporaryDirectory(prefix="ac-bench-") as folder:
        known = groups(bench, sizes, Path(folder), sharp=not options.no_sharp)
        for name in options.rows:
            report = partial(_report, name)
            measured += measure(known[name](), options.rounds, report)
        again = nothing_to_do(bench, sizes.users, sizes.small_items)
    show(options.rounds, measured, again)
    if options.json is not None:
        rows = [each.to_json() for each in measured]
        said = {"rounds": options.rounds, "cores": os.cpu_count(), "sizes": asdict(sizes)}
        options.json.write_text(json.dumps({**said, "rows": rows, "nothing_to_do": again}, indent=1))


def _report(name: str, line: str) -> None:
    sys.stderr.write(f"{name} {line}\n")


if __name__ == "__main__":
    end_in_order()
    main()
