"""`ac-pipeline lexicons`: the gate that keeps published promises, and the publication."""

from __future__ import annotations

from functools import partial

import click

from ac_pipeline.cli.output import print_json, progress, say, table
from ac_pipeline.cli.snapshot import why_option
from ac_pipeline.operations.lexicons import LexiconCheck, Scan, check_ours, publish_ours
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@click.group()
def lexicons() -> None:
    """The definitions of the records: check them, publish them."""


@lexicons.command()
@click.option("--no-scan", is_flag=True, help="Leave the existing records unread.")
@json_option
def check(no_scan: bool, as_json: bool) -> int:
    """Compare our lexicons with the published ones, and every existing record with our lexicons.

    Exit code 1 when a published lexicon would be broken; then no record is written either.
    """
    with open_pipeline(load_settings()) as pipeline:
        found = check_ours(pipeline, records=not no_scan, progress=partial(progress, "Reading records"))
    if as_json:
        print_json(_check_json(found))
    else:
        _show(found)
    return 1 if found.breaking else 0


@lexicons.command(name="publish")
@click.option("--force", is_flag=True, help="Publish breaking changes too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be published.")
@why_option
@json_option
def publish_(*, force: bool, dry_run: bool, why: str, as_json: bool) -> int:
    """Write our lexicons into the repository of AC_LEXICON_AUTHORITY; what is the same already is left alone."""
    with open_pipeline(load_settings()) as pipeline:
        published = publish_ours(pipeline, dry_run=dry_run, force=force, why=why)
    if as_json:
        nsids = [each.nsid for each in published.lexicons]
        print_json({"published": nsids, "dry_run": dry_run, "dns": published.dns})
        return 0
    said = "would be published" if dry_run else "published"
    for each in published.lexicons:
        say(f"{each.nsid}: {said} ({each.state})")
    if not published.lexicons:
        say("Every lexicon is published as it is.")
    say("Others find them by this DNS record:")
    for line in published.dns:
        say(f"  {line}")
    return 0


def _check_json(found: LexiconCheck) -> dict[str, object]:
    read = found.scan or Scan()
    return {
        "authority": found.authority,
        "lexicons": [
            {
                "nsid": each.nsid,
                "state": each.state,
                "changes": [{"path": c.path, "effect": c.effect.value, "what": c.what} for c in each.changes],
                "records": read.records.get(each.nsid, 0),
                "invalid": read.invalid.get(each.nsid, 0),
            }
            for each in found.comparisons
        ],
        "passed_over": dict(found.passed_over),
        "examples": [{"uri": uri, "problem": problem} for uri, problem in read.examples],
        "unreadable": [{"user": user, "reason": reason} for user, reason in read.unreadable],
    }


def _show(found: LexiconCheck) -> None:
    columns, read = ["lexicon", "published"], found.scan
    rows: list[list[object]] = [[each.nsid, each.state] for each in found.comparisons]
    if read is not None:
        columns += ["records", "invalid"]
        for row in rows:
            row += [read.records.get(str(row[0]), 0), read.invalid.get(str(row[0]), 0)]
    table("Lexicons", columns, rows)
    changed = [[each.nsid, c.path, c.effect.value, c.what] for each in found.comparisons for c in each.changes]
    if changed:
        table("Changes against the published versions", ["lexicon", "path", "effect", "what"], changed)
    if read is not None and read.examples:
        table("Records that break our lexicon (a sync repairs those it knows)", ["record", "problem"], read.examples)
    for user, reason in read.unreadable if read is not None else ():
        click.echo(f"{user} could not be read: {reason}")
    for name, reason in found.passed_over.items():
        click.echo(f"{name} is not used: {reason}")
    if found.authority is None:
        say("AC_LEXICON_AUTHORITY is not set: nothing is known of published versions.")
