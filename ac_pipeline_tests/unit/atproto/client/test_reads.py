"""How the client reads repositories and lists: what it repeats, and what it takes for no answer."""

from __future__ import annotations

import httpx
import pytest

from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    PipelineError,
    RepositoryUnreadable,
    ServerFailed,
    ServiceUnreachable,
)
from ac_pipeline_tests.unit.atproto.client.scripted_pds import DID, HEAD, REV, Reply, Server, page, refusal


def test_repositories_are_listed_a_page_at_a_time(client: PdsClient, server: Server) -> None:
    server.answers(
        "listRepos", page("did:plc:a", "did:plc:b", cursor="2"), page("did:plc:c", active=False, status="takendown")
    )

    assert list(client.list_repositories()) == [
        RepositoryStatus("did:plc:a", HEAD, REV, True, None),
        RepositoryStatus("did:plc:b", HEAD, REV, True, None),
        RepositoryStatus("did:plc:c", HEAD, REV, False, "takendown"),
    ]
    first, second = server.asked("listRepos")
    assert dict(first.url.params) == {"limit": "1000"}
    assert dict(second.url.params) == {"limit": "1000", "cursor": "2"}


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, json={}),
        httpx.Response(200, json={"repos": [{}]}),
        httpx.Response(200, json={"repos": None}),
        httpx.Response(200, text="<html>"),
        page("did:plc:a", cursor="2"),
        httpx.Response(503),
    ],
)
def test_a_list_that_cannot_be_read_to_its_end_is_an_error(client: PdsClient, server: Server, reply: Reply) -> None:
    """DEL-5: a failed read is never an empty one."""
    server.answers("listRepos", reply)

    with pytest.raises(ServerFailed):
        list(client.list_repositories())


def test_a_list_that_leads_back_to_where_it_was_has_no_end(client: PdsClient, server: Server) -> None:
    """ANSWER-2: whoever reads it would never be done."""
    around = [page("did:plc:a", cursor="2"), page("did:plc:b", cursor="3")]
    server.answers("listRepos", *around * 20, page("did:plc:c"))
    with pytest.raises(ServerFailed, match="leads back"):
        list(client.list_repositories())


@pytest.mark.parametrize("failure", [httpx.Response(503), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")])
def test_reads_are_repeated_within_a_bound(client: PdsClient, server: Server, failure: Reply) -> None:
    """LIMIT-10"""
    server.answers("listRepos", failure, failure, failure, page("did:plc:a"))
    assert len(list(client.list_repositories())) == 1
    assert server.slept == [0.5, 1.0, 2.0]

    server.answers("listRepos", failure)
    with pytest.raises((ServerFailed, ServiceUnreachable)):
        list(client.list_repositories())
    assert len(server.asked("listRepos")) == 8


@pytest.mark.parametrize("status", [400, 404, 301])
def test_a_clear_refusal_is_not_asked_for_again(client: PdsClient, server: Server, status: int) -> None:
    server.answers("listRepos", httpx.Response(status, headers={"Location": "https://elsewhere.test/"}))

    with pytest.raises((ServerFailed, ServiceUnreachable)):
        list(client.list_repositories())

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refusal(400, "RepoNotFound"), AccountUnknown),
        (refusal(403, "AccountNotFound"), AccountUnknown),
        (refusal(404, "RepoNotFound"), AccountUnknown),
        (refusal(400, "RepoDeactivated"), AccountInactive),
        (refusal(400, "RepoTakendown"), AccountInactive),
        (httpx.Response(200, content=b""), RepositoryUnreadable),
        (httpx.Response(200, content=b"<html>"), RepositoryUnreadable),
    ],
)
def test_a_repository_that_cannot_be_read_is_never_an_empty_one(
    client: PdsClient, server: Server, reply: Reply, expected: type[PipelineError]
) -> None:
    """ACCT-2, DEL-5"""
    server.answers("getRepo", reply)

    with pytest.raises(expected):
        client.read_repository(DID)

    assert len(server.asked("getRepo")) == (4 if expected is RepositoryUnreadable else 1)
    assert server.asked("getRepo")[0].headers["accept-encoding"] == "identity"
