"""One incoming webhook: delivers JSON to an address that is itself a secret. What is said is the caller's.

The address of such a webhook lets anybody post, so it appears in no error, log or repr (ACCT-5).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import httpx
from pydantic import SecretStr

from ac_pipeline.bounds import Limit, OverLimit, within
from ac_pipeline.errors import Misconfigured, PipelineError, RateLimited, ServerFailed, ServiceUnreachable
from ac_pipeline.proxies import through

ATTEMPTS = 3
TIMEOUT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 1.0
_CODE = re.compile(r"[a-z_]{1,40}")


class Webhook:
    """An incoming webhook. A context manager that closes its connections.

    Args:
        url: The address.
        budget_seconds: For all deliveries together; what does not fit is refused at once.
        transport: How it is reached; directly when None.
        clock: Seconds that only grow.
        sleep: Waits.
    """

    def __init__(
        self,
        url: SecretStr,
        budget_seconds: float,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._clock, self._sleep = clock, sleep
        self._ends = clock() + budget_seconds
        self._hidden = _HidesRequests()
        self._http = httpx.Client(transport=transport, trust_env=False, timeout=TIMEOUT_SECONDS)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Deliver one message, with three attempts where another one can help.

        Raises:
            Transient: It was not delivered; the same may succeed later.
            Misconfigured: The receiver refuses it: the address or its rights are wrong.
        """
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._post(payload)
            except (RateLimited, ServerFailed, ServiceUnreachable) as error:
                wait = max(pause, error.retry_after or 0.0)
                if attempt == ATTEMPTS or self._left() < wait + 1:
                    raise
                self._sleep(wait)
                pause *= 2
            else:
                return

    def _post(self, payload: Mapping[str, Any]) -> None:
        left = self._left()
        if left <= 0:
            raise ServiceUnreachable("The alert webhook was not asked: the time of this tick is used up.")
        error: PipelineError
        try:
            limit = Limit("TIMEOUT", min(TIMEOUT_SECONDS, left), 1)
            with (
                within(limit),
                self._http.stream(
                    "POST", self._url.get_secret_value(), json=dict(payload), timeout=limit.seconds
                ) as answer,
            ):
                said = b"".join(limit.watch(answer.iter_bytes())).decode("utf-8", "replace").strip()
        except OverLimit:
            error = ServiceUnreachable("The alert webhook does not come to the end of its answer.")
        except (httpx.HTTPError, httpx.InvalidURL) as trouble:
            # Their words and their traceback may hold the address: only the kind of trouble is told.
            error = ServiceUnreachable(
                f"The alert webhook does not answer{through(trouble)} ({type(trouble).__name__})."
            )
        else:
            if answer.is_success:
                return
            error = _refusal(answer, said)
        raise error

    def _left(self) -> float:
        return self._ends - self._clock()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Webhook:
        logging.getLogger("httpx").addFilter(self._hidden)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        logging.getLogger("httpx").removeFilter(self._hidden)


class _HidesRequests(logging.Filter):
    """httpx logs every request with its address, at level INFO."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


def _refusal(answer: httpx.Response, said: str) -> PipelineError:
    status = answer.status_code
    # Slack says one word, such as `invalid_payload`. Whole sentences of others may quote the address.
    said = f": {said}" if _CODE.fullmatch(said) else ""
    message = f"The alert webhook answered {status}{said}."
    if status == httpx.codes.TOO_MANY_REQUESTS:
        wait = answer.headers.get("retry-after", "")
        return RateLimited(message, status=status, retry_after=float(wait) if wait.isdecimal() else None)
    if status >= 500 or status in {408, 425}:
        return ServerFailed(message, status=status)
    return Misconfigured(f"{message} Check AC_ALERT_WEBHOOK_URL.", status=status)
