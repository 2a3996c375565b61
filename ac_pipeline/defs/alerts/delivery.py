"""How messages leave: where they go, in which order, and what becomes of those that nobody takes.

No Dagster and no network: the webhook itself is `ac_pipeline/webhook.py`. A message is delivered at least once: what is
not delivered is handed back, kept in the sensor's cursor, and sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ac_pipeline.defs.alerts.messages import TEXT_CHARACTERS, cut
from ac_pipeline.errors import Misconfigured, PipelineError

OUTBOX: Final = 50
"""Messages that wait for a webhook which does not answer. Of older ones only the first line is kept, in one message."""
_DIGEST: Final = 100
_REFUSALS: Final = 3
"""So many refused messages in a row, and it is the webhook and not the message."""


class AlertSink(Protocol):
    """Where messages go besides the log."""

    def send(self, payload: Mapping[str, Any]) -> None:
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
        webhook: Where messages are posted, or None for the log alone.
    """

    base_url: str | None
    redact: Callable[[str], str]
    webhook: AlertSink | None


def deliver(
    payloads: Sequence[Mapping[str, Any]], webhook: AlertSink | None
) -> tuple[list[Mapping[str, Any]], str | None]:
    """Send messages in their order. One that is refused does not hold up the others; a webhook that is away does.

    Returns:
        The messages that are left, and why; none when there is no webhook, where the log is all.
    """
    if webhook is None:
        return [], None
    left: list[Mapping[str, Any]] = []
    trouble: str | None = None
    for number, payload in enumerate(payloads):
        try:
            webhook.send({name: payload[name] for name in ("text", "content", "alert")})
        except Misconfigured as error:
            left.append(payload)
            trouble = error.message
            if len(left) == _REFUSALS:
                return [*left, *payloads[number + 1 :]], trouble
        except PipelineError as error:
            return [*left, *payloads[number:]], error.message
    return left, trouble


def bounded(outbox: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """An outbox of bounded size: of the oldest messages only the first lines are kept, in one message at its head."""
    if len(outbox) <= OUTBOX:
        return tuple(outbox)
    old, kept = outbox[: len(outbox) - OUTBOX + 1], outbox[len(outbox) - OUTBOX + 1 :]
    lines: list[str] = []
    gone = 0
    for payload in old:
        lines += payload["alert"].get("headlines") or [payload["alert"]["headline"]]
        gone += payload["alert"].get("forgotten", 0)
    gone += max(0, len(lines) - _DIGEST)
    lines = lines[-_DIGEST:]
    title = f"{gone + len(lines)} older messages, of which only the first lines are kept:"
    text = cut("\n".join([title, *reversed(lines)]), TEXT_CHARACTERS)
    alert = {**old[-1]["alert"], "id": f"digest:{gone + len(lines)}", "subject": "digest", "headline": title}
    return ({"text": text, "content": text, "alert": {**alert, "headlines": lines, "forgotten": gone}}, *kept)
