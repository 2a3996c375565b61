"""How a Celery worker stops: it takes no more runs, finishes those it has, and answers for them until they are done. In
Celery's own warm shutdown it answers nobody, and `CeleryRunLauncher` would take its runs for dead."""

import os
import signal
from typing import Any

from celery.signals import worker_ready
from celery.worker import state

_LOOK_SECONDS = 0.2


@worker_ready.connect
def finish_runs_first(sender: Any, **_: object) -> None:
    """Let SIGINT end the worker once no run is left, and a second one as Celery does. `sender`: its consumer."""
    celerys_own = signal.getsignal(signal.SIGINT)

    def take_no_more(*_: object) -> None:
        signal.signal(signal.SIGINT, celerys_own)
        sender.call_soon(leave_queues)

    def leave_queues() -> None:
        for queue in list(sender.app.amqp.queues.consume_from):
            sender.cancel_task_queue(queue)
        end_when_idle()

    def end_when_idle() -> None:
        if state.reserved_requests:  # those under way are among them
            sender.timer.call_after(_LOOK_SECONDS, end_when_idle)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, take_no_more)
