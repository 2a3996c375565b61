"""A relay in the test's process, which says how it sees the accounts of a PDS."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Everybody(dict[str, str]):
    """The states of accounts of which each is active, whoever is asked for."""

    def __contains__(self, did: object) -> bool:
        return True

    def __missing__(self, did: str) -> str:
        return "active"


@contextmanager
def relay_server(states: dict[str, str]) -> Iterator[str]:
    """A relay that knows these accounts, by both of its calls; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(path.query).items()}
            if path.path.endswith("getRepoStatus"):
                status, body = self.status(query["did"])
            else:
                start = int(query.get("cursor", "0"))
                dids = list(states)[start : start + 300]
                following = {"cursor": str(start + 300)} if start + 300 < len(states) else {}
                status, body = 200, {"repos": [{"head": "x", "rev": "y", **row(did)} for did in dids], **following}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def status(self, did: str) -> tuple[int, dict[str, Any]]:
            return (200, row(did)) if did in states else (404, {"error": "RepoNotFound", "message": "account unknown"})

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    def row(did: str) -> dict[str, Any]:
        state = states[did]
        return {"did": did, "active": state == "active"} | ({} if state == "active" else {"status": state})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
