"""`ray job submit` to a head with token authentication: it runs, and uploads only tracked files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hpse_dist.config import dump, to_dict
from tests.data.made_collection import made_collection
from tests.integration.clusters import ROOT, free_ports
from tests.test_run import pretraining
from tests.waiting import PATIENCE_S, lives, until

pytestmark = pytest.mark.integration
RAY = Path(sys.executable).with_name("ray")
TRIES = 5


@dataclass(frozen=True)
class Head:
    """A head node of our own: where its jobs go, and how to speak to it."""

    address: str
    environment: dict[str, str]
    temporary: Path


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
    process = None
    try:
        # Ray gives up where a part of it takes 30 s to start, as it may on a busy machine
        for _ in range(TRIES):
            ports = free_ports(6)
            process = start(environment, temporary, ports)
            if answers(ports[0], process):
                break
            end(process)
        else:
            pytest.fail(f"no head: {(temporary / 'head.log').read_text()[-2000:]}")
        yield Head(f"http://127.0.0.1:{ports[0]}", environment, temporary)
    finally:
        if process is not None:
            end(process)
        shutil.rmtree(temporary, ignore_errors=True)


def start(
    environment: dict[str, str], temporary: Path, ports: list[int]
) -> subprocess.Popen[bytes]:
    dashboard, gcs, client, agent, agent_grpc, environments = ports
    with (temporary / "head.log").open("a") as log:
        return subprocess.Popen(
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


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the jobs' door answers, without a token by refusing; False where Ray ended."""

    def look() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=60).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code == 401
        except OSError:
            return process.poll() is not None
        pytest.fail("the head answers without a token")

    until(look, "the head answers")
    return process.poll() is None


def end(process: subprocess.Popen[bytes]) -> None:
    """End the head and all that it started: its session is the process group."""
    for stop, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 60)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop)
        with contextlib.suppress(AssertionError):
            until(lambda: not group_lives(process), "the head's processes end", patience_s)
            process.wait()  # it has ended, perhaps since it was last asked
            return


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    for number in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(number) == process.pid and lives(number):
                return True
    return False


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
    for ignored in (
        "runs/old/checkpoint.bin",
        "collections/x/frames.beton",
        "data/coco/train2017.zip",
        ".git/objects/pack",
    ):
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
        timeout=PATIENCE_S,
        cwd=working_dir,
    )


@pytest.fixture(scope="module")
def finished(
    head: Head, working_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A job's run folder, and what was said of it.

    Two DeepSpeed workers; the recipe's relative paths start at HPSE_ROOT, not at the upload.
    """
    root, collection = tmp_path_factory.mktemp("root"), made_collection()
    values = to_dict(pretraining(root, collection, name="job", steps=4))
    values["collections"] = [{"path": "collections/made"}]
    values["machine"] |= {"out": "runs", "engine": "zero", "workers": 2}
    (root / "collections").mkdir()
    (root / "collections" / "made").symlink_to(collection.folder)
    recipe = working_dir / "configs" / "pretrain" / "job.yaml"
    recipe.write_text(dump(values))
    command = ("python", "-m", "pipelines.pretrain", "configs/pretrain/job.yaml")
    done = submit(head, working_dir, *command, variables={"HPSE_ROOT": str(root)})
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "runs" / "job", done.stdout


def test_pretraining_runs_as_a_job(finished: tuple[Path, str]) -> None:
    folder, said = finished
    assert f"done: {folder}" in said
    report = json.loads((folder / "report.json").read_text())
    assert (report["steps"], report["world_size"]) == (4, 2)


def test_only_what_a_job_needs_is_uploaded(head: Head, finished: tuple[Path, str]) -> None:
    """Reads what the job left on the head."""
    unpacked = list(
        (head.temporary / "ray").glob("session_2*/runtime_resources/working_dir_files/*")
    )
    folders = [path for path in unpacked if path.is_dir()]
    assert folders
    for folder in folders:
        assert (folder / "cluster" / "launch.py").is_file()
        assert not any((folder / name).exists() for name in ("runs", "collections", "data", ".git"))
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
        urllib.request.urlopen(request, timeout=PATIENCE_S)
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
