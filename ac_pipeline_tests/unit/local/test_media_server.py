"""The local object storage answers as a bucket does, and never with a file it should not show."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ac_pipeline.local.services.media_server import MediaServer, object_path
from ac_pipeline.local.services.stack import media_url
from ac_pipeline_tests.scripted_storage import ObjectServer, Request

pytestmark = pytest.mark.slow

_BUCKET = "user-aesthetic-computer"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    for key in ("auth0|0a/painting/2024.1.2.png", "one two.png", "deep/folder/file.zip"):
        path = object_path(root, _BUCKET, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    (root / _BUCKET / "way-out.txt").symlink_to(tmp_path / "secret.txt")
    return root


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    server = MediaServer(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield media_url(server.server_port).removesuffix("/{bucket}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("auth0%7C0a/painting/2024.1.2.png", "auth0|0a/painting/2024.1.2.png"),
        ("auth0%7c0a%2Fpainting%2F2024.1.2.png?version=2", "auth0|0a/painting/2024.1.2.png"),
        ("one%20two.png", "one two.png"),
        ("deep/folder/file.zip", "deep/folder/file.zip"),
    ],
)
def test_an_object_is_found_under_its_percent_encoded_key(url: str, path: str, key: str) -> None:
    """MEDIA-3: keys hold Auth0 ids, whose bar is percent-encoded."""
    got = httpx.get(f"{url}/{_BUCKET}/{path}")
    head = httpx.head(f"{url}/{_BUCKET}/{path}")

    assert (got.status_code, got.content) == (200, key.encode())
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(key))
    assert got.headers["ETag"] == head.headers["ETag"] != ""


@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"/{_BUCKET}",
        f"/{_BUCKET}/",
        f"/{_BUCKET}/deep",
        f"/{_BUCKET}/deep/",
        f"/{_BUCKET}/deep/folder/",
        f"/{_BUCKET}/missing.png",
        "/other-bucket/one%20two.png",
        "/../secret.txt",
        f"/{_BUCKET}/../../secret.txt",
        f"/{_BUCKET}/%2e%2e/%2e%2e/secret.txt",
        f"/{_BUCKET}/..%2F..%2Fsecret.txt",
        f"/{_BUCKET}//etc/passwd",
        f"/{_BUCKET}/way-out.txt",
        f"/{_BUCKET}/%00",
    ],
)
def test_folders_missing_objects_and_ways_out_of_the_root_are_not_found(url: str, path: str) -> None:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:  # a client library would tidy the path first
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"secret" not in answer


def test_nothing_can_be_written(url: str, root: Path) -> None:
    assert httpx.put(f"{url}/{_BUCKET}/new.png", content=b"x").status_code == 501
    assert not object_path(root, _BUCKET, "new.png").exists()


def test_an_object_server_answers_logs_and_fails_as_scripted(object_server: ObjectServer) -> None:
    """MEDIA-3: refusals, server errors and broken downloads can be told apart by what the storage answers."""
    object_server.put("b", "a|b.png", b"0123456789")
    address = f"{object_server.url_template.format(bucket='b')}/a%7Cb.png"

    assert httpx.get(address).content == b"0123456789"
    object_server.fail("b", "a|b.png", 503, times=2)
    assert [httpx.get(address).status_code for _ in range(3)] == [503, 503, 200]
    object_server.fail("b", "a|b.png", 403)
    assert [httpx.head(address).status_code for _ in range(2)] == [403, 403]
    object_server.cut("b", "a|b.png", 4)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(address)
    object_server.slow("b", "a|b.png", 60.0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(address, timeout=0.2)
    object_server.heal("b", "a|b.png")
    assert httpx.get(address).status_code == 200
    object_server.remove("b", "a|b.png")
    assert httpx.get(address).status_code == 404

    assert object_server.requests[0] == Request("GET", "b", "a|b.png")
    assert object_server.count("b", "a|b.png") == {"GET": 8, "HEAD": 2}


def test_an_object_server_closes_although_a_client_keeps_its_connection() -> None:
    with httpx.Client() as client:
        with ObjectServer() as server:
            assert client.get(f"{server.url_template.format(bucket='b')}/x.png").status_code == 404
        with pytest.raises(httpx.TransportError):
            client.get(f"{server.url_template.format(bucket='b')}/x.png")
