"""What a benchmark starts does not outlive it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline_tests.benchmarks.ending import ENDED

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

PROGRAM = """
import signal, sys
from pathlib import Path
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline_tests.benchmarks.ending import end_in_order
end_in_order()
services = LocalServices(Path(sys.argv[1]))
try:
    services.up()
    print("up", flush=True)
    signal.pause()
finally:
    services.down()
"""


def test_a_benchmark_that_is_terminated_stops_its_services(tmp_path: Path) -> None:
    """As CI and `timeout` end it; a second signal does not interrupt the stopping."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True) as program:
        services = LocalServices(tmp_path)
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "up\n"
            assert len(services.running()) == 3
            program.send_signal(signal.SIGTERM)
            program.send_signal(signal.SIGTERM)
            assert program.wait(60) == ENDED
            assert services.running() == {}
        finally:
            program.kill()
            services.down()


@pytest.mark.parametrize(
    "name", sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())
)
def test_every_benchmark_ends_in_order(name: str) -> None:
    assert "    end_in_order()\n" in BENCHMARKS.joinpath(name).read_text().partition("__main__")[2]
