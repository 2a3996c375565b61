"""Reading object storage: what every answer means, and what reaches the disk."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ac_pipeline.errors import Misconfigured, RateLimited, ServerFailed, ServiceUnreachable, SourceMissing, TooLarge
from ac_pipeline.media.base import SourceObject
from ac_pipeline.objects import LONGEST_WAIT, ObjectStorage, storage_client
from ac_pipeline_tests.object_server import ObjectServer, Reply, object_server

pytestmark = pytest.mark.slow

BUCKET = "user-aesthetic-computer"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def source(key: str, bucket: str = BUCKET) -> SourceObject:
    return SourceObject(bucket, key, "png")


class Waits:
    """A sleep that only notes how long it was asked to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with object_server() as running:
        yield running


@pytest.fixture
def storage(server: ObjectServer, waits: Waits) -> Iterator[ObjectStorage]:
    with storage_client() as client:
        yield ObjectStorage(client, server.template, sleep=waits, clock=NOW.timestamp, jitter=lambda: 0.5)


def scripted(
    answer: Callable[[httpx.Request], httpx.Response], waits: Waits, template: str = "https://{bucket}.example.test"
) -> ObjectStorage:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return ObjectStorage(client, template, sleep=waits, clock=NOW.timestamp, jitter=lambda: 0.5)


