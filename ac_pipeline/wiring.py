"""Wiring: settings in, one ready pipeline of plain clients out. The only place that chooses implementations; no rules
live here. Tests hand in their own parts."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.admin import Administration
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.lexicon import Lexicons, load_lexicons
from ac_pipeline.atproto.rate_limits import Budget, Pace
from ac_pipeline.atproto.relay import Relay
from ac_pipeline.atproto.sessions import Sessions, SignIn
from ac_pipeline.atproto.transport import Transport, open_http
from ac_pipeline.bounds import Limit, Limits
from ac_pipeline.errors import PipelineError
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.accounts import MongoAccounts, MongoProvisioning
from ac_pipeline.mongo.changes.pending import MongoChanges
from ac_pipeline.mongo.database import connect
from ac_pipeline.mongo.documents import MongoDocuments
from ac_pipeline.mongo.ledger.audit import MongoAudit
from ac_pipeline.mongo.ledger.collections import (
    MongoBudgetStore,
    MongoCounters,
    MongoPublishedLexicons,
    MongoSessionStore,
    MongoSnapshots,
)
from ac_pipeline.mongo.ledger.items import MongoLedger
from ac_pipeline.mongo.ledger.leases import is_dead, own_mark
from ac_pipeline.mongo.ledger.plans import MongoPlans
from ac_pipeline.mongo.ledger.receipts import MongoReceipts
from ac_pipeline.mongo.ledger.whole import bring_up_to_date
from ac_pipeline.objects import ObjectStorage, storage_client
from ac_pipeline.renditions.renderer import Renderer
from ac_pipeline.renditions.store import RenditionStore
from ac_pipeline.settings import Settings
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.lexicon_gate import Authority, LexiconGate
from ac_pipeline.sync.safeguard import Safeguard

_WORK, _MARK = "ac-pipeline-", "process"
_log = logging.getLogger(__name__)


class Pipeline:
    """All parts of a running pipeline. Made by `open_pipeline`."""

    def __init__(self, settings: Settings, stack: ExitStack, sleep: Callable[[float], None]) -> None:
        mongo = connect(
            settings.mongodb_connection_string.get_secret_value(), selection_seconds=settings.ac_mongo_timeout_seconds
        )
        source, own = mongo[settings.mongodb_name], mongo[settings.ac_ledger_database]
        http = stack.enter_context(open_http(timeout=settings.ac_pds_timeout_seconds, proxies=settings.proxies))
        media_http = stack.enter_context(
            storage_client(
                timeout=settings.ac_media_timeout_seconds,
                connections=settings.ac_concurrent_downloads,
                proxies=settings.proxies,
            )
        )
        bypass = settings.pds_rate_limit_bypass_key
        pds = partial(_pds, settings, settings.pds_url, http, own, bypass=bypass, sleep=sleep)
        now, host = (lambda: datetime.now(UTC)), httpx.URL(settings.pds_url).netloc.decode()

        self.settings = settings
        bring_up_to_date(own)
        self.ledger = MongoLedger(own)
        self.ledger.ensure_indexes()
        self.audit = MongoAudit(own, who=settings.ac_operator)
        self.snapshots = MongoSnapshots(own)
        self.receipts = MongoReceipts(own)
        self.counters = MongoCounters(own)
        self.plans = MongoPlans(own, settings.ac_operator)
        self.budgets = MongoBudgetStore(own["budgets"])
        self.provisioning = MongoProvisioning(source, own)
        self.changes = MongoChanges(source, own)
        self.documents = MongoDocuments(source)
        self.lexicons = lexicons_of_types()
        self.server = PdsClient(*pds())
        password = settings.pds_admin_password
        self.administration = Administration(*pds(), password.get_secret_value() if password else None)
        self.store = RenditionStore(settings.ac_renditions_url, settings.renditions_options)
        self.objects = ObjectStorage(
            media_http,
            settings.ac_media_url,
            buckets=settings.ac_media_buckets.split(","),
            limit=_limits(settings).media,
            concurrency=settings.ac_concurrent_downloads,
        )
        self.renderer = Renderer(
            self.objects,
            self.store,
            blob_limit=self.server.blob_limit,
            work_dir=stack.enter_context(work_folder()),
            ffmpeg=str(settings.ac_ffmpeg) if settings.ac_ffmpeg else None,
            encode_seconds=settings.ac_encode_timeout_seconds,
            encode_pixels=settings.ac_encode_megapixels * 1_000_000,
            encode_slots=settings.ac_concurrent_encodes,
        )
        renders = ThreadPoolExecutor(settings.ac_concurrent_downloads, thread_name_prefix="rendition")
        # Whoever closes a pipeline waits for nothing: after a second Ctrl-C renditions are still being made.
        stack.callback(renders.shutdown, wait=False, cancel_futures=True)
        self.safeguard = Safeguard(
            self.documents,
            self.ledger,
            self.server,
            MongoAccounts(source).all,
            now,
            share=settings.ac_max_orphan_share,
            floor=settings.ac_orphan_floor,
            silent_days=settings.ac_silent_days,
            database=settings.mongodb_name,
            host=host,
        )
        self.accounts = MongoAccounts(source, check=self.safeguard.check_accounts)
        authority = _authority(settings, self.server, http, own)
        self.gate = LexiconGate(self.lexicons, authority, MongoPublishedLexicons(own))
        self.engine = Engine(
            documents=self.documents,
            server=self.server,
            ledger=self.ledger,
            renderer=self.renderer,
            lexicons=self.lexicons,
            host=host,
            holder=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}",
            now=now,
            renders=renders,
            safeguard=self.safeguard,
            gate=self.gate.require,
            grace=settings.ac_tape_grace_seconds,
            erase_copies=settings.ac_erase_copies,
            current=self.accounts.current,
        )

    def keep_counts(self) -> None:
        """Add what this pipeline has asked for and spent to what all have; metrics are no reason to fail."""
        encodings = self.renderer.encodings
        with suppress(PipelineError):
            self.counters.add(
                asdict(self.server.usage())
                | {"media_bytes_downloaded": self.objects.bytes_downloaded}
                | {"encodings": len(encodings), "encoding_seconds": sum(encodings)}
            )


def lexicons_of_types() -> Lexicons:
    """The lexicons of all media types, those of other packages included. Raises Misconfigured: one is missing or cannot
    be used."""
    return load_lexicons(
        needed=[media.nsid for media in MEDIA_TYPES],
        more=[media.lexicons for media in MEDIA_TYPES if media.lexicons is not None],
    )


@contextmanager
def open_pipeline(settings: Settings, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[Pipeline]:
    """Open every client the settings name, and close them in the end. Raises Misconfigured (a setting or a lexicon
    cannot be used), ServiceUnreachable (MongoDB does not answer)."""
    _log.info("Works on %s.", settings.destination)
    with ExitStack() as stack:
        pipeline = Pipeline(settings, stack, sleep)
        stack.callback(pipeline.keep_counts)
        yield pipeline


@contextmanager
def work_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder for temporary files, gone in the end; so are those of processes that have certainly died. `place`: where
    they are; the system's folder for temporary files when None."""
    for left in (place or Path(tempfile.gettempdir())).glob(f"{_WORK}*"):
        with suppress(OSError):
            if left.lstat().st_uid == os.getuid() and is_dead((left / _MARK).read_text()):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=place) as folder:
        Path(folder, _MARK).write_text(own_mark() or "")
        yield Path(folder)


