"""The scripted server and the client that tests of the client share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from ac_pipeline.atproto.client import PdsClient
from ac_pipeline_tests.unit.atproto.client.scripted_pds import Server, make


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[PdsClient]:
    with httpx.Client(transport=httpx.MockTransport(server)) as http:
        yield make(server, http)