def test_one_connection_serves_whatever_is_there_and_whatever_is_not(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    """A painting is three requests, two of them for recordings that most do not have: no handshake for each."""
    server.objects[f"/{BUCKET}/a.png"] = b"pixels"
    for _ in range(3):
        assert storage.exists([source("a.zip"), source("b.zip")]) is None
        assert storage.exists([source("a.png")]) == source("a.png")
        assert storage.fetch([source("b.png"), source("a.png")], tmp_path / "it", 100).size == 6
    assert server.connections == 1


def test_the_first_existing_candidate_is_downloaded_and_hashed(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-3: candidates in order, each segment percent-encoded, 403 and 404 lead to the next."""
    body = bytes(range(256)) * 1000
    server.objects[f"/{BUCKET}/auth0%7Cx/1%3A2.png"] = body
    server.replies[f"/{BUCKET}/auth0%7Cx/painting/1%3A2.png"] = [Reply(403)]

    fetched = storage.fetch(
        [source("auth0|x/painting/1:2.png"), source("auth0|x/none.png"), source("auth0|x/1:2.png")],
        tmp_path / "file",
        1 << 20,
    )

    assert fetched.object.key == "auth0|x/1:2.png"
    assert (fetched.path.read_bytes(), fetched.size) == (body, len(body))
    assert fetched.sha256 == hashlib.sha256(body).hexdigest()
    assert server.paths("GET") == [
        f"/{BUCKET}/auth0%7Cx/painting/1%3A2.png",
        f"/{BUCKET}/auth0%7Cx/none.png",
        f"/{BUCKET}/auth0%7Cx/1%3A2.png",
    ]


def test_with_no_candidate_left_the_error_names_every_key_tried(
    storage: ObjectStorage, waits: Waits, tmp_path: Path
) -> None:
    """MEDIA-4: `source-missing`, at once and without retries."""
    with pytest.raises(SourceMissing) as error:
        storage.fetch([source("a/one.png"), source("a/two.png")], tmp_path / "file", 100)
    assert error.value.code == "source-missing"
    assert "a/one.png: 404" in error.value.message
    assert "a/two.png: 404" in error.value.message
    assert waits.seconds == []
    assert not (tmp_path / "file").exists()


def test_an_item_without_candidates_is_missing_its_source(storage: ObjectStorage, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no candidate key"):
        storage.fetch([], tmp_path / "file", 100)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 206])
def test_an_answer_that_says_nothing_about_existence_is_never_absence(
    status: int, storage: ObjectStorage, server: ObjectServer, waits: Waits, tmp_path: Path
) -> None:
    """MEDIA-3: asked three times with growing waits, then transient; the next candidate is not taken instead."""
    server.objects[f"/{BUCKET}/second.png"] = b"x"
    server.replies[f"/{BUCKET}/first.png"] = [Reply(status)] * 3

    with pytest.raises(RateLimited if status == 429 else ServerFailed) as error:
        storage.fetch([source("first.png"), source("second.png")], tmp_path / "file", 100)

    assert error.value.status == status
    assert server.paths("GET") == [f"/{BUCKET}/first.png"] * 3
    assert waits.seconds == [0.5, 1.0]


def test_a_server_that_recovers_is_asked_again(storage: ObjectStorage, server: ObjectServer, tmp_path: Path) -> None:
    server.objects[f"/{BUCKET}/a.png"] = b"here"
    server.replies[f"/{BUCKET}/a.png"] = [Reply(500), Reply(503)]
    assert storage.fetch([source("a.png")], tmp_path / "file", 100).path.read_bytes() == b"here"


def test_a_body_that_ends_early_is_transient_and_leaves_no_file(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    server.objects[f"/{BUCKET}/a.png"] = b"0123456789"
    server.replies[f"/{BUCKET}/a.png"] = [Reply(cut_after=4)] * 3
    with pytest.raises(ServiceUnreachable):
        storage.fetch([source("a.png")], tmp_path / "file", 100)
    assert not (tmp_path / "file").exists()


def test_a_body_cut_once_is_read_whole_the_next_time(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    server.objects[f"/{BUCKET}/a.png"] = b"0123456789"
    server.replies[f"/{BUCKET}/a.png"] = [Reply(cut_after=4)]
    fetched = storage.fetch([source("a.png")], tmp_path / "file", 100)
    assert fetched.path.read_bytes() == b"0123456789"
    assert fetched.sha256 == hashlib.sha256(b"0123456789").hexdigest()


def test_a_length_that_the_transport_does_not_check_is_checked_here(waits: Waits, tmp_path: Path) -> None:
    storage = scripted(lambda _: httpx.Response(200, headers={"content-length": "9"}, content=iter([b"12345"])), waits)
    with pytest.raises(ServiceUnreachable, match="5 of 9 bytes"):
        storage.fetch([source("a.png")], tmp_path / "file", 100)


def test_no_connection_is_transient(waits: Waits, tmp_path: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    storage = scripted(refuse, waits)
    with pytest.raises(ServiceUnreachable):
        storage.fetch([source("a.png")], tmp_path / "file", 100)
    with pytest.raises(ServiceUnreachable):
        storage.exists([source("a.png")])


@pytest.mark.parametrize("size", [100, 101])
def test_sizes_up_to_the_limit_are_taken(
    size: int, storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    server.objects[f"/{BUCKET}/a.png"] = b"x" * size
    if size <= 100:
        assert storage.fetch([source("a.png")], tmp_path / "file", 100).size == size
    else:
        with pytest.raises(TooLarge, match="101"):
            storage.fetch([source("a.png")], tmp_path / "file", 100)


class Body(httpx.SyncByteStream):
    """A body in pieces of 60 bytes, which counts those that were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(1000):
            self.taken += 1
            yield b"x" * 60


def test_of_a_body_that_declares_too_much_nothing_is_read(waits: Waits, tmp_path: Path) -> None:
    body = Body()
    storage = scripted(lambda _: httpx.Response(200, headers={"content-length": "60000"}, stream=body), waits)
    with pytest.raises(TooLarge, match="60000"):
        storage.fetch([source("a.png")], tmp_path / "file", 100)
    assert body.taken == 0


def test_a_body_without_length_is_cut_at_the_limit(waits: Waits, tmp_path: Path) -> None:
    body = Body()
    storage = scripted(lambda _: httpx.Response(200, stream=body), waits)
    with pytest.raises(ServerFailed, match="100"):
        storage.fetch([source("a.png")], tmp_path / "file", 100)
    assert body.taken == 2
    assert not (tmp_path / "file").exists()


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
HTML = {"Content-Type": "text/html; charset=utf-8", "ETag": ""}


@pytest.mark.parametrize(
    "strange",
    [
        Reply(body=b"<html>Please sign in</html>", headers=HTML),
        Reply(body=b"\n <!doctype html>", headers={"ETag": '"5f-1a2b"', "Content-Type": "text/html"}),
        Reply(body=b'{"blob": null}', headers={"ETag": ""}),
        Reply(body=b"", headers={"ETag": ""}),
        Reply(body=PNG[:100], headers={"ETag": f'"{hashlib.md5(PNG, usedforsecurity=False).hexdigest()}"'}),
        Reply(body=b"[]", headers={"ETag": '"0123456789abcdef0123456789abcdef"'}),
    ],
)
def test_an_answer_that_object_storage_never_gives_is_asked_for_again(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path, strange: Reply
) -> None:
    """ANSWER-1: a portal's page, another service's answer, a part of it: no verdict on the object."""
    path = f"/{BUCKET}/a.png"
    server.objects[path] = PNG
    server.replies[path] = [strange]
    assert storage.fetch([source("a.png")], tmp_path / "file", 1000).path.read_bytes() == PNG
    if strange.body in (PNG[:100], b""):  # the same bytes twice are the object, whatever its ETag is
        return
    server.replies[path] = [strange] * 3
    with pytest.raises(ServerFailed):
        storage.fetch([source("a.png")], tmp_path / "file", 1000)


def test_an_etag_that_is_no_md5_of_the_bytes_costs_a_second_download(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    """Some storage encrypts what it keeps: its ETags look like the MD5 and are not."""
    server.objects[f"/{BUCKET}/a.png"] = PNG
    server.replies[f"/{BUCKET}/a.png"] = [Reply(headers={"ETag": '"0123456789abcdef0123456789abcdef"'})] * 2
    assert storage.fetch([source("a.png")], tmp_path / "file", 1000).size == len(PNG)
    assert len(server.requests) == 2


def test_a_portal_s_page_does_not_make_an_object_exist(storage: ObjectStorage, server: ObjectServer) -> None:
    """ANSWER-1, MEDIA-22"""
    server.replies[f"/{BUCKET}/a.zip"] = [Reply(headers=HTML)]
    assert storage.exists([source("a.zip")]) is None
    assert server.paths("HEAD") == [f"/{BUCKET}/a.zip"] * 2


@pytest.mark.parametrize(
    "key", ["", "/a.png", "a//b.png", "a/", "../a.png", "a/../b.png", "a/./b.png", "..", "a/" + "x" * 1023]
)
def test_keys_that_would_point_elsewhere_are_never_requested(
    key: str, storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-3, MEDIA-12: `.`, `..` and empty segments are refused; the next candidate still counts."""
    server.objects[f"/{BUCKET}/good.png"] = b"x"
    with pytest.raises(SourceMissing):
        storage.fetch([source(key)], tmp_path / "file", 100)
    assert storage.exists([source(key)]) is None
    assert server.requests == []
    assert storage.fetch([source(key), source("good.png")], tmp_path / "file", 100).size == 1


@pytest.mark.parametrize("bucket", ["", "a.b", "evil.test/x", "UPPER", "a@b", "-a-", "127.0.0.1:80"])
def test_a_bucket_that_is_no_bucket_is_never_requested(bucket: str, waits: Waits, tmp_path: Path) -> None:
    """The bucket becomes part of a host name, and documents name it."""
    asked: list[httpx.URL] = []

    def note(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, content=b"x")

    with pytest.raises(SourceMissing):
        scripted(note, waits).fetch([source("a.png", bucket)], tmp_path / "file", 100)
    assert asked == []


def test_the_longest_key_that_storage_holds_is_requested(storage: ObjectStorage, server: ObjectServer) -> None:
    key = "x" * 1024
    server.objects[f"/{BUCKET}/{key}"] = b"x"
    assert storage.exists([source(key)]) == source(key)


def test_a_segment_cannot_smuggle_another_path(storage: ObjectStorage) -> None:
    assert storage.url(source("a|b/%2e%2e/c?d#e\\f é.png")).endswith(
        f"/{BUCKET}/a%7Cb/%252e%252e/c%3Fd%23e%5Cf%20%C3%A9.png"
    )


def test_existence_is_asked_by_head_and_downloads_nothing(storage: ObjectStorage, server: ObjectServer) -> None:
    """MEDIA-5."""
    server.objects[f"/{BUCKET}/b.zip"] = b"x" * 1000
    assert storage.exists([source("a.zip"), source("b.zip")]) == source("b.zip")
    assert storage.exists([source("a.zip")]) is None
    assert server.paths("HEAD") == [f"/{BUCKET}/a.zip", f"/{BUCKET}/b.zip", f"/{BUCKET}/a.zip"]
    assert server.paths("GET") == []


@pytest.mark.parametrize("status", [500, 503, 429, 400, 401])
def test_an_unanswered_existence_check_is_not_taken_for_no(
    status: int, storage: ObjectStorage, server: ObjectServer
) -> None:
    """MEDIA-5: retried, then transient."""
    server.objects[f"/{BUCKET}/b.zip"] = b"x"
    server.replies[f"/{BUCKET}/b.zip"] = [Reply(status)] * 2
    assert storage.exists([source("b.zip")]) == source("b.zip")
    server.replies[f"/{BUCKET}/b.zip"] = [Reply(status)] * 3
    with pytest.raises((ServerFailed, RateLimited)):
        storage.exists([source("b.zip")])


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        ("0", 0.5),
        ("Thu, 01 Jan 2026 00:00:05 GMT", 5.0),
        ("soon", 0.5),
        (str(int(LONGEST_WAIT)), LONGEST_WAIT),
    ],
)
def test_the_server_says_how_long_to_wait(
    header: str, wait: float, storage: ObjectStorage, server: ObjectServer, waits: Waits
) -> None:
    server.objects[f"/{BUCKET}/a.png"] = b"x"
    server.replies[f"/{BUCKET}/a.png"] = [Reply(429, {"Retry-After": header})]
    assert storage.exists([source("a.png")]) is not None
    assert waits.seconds == [wait]


def test_a_wait_that_is_too_long_is_handed_up_instead(
    storage: ObjectStorage, server: ObjectServer, waits: Waits
) -> None:
    server.replies[f"/{BUCKET}/a.png"] = [Reply(429, {"Retry-After": str(int(LONGEST_WAIT) + 1)})]
    with pytest.raises(RateLimited) as error:
        storage.exists([source("a.png")])
    assert error.value.retry_after == LONGEST_WAIT + 1
    assert waits.seconds == []


def test_a_redirect_on_the_same_host_is_followed(storage: ObjectStorage, server: ObjectServer, tmp_path: Path) -> None:
    server.objects[f"/{BUCKET}/moved.png"] = b"x"
    server.replies[f"/{BUCKET}/a.png"] = [Reply(307, {"Location": f"/{BUCKET}/moved.png"})]
    assert storage.fetch([source("a.png")], tmp_path / "file", 100).size == 1


def test_a_redirect_to_another_host_is_not_followed(
    storage: ObjectStorage, server: ObjectServer, tmp_path: Path
) -> None:
    with object_server() as other:
        other.objects["/x"] = b"x"
        server.replies[f"/{BUCKET}/a.png"] = [Reply(302, {"Location": f"{other.address}/x"})] * 3
        with pytest.raises(ServerFailed, match="AC_MEDIA_URL"):
            storage.fetch([source("a.png")], tmp_path / "file", 100)
        assert other.requests == []


def test_a_redirect_in_a_circle_ends(storage: ObjectStorage, server: ObjectServer) -> None:
    server.replies[f"/{BUCKET}/a.png"] = [Reply(301, {"Location": f"/{BUCKET}/a.png"})] * 50
    with pytest.raises(ServerFailed, match="redirects"):
        storage.exists([source("a.png")])


def test_compressed_transfer_is_not_asked_for_and_not_unpacked(waits: Waits, tmp_path: Path) -> None:
    """A stored `Content-Encoding` would let a small object unpack past every limit."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["accept-encoding"])
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=iter([b"stored bytes"]))

    fetched = scripted(answer, waits).fetch([source("a.png")], tmp_path / "file", 100)
    assert fetched.path.read_bytes() == b"stored bytes"
    assert seen == ["identity"]


def test_only_so_many_downloads_run_at_once(tmp_path: Path) -> None:
    running, most, guard = 0, 0, threading.Lock()
    enough = threading.Barrier(2)

    def body() -> Iterator[bytes]:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        enough.wait(10)  # two are let in together, never a third
        with guard:
            running -= 1
        yield b"x"

    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body())))
    storage = ObjectStorage(client, "https://{bucket}.example.test", concurrency=2)
    threads = [
        threading.Thread(target=storage.fetch, args=([source(f"{i}.png")], tmp_path / str(i), 10)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("template", ["", "https://example.test", "ftp://{bucket}.example.test", "{bucket}"])
def test_a_wrong_address_is_one_clear_sentence(template: str) -> None:
    with storage_client() as client, pytest.raises(Misconfigured, match="AC_MEDIA_URL"):
        ObjectStorage(client, template)


def test_the_bucket_can_be_part_of_the_host_or_of_the_path() -> None:
    with storage_client() as client:
        production = ObjectStorage(client, "https://{bucket}.sfo3.digitaloceanspaces.com")
        local = ObjectStorage(client, "http://127.0.0.1:9000/{bucket}/")
    assert production.url(source("a/b.png")) == f"https://{BUCKET}.sfo3.digitaloceanspaces.com/a/b.png"
    assert local.url(source("a/b.png")) == f"http://127.0.0.1:9000/{BUCKET}/a/b.png"


def test_a_bucket_that_is_not_the_platforms_is_never_asked(server: ObjectServer, waits: Waits, tmp_path: Path) -> None:
    """MEDIA-12: whatever a document names."""
    with storage_client() as client:
        storage = ObjectStorage(client, server.template, buckets=("ours",), sleep=waits)
        with pytest.raises(SourceMissing, match=rf"{BUCKET}/a.png: the bucket is not one of .*AC_MEDIA_BUCKETS"):
            storage.fetch([source("a.png")], tmp_path / "file", 99)
        assert storage.exists([source("a.png")]) is None
    assert server.requests == []


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path, waits: Waits) -> None:
    """MEDIA-12: TLS is verified."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "pem").write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    with object_server(context) as server, storage_client() as client:
        server.objects[f"/{BUCKET}/a.png"] = b"x"
        storage = ObjectStorage(client, server.template, sleep=waits)
        with pytest.raises(ServiceUnreachable, match=r"(?i)certificate"):
            storage.fetch([source("a.png")], tmp_path / "file", 100)
        assert server.requests == []
