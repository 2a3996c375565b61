"""Dagster's daemon, which looks at backfills three times as often as by itself: each waits for a look before its first
runs, between its stages and at its end, and users with it. Dagster has no setting for it (1.13.27)."""

from __future__ import annotations

from dagster._daemon import cli, controller

BACKFILL_SECONDS = 10


def main() -> None:
    """Run `dagster-daemon` with our arguments."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    cli.main()


if __name__ == "__main__":
    main()