@contextmanager
def open_relay(settings: Settings, url: str) -> Iterator[Relay]:
    """The client of a relay. Raises Misconfigured: the address cannot be used."""
    with open_http(timeout=settings.ac_pds_timeout_seconds, proxies=settings.proxies) as http:
        yield Relay(url, http=http, limits=_limits(settings))


def _pds(
    settings: Settings,
    url: str,
    http: httpx.Client,
    own: Database[dict[str, Any]],
    *,
    bypass: SecretStr | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Transport, Sessions, Pace]:
    """What a client of a PDS is made of. Sessions and budgets are shared by all runs, in our own database."""
    budgets = MongoBudgetStore(own["budgets"])
    transport = Transport(
        url,
        http=http,
        # With the key, limits that were learned without it do not hold; the relay does not know of it.
        budget=Budget(store=None if bypass else budgets, headroom=settings.ac_points_headroom, sleep=sleep),
        bypass_key=bypass.get_secret_value() if bypass else None,
        limits=_limits(settings),
        sleep=sleep,
    )
    pace = Pace(transport.host, settings.ac_relay_commits_per_hour, store=budgets, sleep=sleep)
    return transport, Sessions(MongoSessionStore(own["sessions"]), SignIn(transport)), pace


def _limits(settings: Settings) -> Limits:
    """How long, slow and large answers may be."""
    values, least = settings.model_dump(), settings.ac_least_bytes_per_second

    def limit(name: str) -> Limit:
        return Limit(f"AC_{name.upper()}", values[f"ac_{name}_seconds"], values[f"ac_{name}_megabytes"], least)

    return Limits(limit("answer"), limit("repository"), limit("blob"), limit("media"))


def _authority(
    settings: Settings, server: PdsClient, http: httpx.Client, own: Database[dict[str, Any]]
) -> Authority | None:
    """Who publishes the lexicons: an account of our PDS, or of another one."""
    did, url, password = settings.ac_lexicon_authority, settings.ac_lexicon_pds_url, settings.ac_lexicon_password
    if did is None:
        return None
    account = Account(did, "lexicon authority", did=did, password=password.get_secret_value() if password else None)
    if url is not None and url != settings.pds_url:
        server = PdsClient(*_pds(settings, url, http, own))
    return Authority(account, server)


def new_run_id() -> str:
    """A run id for a run that Dagster does not name."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
