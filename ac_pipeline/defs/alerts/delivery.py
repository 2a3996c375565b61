"""How alerts reach a webhook, whose address is itself a secret: it lets anybody post (ACCT-5).

A message is delivered at least once: one that the webhook does not take is tried again at the next tick, until it is
taken or a newer message of its subject takes its place.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol

import httpx
from pydantic import SecretStr

from ac_pipeline.bounds import Limit, OverLimit, within
from ac_pipeline.errors import Misconfigured, PipelineError, ServerFailed, ServiceUnreachable
from ac_pipeline.proxies import through

TIMEOUT_SECONDS: Final = 10.0
WAITING: Final = 100
"""Most messages that wait; the log has them all."""

Payload = Mapping[str, Any]


class AlertSink(Protocol):
    """Where messages go besides the log."""

    def send(self, payload: Payload) -> None:
        """Deliver one message.

        Raises:
            PipelineError: It was not delivered; its message says why and holds no secret.
        """


@dataclass(frozen=True, slots=True)
class AlertDelivery:
    """How alerts leave.

    Args:
        base_url: Of the UI, for links; None leaves paths.
        redact: Removes secrets from a text.
        sink: Where messages are posted, or None for the log alone.
    """

    base_url: str | None
    redact: Callable[[str], str]
    sink: AlertSink | None

    def deliver(self, payloads: Sequence[Payload]) -> tuple[tuple[Payload, ...], str | None]:
        """Send of each subject its newest message, up to the first that is not taken; that one waits behind the others.

        Returns:
            The messages that are left, and why; none without a webhook, where the log is all.
        """
        if self.sink is None:
            return (), None
        left = list({payload["alert"]["subject"]: payload for payload in payloads}.values())[-WAITING:]
        while left:
            try:
                self.sink.send(left[0])
            except PipelineError as error:
                # A message that is refused holds up no other for good.
                return (*left[1:], left[0]), error.message
            del left[0]
        return (), None


class Webhook:
    """An incoming webhook. A context manager that closes its connections.

    Args:
        url: The address; in no error, log or repr.
        budget_seconds: For all messages together; what does not fit is refused at once.
        transport: How it is reached; directly when None.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        url: SecretStr,
        budget_seconds: float,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._clock, self._ends = url, clock, clock() + budget_seconds
        self._http = httpx.Client(transport=transport, trust_env=False)

    def send(self, payload: Payload) -> None:
        """Deliver one message.

        Raises:
            Transient: It was not delivered; the same may succeed later.
            Misconfigured: The receiver refuses it: the address or its rights are wrong.
        """
        limit = Limit("TIMEOUT", min(TIMEOUT_SECONDS, self._ends - self._clock()), 1)
        if limit.seconds <= 0:
            raise ServiceUnreachable("The alert webhook was not asked: the time of this tick is used up.")
        error: PipelineError
        try:
            post = self._http.stream("POST", self._url.get_secret_value(), json=dict(payload), timeout=limit.seconds)
            with within(limit), post as answer:
                said = b"".join(limit.watch(answer.iter_bytes())).decode("utf-8", "replace").strip()
        except OverLimit:
            error = ServiceUnreachable("The alert webhook does not come to the end of its answer.")
        except (httpx.HTTPError, httpx.InvalidURL) as trouble:
            # Their words and their traceback may hold the address: only the kind of trouble is told.
            kind = type(trouble).__name__
            error = ServiceUnreachable(f"The alert webhook does not answer{through(trouble)} ({kind}).")
        else:
            if answer.is_success:
                return
            error = _refusal(answer.status_code, said)
        raise error

    def __enter__(self) -> Webhook:
        logging.getLogger("httpx").addFilter(_no_requests)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        logging.getLogger("httpx").removeFilter(_no_requests)


def _no_requests(record: logging.LogRecord) -> bool:
    """httpx logs every request with its address, at level INFO."""
    return False


def _refusal(status: int, said: str) -> PipelineError:
    # Slack says one word, such as `invalid_payload`. Whole sentences of others may quote the address.
    word = f": {said}" if re.fullmatch(r"[a-z_]{1,40}", said) else ""
    message = f"The alert webhook answered {status}{word}."
    if status >= 500 or status in {408, 425, 429}:
        return ServerFailed(message, status=status)
    return Misconfigured(f"{message} Check AC_ALERT_WEBHOOK_URL.", status=status)
