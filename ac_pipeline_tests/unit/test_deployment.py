"""The files of `deploy/` and the Dockerfile, checked by what can check them without a cluster or a Docker engine."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import kubernetes
import kubernetes_validate
import pytest
import yaml
from dagster_docker import DockerRunLauncher
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job

from ac_pipeline.cli.main import cli
from ac_pipeline.definitions import defs
from ac_pipeline.defs.home import (
    LOCATION,
    PATIENCE,
    POOL_LIMITS,
    WORKER_SECONDS,
    main,
    prepare_home,
    unshared_renditions,
)
from ac_pipeline.settings import Settings, pool_limits
from ac_pipeline_tests.dagster_instance import open_instance

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
MANIFESTS = [
    document
    for path in (DEPLOY / "kubernetes" / "access.yaml", DEPLOY / "kubernetes" / "services.yaml")
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
UNIT = DEPLOY / "systemd" / "ac-pipeline@.service"
OTHERS = sorted(DEPLOY.glob("systemd/ac-pipeline@*.service.d/command.conf"))
IMAGE_VARIABLE = "AC_IMAGE"
VARIABLES = {name.upper() for name in Settings.model_fields} | {IMAGE_VARIABLE}


def settings(home: Path, changes: Path) -> Settings:
    return Settings.model_validate(
        {
            "mongodb_connection_string": "mongodb://127.0.0.1:1",
            "mongodb_name": "platform",
            "dagster_home": home,
            "ac_dagster_yaml": changes,
        }
    )


def kubernetes_settings() -> dict[str, str]:
    lines = (DEPLOY / "kubernetes" / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def containers() -> Iterator[dict[str, Any]]:
    for each in MANIFESTS:
        if each["kind"] == "Deployment":
            yield from each["spec"]["template"]["spec"]["containers"]


def commands() -> Iterator[list[str]]:
    """Every command of ours that a file starts, without `ac-pipeline`."""
    for service in COMPOSE["services"].values():
        if service.get("command"):
            yield service["command"]
    for container in containers():
        yield container["args"]
    (last,) = re.findall(r"^CMD (\[.*)", DOCKERFILE, re.MULTILINE)
    yield json.loads(last)
    for path in (UNIT, *OTHERS):
        line = re.findall(r"^ExecStart=/opt/ac-pipeline/bin/(.+)", path.read_text(), re.MULTILINE)[-1]
        for part in ("code-server", "webserver", "daemon", "worker"):
            yield shlex.split(line.replace("%i", part))


@pytest.mark.slow
def test_the_compose_file_is_one() -> None:
    file = DEPLOY / "compose" / "compose.yaml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    for document in MANIFESTS:
        kubernetes_validate.validate(document, version, strict=True)


def test_every_name_in_the_manifests_is_defined() -> None:
    kinds = {kind: {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == kind} for kind in (
        "Deployment", "Service", "ServiceAccount", "Role",
    )}  # fmt: skip
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    maps = {each["name"]: each for each in kustomization["configMapGenerator"]}
    for each in MANIFESTS:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            assert pod["serviceAccountName"] in kinds["ServiceAccount"]
            assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} <= maps.keys()
            assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
                sources = {next(iter(source.values()))["name"] for source in container["envFrom"]}
                assert sources == {"ac-pipeline"}
        elif each["kind"] == "Service":
            assert each["spec"]["selector"]["app.kubernetes.io/name"] in kinds["Deployment"]
    files = [*kustomization["resources"], *maps["ac-pipeline-files"]["files"], *maps["ac-pipeline"]["envs"]]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in files)
    assert {container["image"] for container in containers()} == {each["name"] for each in kustomization["images"]}


@pytest.mark.slow
def test_a_run_is_a_pod_that_kubernetes_takes_and_has_all_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the budget that holds up the draining of nodes is about these pods."""
    monkeypatch.setenv(IMAGE_VARIABLE, "registry.example/ac-pipeline:1")
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    home = prepare_home(settings(tmp_path, DEPLOY / "kubernetes" / "launcher.yaml"))
    with open_instance(home) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, K8sRunLauncher)
        run = instance.create_run_for_job(defs.get_job_def("show_status"))
        context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
        config = context.get_k8s_job_config(None, launcher)
        job = construct_dagster_k8s_job(
            config,
            ["dagster", "api", "execute_run"],
            "run",
            context.run_k8s_config,
            component="run_worker",
        )
    made = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(made, "1.33", strict=True)
    pod = made["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example/ac-pipeline:1"
    assert {next(iter(source.values()))["name"] for source in container["envFrom"]} == {"ac-pipeline"}
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert not pod["spec"]["automountServiceAccountToken"]
    assert pod["spec"]["serviceAccountName"] in {
        each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "ServiceAccount"
    }
    budget = next(each for each in MANIFESTS if each["metadata"]["name"] == "runs")
    assert budget["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.slow
def test_compose_starts_runs_in_its_own_network_and_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "ac-pipeline:1")
    home = prepare_home(settings(tmp_path, DEPLOY / "compose" / "launcher.yaml"))
    with open_instance(home) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, DockerRunLauncher)
        assert launcher.image == "ac-pipeline:1"
        assert launcher.networks == [network["name"] for network in COMPOSE["networks"].values()]
        (volume,) = launcher.container_kwargs["volumes"]
    assert volume.split(":") == [COMPOSE["volumes"]["home"]["name"], "/var/lib/ac-pipeline"]
    assert COMPOSE["x-dagster"]["volumes"][0] == "home:/var/lib/ac-pipeline"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compose", "kubernetes", "celery"])
