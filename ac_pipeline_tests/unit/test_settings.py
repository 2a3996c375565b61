"""Settings: defaults, precedence, and one clear sentence for what is missing or wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ac_pipeline.errors import Misconfigured
from ac_pipeline.settings import Settings, load_settings, load_timetable

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def write(folder: Path, name: str = ".env", **variables: str) -> None:
    needed = (
        {"MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1", "MONGODB_NAME": "aesthetic"} if name == ".env" else {}
    )
    (folder / name).write_text("".join(f"{key}={value}\n" for key, value in {**needed, **variables}.items()))


def test_two_variables_are_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    write(tmp_path)
    settings = load_settings(tmp_path)
    assert settings.mongodb_connection_string.get_secret_value() == "mongodb://127.0.0.1:1"
    assert settings.pds_url == "https://at.aesthetic.computer"
    assert settings.ac_ledger_database == "aesthetic-pipeline"
    assert settings.ac_media_url == "https://{bucket}.sfo3.digitaloceanspaces.com"
    assert settings.dagster_home == tmp_path / ".dagster"
    assert settings.ac_renditions_url == str(tmp_path / ".dagster" / "renditions")
    assert settings.pds_admin_password is None
    assert settings.dagster_postgres_url is None


def test_the_later_file_wins_and_the_environment_wins_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, PDS_URL="https://one.example", AC_LEDGER_DATABASE="one", AC_OPERATOR="one")
    write(tmp_path, ".env.local", PDS_URL="https://two.example", AC_LEDGER_DATABASE="two")
    monkeypatch.setenv("PDS_URL", "https://three.example")
    settings = load_settings(tmp_path)
    assert (settings.pds_url, settings.ac_ledger_database, settings.ac_operator) == (
        "https://three.example",
        "two",
        "one",
    )


def test_a_copied_example_counts_as_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((PROJECT / ".env.example").read_text())
    with pytest.raises(Misconfigured, match=r"MONGODB_CONNECTION_STRING and MONGODB_NAME are not set: set them in"):
        load_settings(tmp_path)
    (tmp_path / ".env").write_text("MONGODB_NAME=platform\n")
    with pytest.raises(Misconfigured, match=r"MONGODB_CONNECTION_STRING is not set: set it in"):
        load_settings(tmp_path)


def test_the_example_documents_every_variable() -> None:
    documented = set(re.findall(r"^([A-Z_]+)=$", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MONGODB_CONNECTION_STRING", "http://user:hunter2@host"),
        ("MONGODB_NAME", "a.b"),
        ("MONGODB_NAME", "x" * 64),
        ("PDS_URL", "at.aesthetic.computer"),
        ("PDS_URL", "https://admin:hunter2@host"),
        ("AC_MEDIA_URL", "https://sfo3.digitaloceanspaces.com"),
        ("AC_MEDIA_URL", "ftp://{bucket}.example"),
        ("AC_MEDIA_BUCKETS", "one.two"),
        ("AC_MEDIA_BUCKETS", "one-bucket,,another"),
        ("DAGSTER_POSTGRES_URL", "postgresql://user:hunter2@host/dagster"),
        ("AC_CONCURRENT_USERS", "0"),
        ("AC_CONCURRENT_USERS", "hunter2"),
        ("AC_POINTS_HEADROOM", "1"),
        ("AC_RELAY_COMMITS_PER_HOUR", "-1"),
        ("AC_RELAY_COMMITS_PER_HOUR", "hunter2"),
        ("AC_QUARANTINE_THRESHOLD", "hunter2"),
        ("AC_QUARANTINE_THRESHOLD", "101%"),
        ("AC_PDS_TIMEOUT_SECONDS", "0"),
        ("AC_POOL_LIMITS", "encoding"),
        ("AC_POOL_LIMITS", "encoding=2,pds=0"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it_and_hides_its_value(
    tmp_path: Path, variable: str, value: str
) -> None:
    """ACCT-5: a password in a mistyped address does not reach the message."""
    write(tmp_path, **{variable: value})
    with pytest.raises(Misconfigured) as caught:
        load_settings(tmp_path)
    assert caught.value.message.startswith(variable)
    assert "\n" not in caught.value.message
    assert "hunter2" not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MONGODB_NAME", "x" * 63),
        ("AC_MEDIA_BUCKETS", "one-bucket, another"),
        ("AC_MEDIA_URL", "http://127.0.0.1:9000/{bucket}"),
        ("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://user:pw@host/dagster"),
        ("AC_CONCURRENT_USERS", "1"),
        ("AC_POINTS_HEADROOM", "0"),
        ("AC_RELAY_COMMITS_PER_HOUR", "0"),
        ("AC_QUARANTINE_THRESHOLD", "0.5%"),
        ("PDS_URL", "http://localhost:2583/"),
        ("AC_POOL_LIMITS", "encoding=3, pds=4"),
    ],
)
def test_usable_values_are_taken(tmp_path: Path, variable: str, value: str) -> None:
    # A ledger's name is derived from the source's, so the longest source name needs one of its own.
    write(tmp_path, **{"AC_LEDGER_DATABASE": "ledger", variable: value})
    assert load_settings(tmp_path)


def test_secrets_do_not_show(tmp_path: Path) -> None:
    """ACCT-5: printing the settings shows no password."""
    write(
        tmp_path,
        MONGODB_CONNECTION_STRING="mongodb://user:hunter2@host",
        PDS_ADMIN_PASSWORD="hunter2",
        PDS_RATE_LIMIT_BYPASS_KEY="hunter2",
        DAGSTER_POSTGRES_URL="postgresql+psycopg2://user:hunter2@host/dagster",
    )
    settings = load_settings(tmp_path)
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_timetable_is_read_without_any_other_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code location loads where no database is named; what the environment says wins over `.env`."""
    assert load_timetable(tmp_path).ac_cron_sync == "0 * * * *"
    (tmp_path / ".env").write_text("AC_CRON_SYNC=*/10 * * * *\nAC_CRON_VERIFY=15 4 * * 6\nAC_CRON_RECONCILE=\n")
    monkeypatch.setenv("AC_CRON_VERIFY", "0 6 * * 1")
    found = load_timetable(tmp_path)
    assert (found.ac_cron_sync, found.ac_cron_reconcile, found.ac_cron_verify) == (
        "*/10 * * * *",
        "30 3 * * *",
        "0 6 * * 1",
    )


