"""The settings: every environment variable the pipeline reads, with its default and its check.

Read once, at the edge, by `load_settings`; nothing below the edge looks at the environment. Turning settings into
clients is `wiring.py`. `.env.example` documents the same variables for people.
"""

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
    """An allowance, as a setting names it; `str` gives that form back.

    Args:
        items: So many items, where it is a number.
        percent: So many of a hundred, where it is a share; None where it is a number.
    """

    items: int = 0
    percent: float | None = None

    def covers(self, amiss: int, of: int) -> bool:
        """Whether it is still allowed that so many of so many are amiss; what is exactly at the limit is."""
        return amiss <= self.items if self.percent is None else 100 * amiss <= self.percent * of

    def __str__(self) -> str:
        return str(self.items) if self.percent is None else f"{self.percent:g}%"


def allowance(value: object) -> Allowance:
    """Read `25` or `0.5%`.

    Raises:
        ValueError: Something else, or a share over 100 %.
    """
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
_DATABASE = re.compile(r"[^/\\. \"$*<>:|?\0]{1,63}")
"""Characters and length MongoDB allows in the name of a database."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DID = re.compile(r"did:[a-z]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")
_POSTGRES = "postgresql+psycopg2://"


def _mongo_uri(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    return value


def _database(value: str) -> str:
    if _DATABASE.fullmatch(value) is None:
        raise ValueError("must be the name of a database: 1 to 63 characters, no dots, spaces or slashes")
    return value


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an http or https address without user and password")
    return value.rstrip("/")


def _template(value: str) -> str:
    if value.count("{bucket}") != 1:
        raise ValueError("must hold {bucket} once, for the name of the bucket")
    return _address(value.replace("{bucket}", "bucket")) and value.rstrip("/")


def _buckets(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    if not all(_BUCKET.fullmatch(name) for name in names):
        raise ValueError("must be names of buckets with commas between them")
    return ",".join(names)


def _secret_address(value: SecretStr) -> SecretStr:
    try:
        _address(value.get_secret_value())
    except ValueError:
        raise ValueError("must be an http or https address without user and password") from None
    return value


def _did(value: str) -> str:
    if _DID.fullmatch(value) is None:
        raise ValueError("must be a DID such as did:plc:...")
    return value


def _domain(value: str) -> str:
    if _DOMAIN.fullmatch(value) is None:
        raise ValueError("must be a domain such as example.com")
    return value.lower()


def _postgres(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(_POSTGRES):
        raise ValueError(f"must begin with {_POSTGRES}")
    return value


def pool_limits(value: str) -> dict[str, int]:
    """Read `encoding=2,pds=4`: the limit of each pool that is named.

    Raises:
        ValueError: Something else, or a limit below 1.
    """
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
DatabaseName = Annotated[str, AfterValidator(_database)]


class Timetable(BaseSettings):
    """When the schedules tick, in UTC: the settings the code location needs when it loads, and nothing else."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True, env_file_encoding="utf-8"
    )

    ac_cron_sync: str = "0 * * * *"
    ac_cron_reconcile: str = "30 3 * * *"
    ac_cron_verify: str = "0 5 * * 0"


