"""The lexicons' publication, one record for each in the authority's repository, and what existing records say about
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri, record_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import Blocked, InvalidRecord, Misconfigured, OutcomeUnknown, RepositoryMoved, Transient
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import Parameters, dry_run_option, option, why_option
from ac_pipeline.sync.lexicon_gate import SCHEMA, Authority, Comparison, compare, published_in
from ac_pipeline.sync.ports import DataServer, Ledger
from ac_pipeline.sync.writing.writer import commit_writes
from ac_pipeline.wiring import Pipeline

ATTEMPTS: Final = 5
"""How often a repository that somebody else writes to is read anew before publishing is left for later."""

EXAMPLES: Final = 20  # Records a scan names; it counts all of them


@dataclass(slots=True)
class Scan:
    """What existing records say about the lexicons."""

    records: Counter[str] = field(default_factory=Counter)  # By NSID, how many were read
    invalid: Counter[str] = field(default_factory=Counter)  # By NSID, how many of them break our lexicon
    examples: list[tuple[str, str]] = field(default_factory=list)  # `at://` URI and broken rule of some of them
    # Users whose repository could not be read, with the reason
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def scan(lexicons: Lexicons, server: DataServer, accounts: Iterable[Account]) -> Scan:
    """Check every existing record of these accounts, one repository at a time (VERIFY-3)."""
    found = Scan()
    for account in accounts:
        if account.did is None:
            continue
        try:
            repository = server.read_repository(account.did)
        except (Blocked, Transient) as error:
            found.unreadable.append((account.key, error.message))
            continue
        for media in MEDIA_TYPES:
            for rkey, _ in repository.collection(media.nsid):
                found.records[media.nsid] += 1
                problems = _problems(lexicons, repository, media.nsid, rkey)
                found.invalid[media.nsid] += bool(problems)
                if problems and len(found.examples) < EXAMPLES:
                    found.examples.append((at_uri(repository.did, media.nsid, rkey), problems[0]))
    return found


def publish(lexicons: Lexicons, authority: Authority, ledger: Ledger, *, force: bool = False) -> list[Comparison]:
    """Make the authority's repository hold our lexicons; returns what was published, as it compared before: those that
    are the same already are left alone. The ledger keeps the mark of the repository, which may be one that we mirror
    to. Raises Misconfigured where a change is breaking and not forced; nothing was written. After Transient and
    Blocked, publishing again does the rest."""
    for _ in range(ATTEMPTS):
        repository = authority.server.read_repository(authority.did)
        published = published_in(repository, lexicons)
        comparisons = compare(lexicons, published)
        broken = [each for each in comparisons if each.breaking]
        if broken and not force:
            listed = "; ".join(f"{each.nsid}: {c.path}: {c.what}" for each in broken for c in each.breaking)
            raise Misconfigured(
                f"Nothing was published: {listed}. Records written for the published version would no longer fit; "
                "give the new shape an NSID of its own, or publish with --force."
            )
        writes = []
        for each in comparisons:
            record = {"$type": SCHEMA, **lexicons.documents[each.nsid]}
            if repository.records.get(f"{SCHEMA}/{each.nsid}") != record_cid(record):
                writes.append(Write("update" if each.published else "create", SCHEMA, each.nsid, record))
        if not writes:
            return []
        try:
            _, follow = commit_writes(
                authority.server, ledger, authority.account, writes, repository, now=lambda: datetime.now(UTC)
            )
        except (OutcomeUnknown, RepositoryMoved):
            continue
        follow()
        written = {write.rkey for write in writes}
        return [each for each in comparisons if each.nsid in written]
    raise RepositoryMoved(
        f"The repository of {authority.did} changed {ATTEMPTS} times while the lexicons were published: publish again."
    )


def _authority(pipeline: Pipeline) -> Authority:
    """Who publishes, with a password: the setting's, else the one Mongo holds for the DID."""
    authority = pipeline.gate.authority
    if authority is None:
        raise Misconfigured("AC_LEXICON_AUTHORITY is not set: it names the DID of the account that publishes.")
    if authority.account.password is not None:
        return authority
    return replace(authority, account=pipeline.accounts.find(authority.did))


def _problems(lexicons: Lexicons, repository: Repository, nsid: str, rkey: str) -> list[str]:
    try:
        return lexicons.problems(nsid, repository.value(f"{nsid}/{rkey}"), rkey)
    except InvalidRecord as error:
        return [error.message]


class CheckParameters(Parameters):
    no_scan: bool = option(False, "Leave the existing records unread; reading them takes minutes for all users.")