@pytest.mark.parametrize("did", ["did:plc:abc", "did:web:example.com"])
def test_the_lexicon_authority_is_a_did(did: str, tmp_path: Path) -> None:
    write(tmp_path, AC_LEXICON_AUTHORITY=did)
    assert load_settings(tmp_path).ac_lexicon_authority == did


@pytest.mark.parametrize("name", ["jeffrey", "did:plc:", "https://example.com"])
def test_any_other_lexicon_authority_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, AC_LEXICON_AUTHORITY=name)
    with pytest.raises(Misconfigured, match="AC_LEXICON_AUTHORITY must be a DID"):
        load_settings(tmp_path)


@pytest.mark.parametrize("domain", ["example.com", "Mail.at.aesthetic.computer"])
def test_addresses_of_new_accounts_need_a_domain(domain: str, tmp_path: Path) -> None:
    write(tmp_path, AC_ACCOUNT_EMAIL_DOMAIN=domain)
    assert load_settings(tmp_path).ac_account_email_domain == domain.lower()


@pytest.mark.parametrize("domain", ["localhost", "127.0.0.1", "me@example.com", "-a.com", "a..com"])
def test_what_is_no_domain_is_refused(domain: str, tmp_path: Path) -> None:
    write(tmp_path, AC_ACCOUNT_EMAIL_DOMAIN=domain)
    with pytest.raises(Misconfigured, match="AC_ACCOUNT_EMAIL_DOMAIN must be a domain"):
        load_settings(tmp_path)


# -------------------------------------------------------------------------- started by Dagster, which reads `.env` too

_SHOW = """
import os, sys
from pathlib import Path
from ac_pipeline.errors import Misconfigured
from ac_pipeline.settings import load_settings
try:
    settings = load_settings(Path(sys.argv[1]))
    print(settings.pds_url, settings.mongodb_name)
except Misconfigured as error:
    print(error.message)
"""
_DAGSTER = """
import os, subprocess, sys
from dotenv import dotenv_values
os.environ.update(dotenv_values(os.path.join(sys.argv[2], ".env")))
subprocess.run([sys.executable, sys.argv[1], sys.argv[2]], check=True)
"""