def test_what_we_keep_of_the_instance_is_kept_by_every_deployment(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only launcher, places and logs differ; DEL-1: new content finds a place beside backfills there, too."""
    prepare_home(settings(tmp_path, DEPLOY / kind / "launcher.yaml"))
    written = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    differing = {name for name in written if written[name] != ours.get(name)}
    # With Celery a run that has left our queue may have to wait for a process.
    assert differing <= {
        "run_launcher",
        "compute_logs",
        "concurrency",
        *(["run_monitoring"] if kind == "celery" else []),
    }
    assert written["run_monitoring"].items() >= {"enabled": True, "poll_interval_seconds": 10}.items()
    runs = written["concurrency"]["runs"]
    limits = {each["key"]: each["limit"] for each in runs["tag_concurrency_limits"]}
    pools = pool_limits(kubernetes_settings()["AC_POOL_LIMITS"]) if kind == "kubernetes" else POOL_LIMITS
    assert pools["encoding"] + pools["pds"] <= limits["dagster/backfill"] < runs["max_concurrent_runs"]
    assert limits["dagster/sensor_name"] <= pools["changed"]


@pytest.mark.parametrize(
    ("kind", "place", "warned"),
    [
        ("compose", "/var/lib/ac-pipeline/renditions", False),
        ("compose", "/srv/renditions", True),
        ("kubernetes", "/var/lib/ac-pipeline/renditions", True),  # a folder of the pod's own
        ("kubernetes", "s3://bucket/folder", False),
        ("kubernetes", "file:///shared/renditions", False),
        ("celery", "/srv/renditions", True),
        ("processes", "/srv/renditions", False),
    ],
)
def test_renditions_that_runs_do_not_share_are_warned_of(kind: str, place: str, warned: bool, tmp_path: Path) -> None:
    """PROD-2: a container or another machine keeps what nobody else finds."""
    file = DEPLOY / kind / "launcher.yaml"
    launcher = yaml.safe_load(file.read_text())["run_launcher"] if file.is_file() else {"class": ""}
    name = "CeleryRunLauncher" if kind == "celery" else launcher["class"]
    given = settings(tmp_path, tmp_path).model_copy(update={"ac_renditions_url": place})
    said = unshared_renditions(given, name, launcher.get("config") or {})
    assert (said is not None) == warned
    assert said is None or (name in said and place in said and "s3://" in said)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("compose", "DockerRunLauncher"), ("kubernetes", "K8sRunLauncher")])
def test_the_warning_is_seen_at_the_start_and_in_the_log_of_each_run(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PROD-2: also where a run may not launch any itself, as in a pod without a token."""
    for variable, value in {
        "MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1",
        "MONGODB_NAME": "platform",
        "AC_MONGO_TIMEOUT_SECONDS": "0.05",
        "AC_RENDITIONS_URL": "/srv/renditions",
        "AC_DAGSTER_YAML": str(DEPLOY / kind / "launcher.yaml"),
        "DAGSTER_HOME": str(tmp_path / "home"),
        IMAGE_VARIABLE: "ac-pipeline:1",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare"]) == 0
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"Warning: {name} starts runs elsewhere")
    with open_instance(tmp_path / "home") as instance:
        job = defs.resolve_job_def("list_accounts")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        logged = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING]
    assert said in logged


