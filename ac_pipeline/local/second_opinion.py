"""The records as a client that is not ours reads them: the `atproto` package, one `listRecords` page after another.

Only counting is here. Our own reading is `atproto/repository.py`, from one verified CAR a repository.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from atproto import Client, Request

PAGE = 100
"""The most that `listRecords` gives."""


def count_records(url: str, dids: Iterable[str], nsids: Iterable[str]) -> Counter[str]:
    """Records by collection, over these repositories.

    Args:
        url: Address of the PDS.
        dids: Repositories that can be read.
        nsids: Collections.
    """
    client = Client(base_url=f"{url}/xrpc", request=Request(trust_env=False))
    collections = list(nsids)
    counts: Counter[str] = Counter()
    for did in dids:
        for nsid in collections:
            cursor: str | None = None
            while True:
                query = {"repo": did, "collection": nsid, "limit": PAGE} | ({"cursor": cursor} if cursor else {})
                page = client.com.atproto.repo.list_records(query)
                counts[nsid] += len(page.records)
                cursor = page.cursor
                if not page.records or not cursor:
                    break
    return counts
