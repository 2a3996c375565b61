"""What the successful answers of a PDS say, checked: commits, repositories, blobs.

Pure reading of bodies. Every function here raises `ValueError` for a body that is not what its call answers, of which
`transport.py` makes an error. Which calls there are is `client.py`, what refusals mean `answers.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ac_pipeline.atproto.lexicon_formats import is_did
from ac_pipeline.atproto.messages import Commit, RepositoryStatus, Write
from ac_pipeline.atproto.syntax import at_uri, cid_bytes, is_tid


def need(holds: object, otherwise: str) -> None:
    """Go on when `holds`."""
    if not holds:
        raise ValueError(otherwise)


def content_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        content = json.loads(body)
    except ValueError:
        raise ValueError("it is not JSON") from None
    need(isinstance(content, dict), "it is not a JSON object")
    return dict(content)


def nothing(body: bytes) -> None:
    """The answer of a call that has none."""
    need(not body.strip() or content_of(body) == {}, "this call answers with nothing")


def did_of(body: bytes, **fixed: str) -> str:
    """The DID in a body whose other fields `fixed` are as asked for, but for the case of their letters."""
    content = content_of(body)
    did = content.get("did")
    need(all(str(content.get(key)).lower() == value.lower() for key, value in fixed.items()), "it is about another one")
    if not isinstance(did, str) or not is_did(did):
        raise ValueError("it names no DID")
    return did


def text_of(body: bytes, name: str) -> str:
    """A text that is not empty."""
    text = content_of(body).get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"it has no {name}")
    return text


def blob_limit_of(body: bytes) -> int | None:
    """The largest blob that an answer to `describeServer` names, in bytes; None when it names none."""
    content = content_of(body)
    need(isinstance(content.get("did"), str), "it names no server")
    if "blobUploadLimit" not in content:
        need(isinstance(content.get("availableUserDomains"), list), "it describes no server")
        return None
    limit = content["blobUploadLimit"]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit <= 0:
        raise ValueError("its blobUploadLimit is no size")
    return limit


def commit_of(did: str, writes: Sequence[Write], body: bytes) -> Commit:
    """The commit that an answer to `applyWrites` names."""
    content = content_of(body)
    commit, results = content.get("commit"), content.get("results")
    if not isinstance(commit, dict) or not isinstance(results, list) or len(results) != len(writes):
        raise ValueError("it does not fit the batch")
    head, rev = _head(commit, "cid")
    cids: list[str | None] = []
    for write, result in zip(writes, results, strict=True):
        need(isinstance(result, dict), "it does not fit the batch")
        kind = result.get("$type", f"#{write.action}Result")
        need(isinstance(kind, str) and kind.endswith(f"#{write.action}Result"), "it answers another kind of write")
        if write.action == "delete":
            cids.append(None)
            continue
        cid = result.get("cid")
        need(result.get("uri") == at_uri(did, write.collection, write.rkey), "it names other records")
        # The PDS does not know these lexicons and says "unknown" (REC-1); nothing but a known refusal matters.
        need(result.get("validationStatus") in (None, "unknown", "valid"), "it finds a record invalid")
        cids.append(_cid(cid))
    return Commit(head, rev, tuple(cids))


def status_of(did: str, body: bytes) -> RepositoryStatus:
    """The status that an answer to `getLatestCommit` names."""
    head, rev = _head(content_of(body), "cid")
    return RepositoryStatus(did, head, rev, active=True, status=None)


def page_of(body: bytes, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The repositories on a page of `listRepos`, each with a DID and perhaps a state, and the next cursor.

    Args:
        cursor: The one that was sent.
    """
    content = content_of(body)
    repos: Any = content.get("repos")
    following = content.get("cursor")
    need(isinstance(repos, list), "it lists no repositories")
    for repo in repos:
        need(isinstance(repo, dict) and isinstance(repo.get("did"), str) and is_did(repo["did"]), "it lists no DIDs")
        need(isinstance(repo.get("active", True), bool), "it does not say who is active")
        need(isinstance(repo.get("status", ""), str | None), "it gives no status")
    need(isinstance(following, str | None), "its cursor is none")
    need(not following or following != cursor, f"it does not get beyond {cursor!r}")
    return repos, following or None


def repository_of(repo: dict[str, Any]) -> RepositoryStatus:
    """One entry of a page of our PDS."""
    head, rev = _head(repo, "head")
    return RepositoryStatus(repo["did"], head, rev, active=repo.get("active", True), status=repo.get("status"))


def blob_of(body: bytes) -> dict[str, Any]:
    """The blob that an answer to `uploadBlob` names."""
    blob = content_of(body).get("blob")
    if not isinstance(blob, dict) or blob.get("$type") != "blob" or not isinstance(blob.get("ref"), dict):
        raise ValueError("it names no blob")
    _cid(blob["ref"].get("$link"))
    need(isinstance(blob.get("mimeType"), str) and type(blob.get("size")) is int, "its blob has no type and size")
    return blob


def in_words(blob: dict[str, Any]) -> str:
    """A blob that `blob_of` has read, for a message."""
    return f"{blob['ref']['$link']} ({blob['mimeType']}, {blob['size']} bytes)"[:200]


def _head(content: dict[str, Any], name: str) -> tuple[str, str]:
    rev = content.get("rev")
    if not isinstance(rev, str) or not is_tid(rev):
        raise ValueError("it names no revision")
    return _cid(content.get(name)), rev


def _cid(text: object) -> str:
    need(isinstance(text, str), "it names no CID")
    cid_bytes(str(text))
    return str(text)
