"""`ray job submit` to a head with token authentication: it runs, and uploads only tracked files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpse_dist.config import dump, to_dict
from tests.data.made_collection import made_collection
from tests.test_run import pretraining

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
START_TIMEOUT_S, JOB_TIMEOUT_S = 120, 300


@dataclass(frozen=True)
class Head:
    """A head node of our own: where its jobs go, and how to speak to it."""

    address: str
    environment: dict[str, str]
    temporary: Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for made in sockets:
        made.bind(("127.0.0.1", 0))
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` with its own home, ports and folder; ended by its process group."""
    temporary = Path(tempfile.mkdtemp(prefix="hpse", dir="/tmp"))  # socket paths must be short
    kept = ("LANG", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    # a job says `python`: this one, as in an activated environment
    environment["PATH"] = os.pathsep.join([str(RAY.parent), os.environ.get("PATH", "")])
    environment |= {
        "HOME": str(temporary / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    (temporary / "home").mkdir()
    generate = [RAY, "get-auth-token", "--generate"]
    subprocess.run(generate, env=environment, check=True, capture_output=True)
    gcs, dashboard, client, agent, agent_grpc, environments = free_ports(6)
    log = (temporary / "head.log").open("w")
    process = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
            *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--temp-dir={temporary / 'ray'}"),
            *(f"--runtime-env-agent-port={environments}", "--object-store-memory=100000000"),
        ],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        wait_for_dashboard(dashboard, process, temporary / "head.log")
        yield Head(f"http://127.0.0.1:{dashboard}", environment, temporary)
    finally:
        end(process)
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_dashboard(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the jobs' door answers; without a token it must refuse."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=5).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code == 401:
                return
        except OSError:
            pass
        else:
            pytest.fail("the head answers without a token")
        time.sleep(0.5)
    pytest.fail(f"no head after {START_TIMEOUT_S} s: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the head and all that it started: its session is the process group."""
    for stop, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, stop)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and group_lives(process):
            time.sleep(0.2)


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # collects the exit status, or the leader would live on as a zombie
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, and beside them what must not travel."""
    copy = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for ignored in ("runs/old/checkpoint.bin", "collections/x/frames.beton", ".git/objects/pack"):
        (copy / ignored).parent.mkdir(parents=True, exist_ok=True)
        (copy / ignored).write_bytes(os.urandom(20_000_000))
    return copy


def submit(
    head: Head, working_dir: Path, *command: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(RAY, "job", "submit", "--address", head.address),
            *("--runtime-env-json", json.dumps({"env_vars": variables or {}})),
            *("--working-dir", str(working_dir), "--", *command),
        ],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        cwd=working_dir,
    )


def test_pretraining_runs_as_a_job(head: Head, working_dir: Path, tmp_path: Path) -> None:
    """Two DeepSpeed workers; the recipe's relative paths start at HPSE_ROOT, not at the upload."""
    collection = made_collection()
    values = to_dict(pretraining(tmp_path, collection, name="job", steps=4))
    values["collections"] = [{"path": "collections/made"}]
    values["machine"] |= {"out": "runs", "engine": "zero", "workers": 2}
    (tmp_path / "collections").mkdir()
    (tmp_path / "collections" / "made").symlink_to(collection.folder)
    recipe = working_dir / "configs" / "pretrain" / "job.yaml"
    recipe.write_text(dump(values))
    command = ("python", "-m", "pipelines.pretrain", "configs/pretrain/job.yaml")
    done = submit(head, working_dir, *command, variables={"HPSE_ROOT": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "job"
    assert f"done: {folder}" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert (report["steps"], report["world_size"]) == (4, 2)


def test_only_what_a_job_needs_is_uploaded(head: Head, working_dir: Path) -> None:
    """Reads what the job before left on the head."""
    unpacked = list(
        (head.temporary / "ray").glob("session_2*/runtime_resources/working_dir_files/*")
    )
    folders = [path for path in unpacked if path.is_dir()]
    assert folders
    for folder in folders:
        assert (folder / "cluster" / "launch.py").is_file()
        assert not any((folder / name).exists() for name in ("runs", "collections", ".git"))
        files = (path for path in folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files if path.suffix != ".pyc")  # made there
        assert size < 5_000_000


def test_a_failing_job_exits_with_its_sentence(head: Head, working_dir: Path) -> None:
    command = ("python", "-m", "pipelines.report", "/nowhere/at/all")
    failed = submit(head, working_dir, *command)
    assert failed.returncode != 0
    assert "error: /nowhere/at/all: no such folder" in failed.stdout + failed.stderr


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "api/jobs/"),
        ("GET", "api/jobs/"),
        ("GET", "api/version"),
        ("GET", "nodes?view=summary"),
        ("GET", "api/cluster_status"),
        ("GET", "api/v0/logs"),
        ("PUT", "api/packages/gcs/x.zip"),
    ],
)
def test_the_dashboard_answers_nobody_without_the_token(head: Head, method: str, path: str) -> None:
    asked = json.dumps({"entrypoint": "touch /tmp/in"}).encode() if method != "GET" else None
    request = urllib.request.Request(
        f"{head.address}/{path}", asked, {"Content-Type": "application/json"}, method=method
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.close()
    assert refused.value.code in (401, 403)


def test_no_job_without_the_token(head: Head, working_dir: Path) -> None:
    stranger = Head(head.address, {**head.environment, "RAY_AUTH_TOKEN": "0" * 64}, head.temporary)
    refused = submit(stranger, working_dir, "python", "-c", "print('in')")
    assert refused.returncode != 0
    assert "oken authentication" in refused.stderr
    bare = {k: v for k, v in head.environment.items() if k != "RAY_AUTH_MODE"}
    bare["HOME"] = str(head.temporary)  # where no token lies
    refused = submit(Head(head.address, bare, head.temporary), working_dir, "echo", "in")
    assert refused.returncode != 0