@declared("lexicons check", "check_lexicons", "check_our_lexicons")
def run_check(work: Work, parameters: CheckParameters) -> Report:
    """Compare our lexicons with those that AC_LEXICON_AUTHORITY has published, and every existing record with ours.
    Writes nothing.

    While a published lexicon would be broken, no record is written either.
    """
    pipeline, read, columns = work.pipeline, Scan(), ["lexicon", "published"]
    comparisons, authority = pipeline.gate.comparisons(), pipeline.gate.authority
    if not parameters.no_scan:
        columns += ["records", "invalid"]
        accounts = pipeline.accounts.all()
        read = scan(pipeline.lexicons, pipeline.server, work.watch("Reading records")(accounts, len(accounts)))
    lexicons = Table("lexicons", columns)
    changed = Table("changes", ("lexicon", "path", "effect", "what"), "Changes against the published versions")
    listed = []
    for each in comparisons:
        numbers = {"records": read.records[each.nsid], "invalid": read.invalid[each.nsid]}
        changes = [{"path": c.path, "effect": c.effect.value, "what": c.what} for c in each.changes]
        lexicons.add({"lexicon": each.nsid, "published": each.state, **numbers})
        changed.extend({"lexicon": each.nsid, **change} for change in changes)
        listed.append({"nsid": each.nsid, "state": each.state, "changes": changes, **numbers})
    examples = [{"uri": uri, "problem": problem} for uri, problem in read.examples]
    broken = Table("examples", ("uri", "problem"), "Records that break our lexicon (a sync repairs those it knows)")
    breaking, passed_over = [each.nsid for each in comparisons if each.breaking], pipeline.lexicons.passed_over
    lines = [] if authority else ["AC_LEXICON_AUTHORITY is not set: nothing is known of published versions."]
    lines += [f"{name} is not used: {reason}" for name, reason in passed_over.items()]
    lines += [f"{user} could not be read: {reason}" for user, reason in read.unreadable]
    return Report(
        f"No record is written while {', '.join(breaking)} would break what is published."
        if breaking
        else "No lexicon would break what is published.",
        {
            "authority": authority.did if authority else None,
            "lexicons": listed,
            "examples": examples,
            "passed_over": dict(passed_over),
            "unreadable": [{"user": user, "reason": reason} for user, reason in read.unreadable],
        },
        [lexicons, changed, broken.extend(examples)],
        {"authority": authority.did if authority else "not set", "breaking": len(breaking)},
        lines,
        exit_code=1 if breaking else 0,
    )


class PublishParameters(Parameters):
    force: bool = option(False, "Publish breaking changes too.")
    dry_run: bool = dry_run_option("published")
    why: str = why_option()


@declared("lexicons publish", "publish_lexicons", "publish_our_lexicons")
def run_publish(work: Work, parameters: PublishParameters) -> Report:
    """Write our lexicons into the repository of AC_LEXICON_AUTHORITY. What is the same already is left alone,
    breaking changes are refused unless they are forced.
    """
    pipeline, dry = work.pipeline, parameters.dry_run
    authority = _authority(pipeline)
    # Others find the lexicons by one TXT record for each authority name among the NSIDs.
    domains = sorted({".".join(reversed(nsid.split(".")[:-1])) for nsid in pipeline.lexicons.documents})
    dns = [f'_lexicon.{domain}. TXT "did={authority.did}"' for domain in domains]
    comparisons = pipeline.gate.comparisons()
    if dry:
        published = [each for each in comparisons if each.state != "same"]
    else:
        counts, why = {"breaking": sum(bool(each.breaking) for each in comparisons)}, parameters.why
        with pipeline.audit.during("publish-lexicons", [authority.account], [], why=why, counts=counts) as audited:
            published = publish(pipeline.lexicons, authority, pipeline.ledger, force=parameters.force)
            audited.counts["published"] = len(published)
        pipeline.gate.comparisons()  # so that what is published now is remembered
    table = Table("would_be_published" if dry else "published", ("lexicon", "state", "changes"))
    for each in published:
        changes = [f"{change.path}: {change.what}" for change in each.changes]
        table.add({"lexicon": each.nsid, "state": each.state, "changes": changes})
    headline = f"{table.count} lexicons {'would be' if dry else 'were'} published."
    return Report(
        headline if table.count else "Every lexicon is published as it is.",
        {"published": [each.nsid for each in published], "dry_run": dry, "dns": dns},
        [table],
        {"dry_run": dry, "lexicons": table.count, "dns_records": "\n".join(dns)},
        [f"Others find them by this DNS record: {line}" for line in dns],
    )
