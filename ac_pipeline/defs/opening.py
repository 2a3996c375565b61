"""The door from Dagster to the pipeline: one pipeline for each run or tick, opened at the first question.

A missing setting so fails the step that needs it, with its sentence, and not the loading of the definitions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from ac_pipeline.settings import Settings
from ac_pipeline.wiring import Pipeline, open_pipeline


class PipelineResource:
    """A pipeline that is opened when `open` is first called, by whatever thread, and closed by `close`.

    Args:
        settings: Reads the settings, at the first question.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Pipeline:
        """The pipeline.

        Raises:
            Misconfigured: A setting or a lexicon cannot be used.
            ServiceUnreachable: MongoDB does not answer.
        """
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._stack.enter_context(open_pipeline(self._settings()))
            return self._pipeline
