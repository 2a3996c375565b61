"""What a pipeline opens besides its clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ac_pipeline.mongo.ledger.leases import own_mark
from ac_pipeline.wiring import work_folder

pytestmark = pytest.mark.slow

_KILLED = """
import os, signal, sys
from pathlib import Path
from ac_pipeline.wiring import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "derive-1").mkdir()
    (folder / "derive-1" / "source").write_text("left behind")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_work_folder_of_a_killed_run_is_removed_by_the_next_and_no_other(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    (killed,) = tmp_path.iterdir()
    assert (killed / "derive-1" / "source").exists()
    others = {
        "of this process": own_mark() or "",
        "of another start of the machine": f"another {os.getpid()} 1",
        "of nobody known": "",
    }
    for name, mark in others.items():
        folder = tmp_path / f"ac-pipeline-{name}"
        folder.mkdir()
        (folder / "process").write_text(mark)
    (tmp_path / "ac-pipeline-without-a-mark").mkdir()
    with work_folder(tmp_path) as folder:
        assert not killed.exists()
        assert folder.is_dir()
    assert {path.name.removeprefix("ac-pipeline-") for path in tmp_path.iterdir()} == {*others, "without-a-mark"}
