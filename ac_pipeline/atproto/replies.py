"""What the answers of a PDS to the client's calls say, checked: commits, repositories, blobs.

Pure reading of successful answers. Which calls there are is `client.py`, what refusals mean `answers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from ac_pipeline.atproto.messages import Commit, RepositoryStatus, Write
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.atproto.transport import json_object


def commit_of(did: str, writes: Sequence[Write], response: httpx.Response) -> Commit | None:
    """The commit that an answer to `applyWrites` names, or None when the answer does not fit the request."""
    content = json_object(response) or {}
    commit, results = content.get("commit"), content.get("results")
    if not isinstance(commit, dict) or not isinstance(results, list) or len(results) != len(writes):
        return None
    head, rev = commit.get("cid"), commit.get("rev")
    if not isinstance(head, str) or not isinstance(rev, str):
        return None
    cids: list[str | None] = []
    for write, result in zip(writes, results, strict=True):
        if not isinstance(result, dict):
            return None
        if write.action == "delete":
            cids.append(None)
            continue
        cid = result.get("cid")
        if not isinstance(cid, str) or result.get("uri") != at_uri(did, write.collection, write.rkey):
            return None
        # The PDS does not know these lexicons and says "unknown" (REC-1); nothing but a known refusal matters.
        if result.get("validationStatus") not in (None, "unknown", "valid"):
            return None
        cids.append(cid)
    return Commit(head, rev, tuple(cids))


def status_of(did: str, content: dict[str, Any]) -> RepositoryStatus | None:
    """The status that an answer to `getLatestCommit` names, or None when it names none."""
    head, rev = content.get("cid"), content.get("rev")
    if not isinstance(head, str) or not isinstance(rev, str):
        return None
    return RepositoryStatus(did, head, rev, active=True, status=None)


def statuses_of(page: dict[str, Any]) -> list[RepositoryStatus] | None:
    """The repositories on a page of `listRepos`, or None when its shape is not known."""
    try:
        return [
            RepositoryStatus(
                did=str(repo["did"]),
                head=str(repo["head"]),
                rev=str(repo["rev"]),
                active=repo.get("active", True) is True,
                status=repo.get("status"),
            )
            for repo in page["repos"]
        ]
    except (KeyError, TypeError, AttributeError):
        return None


def in_words(blob: object) -> str:
    """What an answer to `uploadBlob` makes of a blob, for a message."""
    if not isinstance(blob, dict):
        return "something else"
    reference = blob.get("ref")
    cid = reference.get("$link") if isinstance(reference, dict) else None
    return f"{cid} ({blob.get('mimeType')}, {blob.get('size')} bytes)"[:200]
