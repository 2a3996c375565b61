"""Programs that stand in for ffmpeg where ffmpeg itself would have to misbehave; everything else uses the real one."""

from __future__ import annotations

import shlex
from pathlib import Path

from ac_pipeline.renditions.ffmpeg_process import default_binary


def script(folder: Path, body: str) -> str:
    """An executable shell script that answers `-version` like the real one and else runs `body`.

    In `body`, `$out` is the file that is to be written and `$runs` one that counts the runs.
    """
    path = folder / "ffmpeg"
    path.write_text(
        f"""#!/bin/sh
case "$*" in *-version*) exec {shlex.quote(default_binary())} -version;; esac
for word in "$@"; do case "$word" in *.mp4) out="$word";; esac; done
runs={shlex.quote(str(folder / "runs"))}
echo run >> "$runs"
{body}
"""
    )
    path.chmod(0o755)
    return str(path)


def runs(folder: Path) -> int:
    """How often the script ran."""
    counted = folder / "runs"
    return len(counted.read_text().splitlines()) if counted.exists() else 0
