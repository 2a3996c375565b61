"""The settings: every environment variable the pipeline reads, with its default and its check. Read once, at the edge,
by `load_settings`; nothing below looks at the environment. Turning settings into clients is `wiring.py`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ac_pipeline.errors import Misconfigured
from ac_pipeline.proxies import Proxies, read_proxies
from ac_pipeline.redaction import url_secrets

_FORM: Final = re.compile(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%")


@dataclass(frozen=True, slots=True)
class Allowance:
    """An allowance, as a setting names it; `str` gives that form back."""

    items: int = 0  # So many items, where it is a number
    percent: float | None = None  # So many of a hundred, where it is a share; None where it is a number

    def covers(self, amiss: int, of: int) -> bool:
        """True if so many of so many may be amiss; exactly at the limit they may."""
        return amiss <= self.items if self.percent is None else 100 * amiss <= self.percent * of

    def __str__(self) -> str:
        return str(self.items) if self.percent is None else f"{self.percent:g}%"


def allowance(value: object) -> Allowance:
    """Read `25` or `0.5%`. Raises ValueError: something else, or a share over 100 %."""
    if isinstance(value, Allowance):
        return value
    found = _FORM.fullmatch(str(value).strip())
    if found is None or (found[2] is not None and float(found[2]) > 100):
        raise ValueError("must be a number of items such as 25, or a share of them such as 0.5%")
    return Allowance(int(found[1])) if found[1] is not None else Allowance(percent=float(found[2]))


ENV_FILES = (".env", ".env.local")
"""Read in this order: what `ac-pipeline local up` writes into the second wins, and the real environment over both."""

_DAGSTER = re.compile(r"dagster(?:[-_.].*)?|dg|ac_pipeline\.defs\.web_server")
"""Dagster's own commands, and the module that is one of them."""
_MONGO_HOSTS = re.compile(r"mongodb(?:\+srv)?://(?:[^/@?]*@)?([\w.-]+(?::\d+)?(?:,[\w.-]+(?::\d+)?)*)(?:[/?][^@]*)?")
_BUCKET = r"\s*[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\s*"