def shown(folder: Path, *, dagster: bool, **environment: str) -> str:
    """What a process reads that a command of Dagster has started, or a shell."""
    scripts = folder / "scripts"
    scripts.mkdir(exist_ok=True)
    (scripts / "show.py").write_text(_SHOW)
    (scripts / "dagster").write_text(_DAGSTER)
    start = [str(scripts / "dagster")] if dagster else []
    done = subprocess.run(
        [sys.executable, *start, str(scripts / "show.py"), str(folder)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("dagster", [False, True], ids=["a shell", "Dagster"])
@pytest.mark.parametrize(
    ("env", "local", "environment", "found"),
    [
        ({"PDS_URL": "http://one"}, {"PDS_URL": "http://two"}, {}, "http://two"),
        ({"PDS_URL": "http://one"}, {"PDS_URL": "http://two"}, {"PDS_URL": "http://three"}, "http://three"),
        ({"PDS_URL": "http://one"}, {"PDS_URL": "http://two"}, {"PDS_URL": "http://one"}, "http://one"),
        ({"PDS_URL": "http://one"}, {}, {"PDS_URL": "http://three"}, "http://three"),
        ({"PDS_URL": "http://one"}, {"PDS_URL": ""}, {"PDS_URL": ""}, "http://one"),
        ({"PDS_URL": ""}, {"PDS_URL": "http://two"}, {}, "http://two"),
        ({"PDS_URL": ""}, {}, {"PDS_URL": "http://three"}, "http://three"),
        ({}, {"PDS_URL": "http://two"}, {"PDS_URL": "http://three"}, "http://three"),
    ],
)
def test_one_order_of_precedence_whoever_starts_us(
    tmp_path: Path,
    *,
    env: dict[str, str],
    local: dict[str, str],
    environment: dict[str, str],
    found: str,
    dagster: bool,
) -> None:
    """GUARD-4: Dagster's commands read `.env` over the environment; what it said before counts, and `.env.local`."""
    write(tmp_path, **env)
    write(tmp_path, ".env.local", **local)
    assert shown(tmp_path, dagster=dagster, **environment) == f"{found} aesthetic"


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GUARD-4: where the system does not tell with which environment Dagster was started."""
    write(tmp_path, PDS_URL="http://one", AC_OPERATOR="ada")
    write(tmp_path, ".env.local", PDS_URL="http://two")
    monkeypatch.setattr("ac_pipeline.settings._given_to_dagster", lambda: None)
    assert load_settings(tmp_path).pds_url == "http://two"
    monkeypatch.setenv("PDS_URL", "http://one")
    monkeypatch.setenv("AC_OPERATOR", "ada")
    monkeypatch.setitem(sys.modules, "dagster", sys)
    for load in (load_settings, load_timetable):
        with pytest.raises(Misconfigured) as refused:
            load(tmp_path)
        assert refused.value.message.startswith(f"PDS_URL: {tmp_path / '.env'}, which Dagster reads")
        assert str(tmp_path / ".env.local") in refused.value.message
        assert "\n" not in refused.value.message
    monkeypatch.setenv("PDS_URL", "http://three")
    assert load_settings(tmp_path).pds_url == "http://three"


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("mongodb://127.0.0.1:27017", " at 127.0.0.1:27017"),
        ("mongodb+srv://user:hunter2@cluster.example/?appName=x", " at cluster.example"),
        ("mongodb://user:hunter2@a.example:1,b.example:2/admin", " at a.example:1,b.example:2"),
        ("mongodb://user:12/hunter2@host", ""),
        ("mongodb://user:hunter2@x@host", ""),
        ("mongodb://user:hunter2", ""),
        ("mongodb://host/?tlsCertificateKeyFilePassword=hunter2@x", ""),
    ],
)
def test_where_it_writes_is_said_without_credentials(tmp_path: Path, uri: str, where: str) -> None:
    """GUARD-4, ACCT-5."""
    write(tmp_path, MONGODB_CONNECTION_STRING=uri, PDS_URL="https://pds.example:8443/path")
    said = load_settings(tmp_path).destination
    assert said == f"PDS pds.example:8443 and database aesthetic{where} (ledger: aesthetic-pipeline)"
