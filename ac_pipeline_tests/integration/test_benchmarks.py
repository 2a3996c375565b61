"""What a benchmark starts does not outlive it."""

from __future__ import annotations

import json
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


def test_the_table_has_every_row(tmp_path: Path) -> None:
    """As `make bench` makes it, in sizes that say nothing of speed; `sharp`, which npm would install, is left out."""
    sizes = {
        **{"users": 1, "items": 20, "small-users": 2, "small-items": 3, "originals": 1, "painters": 1, "paintings": 2},
        **{"pictures": 1, "frames": 4, "verified-users": 2, "verified-items": 3, "removed": 20, "rounds": 1},
    }
    options = [f"--{name}={number}" for name, number in sizes.items()]
    kept = tmp_path / "bench.json"
    program = [sys.executable, "-m", "ac_pipeline_tests.benchmarks.throughput", "--no-sharp", *options]
    done = subprocess.run([*program, "--json", str(kept)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(kept.read_text())
    rows = {row["row"]: row for row in made["rows"]}
    expected = ["text", "small", "paintings", "pictures", "tapes", "verification", "wipe", "restore"]
    assert list(rows) == expected
    assert rows.pop("pictures")["skipped"] == "sharp was not asked for."
    for row in rows.values():
        assert row["ours"] > 0
        assert row["theirs"] > 0
        assert len(row["rounds"]["ours"]) == len(row["rounds"]["theirs"]) == 1
        assert row["against"] in done.stdout
    assert made["nothing_to_do"]["requests"] == {"latest_commit": 1}
    assert max(map(len, done.stdout.splitlines())) <= 80