def _text(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _must(words: str, form: str) -> AfterValidator:
    """Takes a text, secret or not, that is of this form as a whole; of another one it says `must ...`, and no more."""
    pattern = re.compile(form, re.DOTALL)

    def check(value: Any) -> Any:
        if pattern.fullmatch(_text(value)) is None:
            raise ValueError(f"must {words}")
        return value

    return AfterValidator(check)


def _address(value: Any) -> Any:
    try:
        parts = urlsplit(_text(value))
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an http or https address without user and password")
    return value if isinstance(value, SecretStr) else value.rstrip("/")


def _template(value: str) -> str:
    if value.count("{bucket}") != 1:
        raise ValueError("must hold {bucket} once, for the name of the bucket")
    return _address(value.replace("{bucket}", "bucket")) and value.rstrip("/")


def pool_limits(value: str) -> dict[str, int]:
    """Read `encoding=2,pds=4`: the limit of each pool that is named. Raises ValueError: something else, or a limit
    below 1."""
    limits = {}
    for word in filter(None, value.replace(" ", "").split(",")):
        pool, _, limit = word.partition("=")
        if not pool or not limit.isdecimal() or int(limit) < 1:
            raise ValueError("must be pools with their limits, such as encoding=2,pds=4")
        limits[pool] = int(limit)
    return limits


def _pool_limits(value: str) -> str:
    pool_limits(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
DatabaseName = Annotated[
    str,
    _must(  # characters and length that MongoDB allows
        "be the name of a database: 1 to 63 characters, no dots, spaces or slashes", r"[^/\\. \"$*<>:|?\0]{1,63}"
    ),
]
Buckets = Annotated[
    str,
    _must("be names of buckets with commas between them", f"{_BUCKET}(?:,{_BUCKET})*"),
    AfterValidator(lambda value: "".join(value.split())),
]
Did = Annotated[str, _must("be a DID such as did:plc:...", r"did:[a-z]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]")]
Domain = Annotated[
    str,
    _must(
        "be a domain such as example.com",
        r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]",
    ),
    AfterValidator(str.lower),
]
MongoAddress = Annotated[SecretStr, _must("begin with mongodb:// or mongodb+srv://", r"mongodb(?:\+srv)?://.*")]
PostgresAddress = Annotated[SecretStr, _must("begin with postgresql+psycopg2://", r"postgresql\+psycopg2://.*")]


class Timetable(BaseSettings):
    """When the schedules tick, in UTC, and the form of logs: what the code location needs when it loads, no more."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        env_file_encoding="utf-8",
    )

    ac_cron_sync: str = "0 * * * *"
    """When `incremental_sync` looks for users with work."""
    ac_cron_reconcile: str = "30 3 * * *"
    """When `nightly_reconcile` runs: every document and record compared."""
    ac_cron_verify: str = "0 5 * * 0"
    """When `weekly_verification` runs: every record and blob looked at."""
    ac_cron_plan: str = "0 6 * * *"
    """When `daily_plan` runs: what a sync would do, and what it would cost."""
    ac_log_format: Annotated[str, _must("be text or json", "text|json")] = "text"
    """Form of what commands say on stderr, and of the logs of runs and of Dagster's services: `text`, or `json` for one
    JSON document a line."""


class Settings(Timetable):
    """All settings. Field names are the variables' names in lower case; secrets do not show in `repr`.

    `docs/reference.md` and `.env.example` are made from the fields: `make reference`.
    """

    mongodb_connection_string: MongoAddress
    """The server of the platform's database. User and password must be percent-encoded; the server must accept Stable
    API v1, strict."""
    mongodb_name: DatabaseName
    """The platform's database."""

    pds_url: Address = "https://at.aesthetic.computer"
    """The PDS."""
    pds_admin_password: SecretStr | None = None
    """The PDS's administrator: only for operations on accounts."""
    pds_rate_limit_bypass_key: SecretStr | None = None
    """Sent as `x-ratelimit-bypass`, so that the PDS sets no limits; must equal the PDS's own setting of this name."""
    ac_account_email_domain: Domain | None = None
    """Domain of the e-mail addresses of new accounts. Left out: the host of `PDS_URL`."""
    ac_relay_url: Address | None = None
    """The relay that `ac-pipeline accounts visibility` compares the PDS with, such as
    `https://relay1.us-east.bsky.network`."""

    ac_ledger_database: DatabaseName = ""
    """The pipeline's own database: ledger, leases, sessions, budgets, audit."""
    ac_media_url: Annotated[str, AfterValidator(_template)] = "https://{bucket}.sfo3.digitaloceanspaces.com"
    """Object storage of the source media; `{bucket}` stands for the bucket."""
    ac_media_buckets: Buckets = "user-aesthetic-computer,art-aesthetic-computer,at-blobs-aesthetic-computer"
    """Buckets that a document may name, commas between them; no other is asked."""
    ac_renditions_url: str = Field("", repr=False)
    """Where thumbnails, videos and snapshots are kept: a path, or an fsspec URL such as `s3://bucket/folder`."""
    aws_access_key_id: str | None = None
    """For `s3://` renditions: who reads, writes, lists and deletes in the bucket. Left out: whom a profile
    (`AWS_PROFILE`), or the role of the machine or pod, names."""
    aws_secret_access_key: SecretStr | None = None
    """The secret of that key."""
    aws_session_token: SecretStr | None = None
    """Its token, where it is a temporary one."""
    aws_endpoint_url: Address | None = None
    """The S3 server, such as `https://sfo3.digitaloceanspaces.com`. Left out: Amazon's."""
    aws_default_region: str | None = None
    """Its region. Left out: the server's usual one."""

    ac_lexicon_authority: Did | None = None
    """DID that publishes the lexicons. When set, no record is written while ours would break what it published."""
    ac_lexicon_pds_url: Address | None = None
    """Its PDS. Left out: `PDS_URL`."""
    ac_lexicon_password: SecretStr | None = None
    """Its password. Left out: the one that Mongo holds for the DID."""
    ac_operator: str | None = None
    """Who operates the pipeline, for the audit. Left out: login name and machine."""

    dagster_home: Path = Path(".dagster")
    """Folder of the Dagster instance."""
    dagster_postgres_url: PostgresAddress | None = None
    """PostgreSQL for the Dagster instance: `postgresql+psycopg2://user:password@host/database`. Left out: SQLite in
    `DAGSTER_HOME`."""
    ac_dagster_yaml: Path | None = None
    """A file with changes to our `dagster.yaml`, section by section, such as a run launcher (`docs/production.md`)."""
    ac_pool_limits: Annotated[str, AfterValidator(_pool_limits)] = "encoding=1,pds=2,changed=2"
    """Runs at once in each pool; what is not named stays."""
    ac_dagster_url: Address | None = None
    """Where people reach the Dagster UI: for the links in alerts, and so that `make dev` answers there. Left out: it
    answers under 127.0.0.1, localhost and the address it listens at."""
    ac_alert_webhook_url: Annotated[SecretStr, AfterValidator(_address)] | None = None
    """Incoming webhook (Slack, Discord, Mattermost or your own) to which `alerts_sensor` posts. Left out: its log
    alone."""

    ac_erase_copies: bool = True
    """Delete copies of erased work in `site.standard.document` with it; `false`: `ac-pipeline erasure` only lists
    them."""
    ac_max_orphan_share: float = Field(0.1, ge=0, le=1)
    """Share of a type's documents that may be missing, or whose records may be deleted in a day because they are
    missing. Beyond it and `AC_ORPHAN_FLOOR` no record of the type is deleted for that."""
    ac_orphan_floor: int = Field(5, ge=0)
    """So many may be missing or deleted in any case."""
    ac_silent_days: int = Field(14, ge=0)
    """Days without a new document of a type that used to get some, after which the check `input_arrives` fails; 0 for
    never."""
    ac_quarantine_threshold: Annotated[Allowance, NoDecode, BeforeValidator(allowance)] = Allowance()
    """Quarantined items, a number or a share of the type's items such as `0.5%`, up to which the check
    `no_quarantined_items` only warns."""
    ac_blocked_threshold: Annotated[Allowance, NoDecode, BeforeValidator(allowance)] = Allowance(percent=10)
    """Blocked accounts, a number or a share of all accounts, up to which the check `accounts_usable` only warns. One or
    two are never an error."""

    ac_points_headroom: float = Field(0.1, ge=0, lt=1)
    """Share of a repository's write points that is left to its user."""
    ac_relay_commits_per_hour: int = Field(2_500, ge=0)
    """Commits an hour that the relay takes of the PDS; all runs and machines together make no more, but for those that
    delete. 0 where no relay reads the PDS."""

    ac_ffmpeg: Path | None = None
    """Another ffmpeg. Left out: the one in the package."""
    ac_concurrent_users: int = Field(12, ge=1, le=64)
    """Users synchronised at once in one run."""
    ac_concurrent_downloads: int = Field(8, ge=1, le=64)
    """Downloads of source media at once."""
    ac_concurrent_encodes: int = Field(2, ge=1, le=64)
    """Encoder processes at once."""
    ac_encode_timeout_seconds: float = Field(600.0, gt=0)
    """How long one encoding may take; an item that exceeds it twice is quarantined."""
    ac_encode_megapixels: int = Field(6_000, ge=1)
    """Most pixels of one tape, frames x width x height in millions."""
    ac_tape_grace_seconds: float = Field(600.0, ge=0)
    """How long a tape waits for the platform's own MP4, after it was posted or its baking began, before its ZIP is
    converted here."""

    ac_pds_timeout_seconds: float = Field(60.0, gt=0)
    """Silence of the PDS after which a request is given up."""
    ac_media_timeout_seconds: float = Field(60.0, gt=0)
    """The same for object storage."""
    ac_mongo_timeout_seconds: float = Field(15.0, gt=0)
    """How long to look for a MongoDB server before it counts as unreachable."""
    ac_answer_seconds: float = Field(120.0, gt=0)
    """Longest that a JSON answer of the PDS may take."""
    ac_answer_megabytes: int = Field(16, ge=1)
    """Most that it may hold, unpacked."""
    ac_repository_seconds: float = Field(900.0, gt=0)
    """Longest that a whole repository may take."""
    ac_repository_megabytes: int = Field(256, ge=1)
    """Most that it may hold."""
    ac_blob_seconds: float = Field(900.0, gt=0)
    """Longest that a blob may take, up or down."""
    ac_blob_megabytes: int = Field(256, ge=1)
    """Most that it may hold."""
    ac_media_seconds: float = Field(900.0, gt=0)
    """Longest that an object in storage may take."""
    ac_media_megabytes: int = Field(1024, ge=1)
    """Most that it may hold."""
    ac_least_bytes_per_second: int = Field(500, ge=0)
    """An answer that comes more slowly is given up after 30 seconds; 0 for any speed."""

    _proxies: Proxies = PrivateAttr(default_factory=lambda: read_proxies(os.environ))

    @property
    def proxies(self) -> Proxies:
        """The proxies that all connections go through, but for those to MongoDB and PostgreSQL."""
        return self._proxies

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Defaults that follow from other settings: the ledger's database and the folder of the renditions."""
        if isinstance(values, Mapping):
            values = dict(values)
            name = values.get("mongodb_name")
            values.setdefault("ac_ledger_database", f"{name if isinstance(name, str) else 'unnamed'}-pipeline")
            home = values.get("dagster_home", cls.model_fields["dagster_home"].default)
            values.setdefault("ac_renditions_url", str(Path(home) / "renditions"))
        return values

    @property
    def destination(self) -> str:
        """Which PDS and which database are written to, for people; without credentials."""
        # What is not written as it should be may hold a password at any place, and is not shown.
        hosts = _MONGO_HOSTS.fullmatch(self.mongodb_connection_string.get_secret_value())
        where = f" at {hosts[1]}" if hosts else ""
        pds = urlsplit(self.pds_url).netloc
        return f"PDS {pds} and database {self.mongodb_name}{where} (ledger: {self.ac_ledger_database})"

    @property
    def renditions_options(self) -> dict[str, Any]:
        """What fsspec is told besides `AC_RENDITIONS_URL`."""
        if not self.ac_renditions_url.startswith(("s3://", "s3a://")):
            return {}
        key = {"key": self.aws_access_key_id, "secret": self.aws_secret_access_key, "token": self.aws_session_token}
        given = {**key, "endpoint_url": self.aws_endpoint_url}
        region = {"region_name": self.aws_default_region} if self.aws_default_region else {}
        return {"client_kwargs": region, **{name: _text(value) for name, value in given.items() if value}}

    def secrets(self) -> tuple[str, ...]:
        """What must never be seen in a text: the values of all secret settings, credentials in an address included."""
        values = (getattr(self, name) for name in type(self).model_fields)
        known = tuple(value.get_secret_value() for value in values if isinstance(value, SecretStr))
        return known + url_secrets(self.ac_renditions_url)


Loaded = TypeVar("Loaded", bound=Timetable)


def load_settings(env_dir: Path | None = None) -> Settings:
    """The settings of this process.

    Args:
        env_dir: The folder of `.env` and `.env.local`, and of a relative `DAGSTER_HOME`; the working directory when
            None. Files that are not there are passed over.

    Raises:
        Misconfigured: A variable is missing or wrong, or the proxy for one of the addresses. The message names it and
            never shows what it holds.
    """
    folder = (env_dir or Path.cwd()).resolve()
    settings = _load(Settings, folder)
    for address in (settings.pds_url, settings.ac_lexicon_pds_url, settings.ac_relay_url, settings.ac_media_url):
        settings.proxies.of(httpx.URL((address or "").replace("{bucket}", "bucket")))
    home = settings.dagster_home.expanduser()
    if home.is_absolute():
        return settings
    anchored = folder / home
    changes: dict[str, Any] = {"dagster_home": anchored}
    if settings.ac_renditions_url == str(settings.dagster_home / "renditions"):
        changes["ac_renditions_url"] = str(anchored / "renditions")
    return settings.model_copy(update=changes)


def load_timetable(env_dir: Path | None = None) -> Timetable:
    """When the schedules tick; needs no other setting. `env_dir`: as in `load_settings`. Raises Misconfigured: a cron
    line is wrong. The message names its variable."""
    return _load(Timetable, (env_dir or Path.cwd()).resolve())


def _load(kind: type[Loaded], folder: Path) -> Loaded:
    try:
        # `_env_file` is the documented argument of BaseSettings, which its generated signature hides from mypy.
        return kind(_env_file=tuple(folder / name for name in ENV_FILES), **_put_right(folder))  # type: ignore[call-arg]
    except (ValidationError, UnicodeDecodeError) as error:
        raise Misconfigured(_sentence(error, folder)) from None  # the original error holds the values


def _put_right(folder: Path) -> dict[str, str]:
    """Settings whose variables a command of Dagster has overwritten with `.env`, as they were meant: what the
    environment said when the command was started, else `.env.local`. Raises Misconfigured: `.env` and `.env.local`
    differ, and it cannot be told what the environment said."""
    env, local = (dotenv_values(folder / name, encoding="utf-8") for name in ENV_FILES)
    doubtful = {
        name: value
        for name, value in env.items()
        if name.lower() in Settings.model_fields and value is not None and os.environ.get(name) == value
    }
    given = _given_to_dagster() if doubtful else {}
    if given is None:
        differing = [name for name, value in doubtful.items() if local.get(name) not in {None, "", value}]
        if differing and "dagster" in sys.modules:
            raise Misconfigured(
                f"{' and '.join(differing)}: {folder / ENV_FILES[0]}, which Dagster reads over the environment, and "
                f"{folder / ENV_FILES[1]} differ; start with `make dev`, or name it in one of them only."
            )
        return {}
    meant = {name: given.get(name) or local.get(name) for name, value in doubtful.items() if given.get(name) != value}
    return {name.lower(): value for name, value in meant.items() if value}


def _given_to_dagster() -> Mapping[str, str] | None:
    """The environment with which the command of Dagster was started that this process belongs to; ours where there is
    none; None where the system does not tell."""
    found: Mapping[str, str] = os.environ
    pid = os.getpid()
    try:
        while pid:
            process = Path("/proc") / str(pid)
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            if _is_dagster(words):
                entries = (process / "environ").read_text(errors="replace").split("\0")
                found = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            elif pid != os.getpid() and "--multiprocessing-fork" not in words:
                break
            pid = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return None
    return found


def _is_dagster(words: Sequence[str]) -> bool:
    """True if a command line is one of Dagster's commands: by its script, or by the module that Python runs."""
    names = [Path(word).name for word in words[:2]]
    if "-m" in words:
        names += words[words.index("-m") + 1 :][:1]
    return any(_DAGSTER.fullmatch(name) for name in names)


def _sentence(error: ValidationError | UnicodeDecodeError, folder: Path) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"The settings in {folder} cannot be read: .env and .env.local must be UTF-8 text."
    details = error.errors(include_input=False, include_url=False, include_context=False)
    missing = sorted({_variable(detail) for detail in details if detail["type"] == "missing"})
    wrong = [f"{_variable(detail)} {_lower(str(detail['msg']))}" for detail in details if detail["type"] != "missing"]
    parts = [f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"] if missing else []
    them = "it" if len(missing) + len(wrong) == 1 else "them"
    where = f"in the environment or in {folder / ENV_FILES[0]} (see .env.example)"
    return f"{'; '.join([*parts, *wrong])}: set {them} {where}."


def _variable(detail: Any) -> str:
    return str(detail["loc"][0]).upper() if detail["loc"] else "A setting"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