def test_the_limits_of_pools_that_the_settings_show_are_those_of_the_code() -> None:
    assert pool_limits(Settings.model_fields["ac_pool_limits"].default) == POOL_LIMITS


def test_every_command_is_one_of_ours() -> None:
    found = list(commands())
    assert len(found) >= 10
    for program, *words in found:
        assert program == "ac-pipeline"
        context = click.Context(cli)
        name, command, rest = cli.resolve_command(context, words)
        assert name in {"dagster", "metrics"}
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_every_variable_is_a_setting() -> None:
    given = {
        *kubernetes_settings(),
        *COMPOSE["x-dagster"]["environment"],
        *re.findall(r"\b([A-Z_]+)=", re.findall(r"^Environment=(.+)", UNIT.read_text(), re.MULTILINE)[0]),
        *re.findall(
            r"^(?:ENV)? +([A-Z_]+)=", DOCKERFILE.split("ENV ")[1].splitlines()[0].replace(" ", "\n "), re.MULTILINE
        ),
    }
    assert given - VARIABLES <= {"PYTHONUNBUFFERED", "PATH", "PGAPPNAME"}
    Settings.model_validate(
        {
            "mongodb_connection_string": "mongodb://127.0.0.1:1",
            "mongodb_name": "platform",
            **{name.lower(): value for name, value in kubernetes_settings().items() if value},
        }
    )


def test_every_deployment_has_one_name_of_the_code_location() -> None:
    """PROD-1: it is part of the identity of sensors and schedules."""
    workspaces = [yaml.safe_load(path.read_text()) for path in DEPLOY.glob("*/workspace.yaml")]
    places = [next(iter(place.values())) for each in workspaces for place in each["load_from"]]
    assert len(places) == 3
    assert {place["location_name"] for place in places} == {LOCATION}
    assert {(place["host"], place["port"]) for place in places} == {("127.0.0.1", 4000), ("code-server", 4000)}
    ours = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert ours["location_name"] == LOCATION
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert project["code_location_name"] == LOCATION


def test_the_image_is_built_from_the_lock_file_and_runs_as_nobody_special() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)
    assert [
        ("--require-hashes" in line) or ("--no-deps" in line and "--no-build-isolation" in line) for line in installs
    ] == [
        True,
        True,
    ]
    assert re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)[0] != "0"
    assert "HEALTHCHECK" in DOCKERFILE
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) for pattern in allowed)
    packages = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert {"dagster-docker", "dagster-k8s", "dagster-celery", "s3fs", "imageio-ffmpeg", "hatchling"} <= set(packages)


@pytest.mark.slow
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With our own interpreter in place of the program, which is not installed here."""
    text = UNIT.read_text()
    assert "KillMode=mixed" in text
    if (verify := shutil.which("systemd-analyze")) is None:
        return
    for part in ("code-server", "webserver", "daemon", "worker"):
        unit = tmp_path / f"ac-pipeline@{part}.service"
        unit.write_text(text.replace("/opt/ac-pipeline/bin/ac-pipeline", sys.executable))
        done = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (done.returncode, [line for line in done.stderr.splitlines() if "ac-pipeline" in line]) == (0, [])


def test_a_worker_has_longer_to_stop_than_its_runs_have() -> None:
    """PROD-2: systemd kills what is left then, and a run that is killed cannot say so."""
    text = (DEPLOY / "systemd" / "ac-pipeline@worker.service.d" / "patience.conf").read_text()
    ((seconds,),) = (re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE),)
    assert int(seconds) > WORKER_SECONDS + sum(PATIENCE[1:])
    ((seconds,),) = (re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE),)
    assert int(seconds) > sum(PATIENCE)


def test_the_proxy_asks_for_a_login_and_leads_to_the_ports_that_are_open_here_alone() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    servers = [server for server in text.split("\nserver {")[1:] if "proxy_pass" in server]
    assert [re.findall(r"proxy_pass http://(\S+);", server) for server in servers] == [
        ["127.0.0.1:3000"],
        ["127.0.0.1:3001"],
    ]
    for server in servers:
        assert re.search(r"auth_basic_user_file /etc/nginx/ac-pipeline\.\w+;", server)
        assert "listen 80" not in server
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:3000:3000", "127.0.0.1:3001:3000", "127.0.0.1:9464:9464"]
    assert any("--read-only --port 3001" in path.read_text() for path in OTHERS)
