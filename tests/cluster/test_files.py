"""The files a cluster is made with, held against what reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = sorted(CLUSTER.glob("ray-up-*.yaml"))
KUBERAY = sorted(CLUSTER.glob("kuberay-*.yaml"))
# the fields of KubeRay's API v1 (ray-operator/apis/ray/v1) that the files may use
CLUSTER_FIELDS = {
    *("rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"),
    *("enableInTreeAutoscaling", "autoscalerOptions"),
}
JOB_FIELDS = {
    *("entrypoint", "runtimeEnvYAML", "submissionMode", "backoffLimit", "rayClusterSpec"),
    *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "suspend"),
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def requirement(name: str) -> str:
    pins = (CLUSTER / "requirements.txt").read_text()
    found = re.search(rf"^{re.escape(name)}(?:\[.*?\])?==(\S+)", pins, re.MULTILINE)
    assert found, name
    return found[1]


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_ray_up_accepts_it(path: Path) -> None:
    """Ray's own defaults and schema, as `ray up` applies them before it calls a machine."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    with pytest.raises(ValidationError, match="workers_max"):
        validate_config(prepare_config({**config, "workers_max": 2}))


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_ray_up_starts_a_closed_cluster(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    starts = [
        command
        for where in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[where]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in starts[0] and "--head" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


def test_data_stays_where_it_is() -> None:
    """Neither `ray job submit` nor `ray up` takes along what the recipes read and write."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    recipes = "".join(path.read_text() for path in (ROOT / "configs" / "data").glob("*.yaml"))
    roots = re.findall(r"\b(?:root|motions): ([^\s},]+)", recipes)
    assert len(roots) > 20
    folders = {Path(root).parts[0] for root in roots}
    (ignores,) = get_excludes_from_ignore_files(ROOT, include_gitignore=True)
    skipped = yaml.safe_load((CLUSTER / "ray-up-onprem.yaml").read_text())["rsync_exclude"]
    for folder in (*folders, "runs", "collections"):
        assert ignores(ROOT / folder / "a" / "file"), folder
        assert folder in (name.lstrip("/") for name in skipped), folder
    assert not ignores(ROOT / "hpse_dist" / "data" / "items.py")
    assert "data" not in skipped  # without a slash at any depth: hpse_dist/data


def kuberay(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The resource, its cluster's spec, and further documents of the file."""
    resource, *others = yaml.safe_load_all(path.read_text())
    spec = resource["spec"]
    return resource, spec.get("rayClusterSpec", spec), others


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_knows_every_field(path: Path) -> None:
    resource, cluster, _ = kuberay(path)
    assert resource["apiVersion"] == "ray.io/v1"
    if resource["kind"] == "RayJob":
        assert set(resource["spec"]) <= JOB_FIELDS
        assert resource["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode")
    assert set(cluster) <= CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) <= GROUP_FIELDS - {"groupName"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group) <= GROUP_FIELDS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["limits"] == container["resources"]["requests"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_makes_a_closed_cluster_of_the_pinned_ray(path: Path) -> None:
    resource, cluster, others = kuberay(path)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == requirement("ray")
    host = cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"]
    if resource["kind"] == "RayCluster":
        assert host == "127.0.0.1"
    else:  # the operator has to reach it: nobody else may
        (policy,) = others
        assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]


def test_the_image_is_made_by_the_set_up_of_one_machine() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "bash cluster/local.sh setup" in text
    assert "pip install" not in text
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    sources = [name for line in copied for name in line.split()]
    assert sources and all((ROOT / name).exists() for name in sources)
    kept = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name.rstrip('/')}" for name in sources} <= set(kept)
    version = re.search(r"^FROM python:3\.11\.(\d+)-", text, re.MULTILINE)
    assert version and int(version[1]) >= 13  # before it, archives could write outside


@pytest.mark.parametrize("script", ["slurm.sh", "local.sh"])
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / script], check=True)


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    [
        ({}, [], "sbatch --nodes=2 cluster/slurm.sh pretrain"),
        ({}, ["pretrain"], "give it to sbatch"),
        ({"SLURM_JOB_ID": "7", "HPSE_ENV": "/nowhere"}, ["pretrain"], "no Ray in /nowhere"),
    ],
)
def test_slurm_script_says_what_is_missing(
    environment: dict[str, str], words: list[str], said: str
) -> None:
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh", *words],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("ray", "python", "code", "said"),
    [
        ("exec sleep 3600", "exit 0", 0, ""),
        ("exec sleep 3600", "exit 3", 3, ""),  # the command's own
        ("sleep 1; exit 1", "exec sleep 3600", 1, "slurm.sh: Ray ended on one; the same command"),
    ],
)
def test_slurm_script_ends_with_the_command_and_with_ray(
    tmp_path: Path, ray: str, python: str, code: int, said: str
) -> None:
    """Nothing is real here but the script; it leaves no process behind."""
    stand_ins = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
        "scontrol": "echo one",
        "hostname": "echo 192.0.2.1",
        "ray": f"[ $1 = health-check ] && exit 0\n{ray}",
        "python": python,
    }
    (tmp_path / "bin").mkdir()
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = {"HPSE_ENV": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "one"}
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh", "pretrain", "recipe.yaml"],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **job},
        capture_output=True,  # waits for whoever still holds the other end
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