class Settings(Timetable):
    """All settings. Field names are the variables' names in lower case; secrets do not show in `repr`."""

    mongodb_connection_string: Annotated[SecretStr, AfterValidator(_mongo_uri)]
    mongodb_name: DatabaseName
    pds_url: Address = "https://at.aesthetic.computer"
    pds_admin_password: SecretStr | None = None
    pds_rate_limit_bypass_key: SecretStr | None = None
    ac_ledger_database: DatabaseName = ""
    ac_media_url: Annotated[str, AfterValidator(_template)] = "https://{bucket}.sfo3.digitaloceanspaces.com"
    ac_media_buckets: Annotated[str, AfterValidator(_buckets)] = (
        "user-aesthetic-computer,art-aesthetic-computer,at-blobs-aesthetic-computer"
    )
    ac_renditions_url: str = Field(default="", repr=False)
    ac_lexicon_authority: Annotated[str, AfterValidator(_did)] | None = None
    ac_lexicon_pds_url: Address | None = None
    ac_lexicon_password: SecretStr | None = None
    ac_account_email_domain: Annotated[str, AfterValidator(_domain)] | None = None
    ac_relay_url: Address | None = None
    ac_operator: str | None = None
    dagster_home: Path = Path(".dagster")
    dagster_postgres_url: Annotated[SecretStr, AfterValidator(_postgres)] | None = None
    ac_dagster_yaml: Path | None = None
    ac_pool_limits: Annotated[str, AfterValidator(_pool_limits)] = ""
    ac_dagster_url: Address | None = None
    ac_alert_webhook_url: Annotated[SecretStr, AfterValidator(_secret_address)] | None = None

    ac_ffmpeg: Path | None = None
    ac_concurrent_users: int = Field(default=12, ge=1, le=64)
    ac_concurrent_downloads: int = Field(default=8, ge=1, le=64)
    ac_concurrent_encodes: int = Field(default=2, ge=1, le=64)
    ac_encode_timeout_seconds: float = Field(default=600.0, gt=0)
    ac_encode_megapixels: int = Field(default=6_000, ge=1)
    ac_tape_grace_seconds: float = Field(default=600.0, ge=0)
    ac_pds_timeout_seconds: float = Field(default=60.0, gt=0)
    ac_media_timeout_seconds: float = Field(default=60.0, gt=0)
    ac_mongo_timeout_seconds: float = Field(default=15.0, gt=0)
    ac_answer_seconds: float = Field(default=120.0, gt=0)
    ac_answer_megabytes: int = Field(default=16, ge=1)
    ac_repository_seconds: float = Field(default=900.0, gt=0)
    ac_repository_megabytes: int = Field(default=256, ge=1)
    ac_blob_seconds: float = Field(default=900.0, gt=0)
    ac_blob_megabytes: int = Field(default=256, ge=1)
    ac_media_seconds: float = Field(default=900.0, gt=0)
    ac_media_megabytes: int = Field(default=1024, ge=1)
    ac_least_bytes_per_second: int = Field(default=500, ge=0)
    ac_points_headroom: float = Field(default=0.1, ge=0, lt=1)
    ac_relay_commits_per_hour: int = Field(default=2_500, ge=0)
    ac_erase_copies: bool = True
    ac_max_orphan_share: float = Field(default=0.1, ge=0, le=1)
    ac_orphan_floor: int = Field(default=5, ge=0)
    ac_silent_days: int = Field(default=14, ge=0)
    ac_quarantine_threshold: Annotated[Allowance, NoDecode, BeforeValidator(allowance)] = Allowance()
    ac_blocked_threshold: Annotated[Allowance, NoDecode, BeforeValidator(allowance)] = Allowance(percent=10)

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
    """When the schedules tick; needs no other setting.

    Args:
        env_dir: As in `load_settings`.

    Raises:
        Misconfigured: A cron line is wrong. The message names its variable.
    """
    return _load(Timetable, (env_dir or Path.cwd()).resolve())


def _load(kind: type[Loaded], folder: Path) -> Loaded:
    try:
        # `_env_file` is the documented argument of BaseSettings, which its generated signature hides from mypy.
        return kind(_env_file=tuple(folder / name for name in ENV_FILES), **_put_right(folder))  # type: ignore[call-arg]
    except (ValidationError, UnicodeDecodeError) as error:
        raise Misconfigured(_sentence(error, folder)) from None  # the original error holds the values


def _put_right(folder: Path) -> dict[str, str]:
    """Settings whose variables a command of Dagster has overwritten with `.env`, as they were meant: what the
    environment said when the command was started, else `.env.local`.

    Raises:
        Misconfigured: `.env` and `.env.local` differ, and it cannot be told what the environment said.
    """
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
    """Whether a command line is one of Dagster's commands: by its script, or by the module that Python runs."""
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
    return f"{'; '.join([*parts, *wrong])}: set it in the environment or in {folder / ENV_FILES[0]} (see .env.example)."


def _variable(detail: Any) -> str:
    return str(detail["loc"][0]).upper() if detail["loc"] else "A setting"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
