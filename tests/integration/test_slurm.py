"""slurm.sh over two machines with addresses of their own; only Slurm's commands are stand-ins.

One to three minutes on two cores, so by hand only:

    HPSE_NODES=1 python -m pytest tests/integration/test_slurm.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpse_dist.config import dump, to_dict
from hpse_dist.log import METRICS_FILE
from tests.data.made_collection import made_collection
from tests.integration.nodes import machines, reason_against
from tests.test_run import pretraining
from tests.waiting import PATIENCE_S, until

SLOW = "takes minutes; set HPSE_NODES=1 to run it"
REASON = reason_against() if os.environ.get("HPSE_NODES") else SLOW
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
ROOT = Path(__file__).parents[2]
STEPS = 400
JOB = 70_000 + os.getpid() % 10_000  # names a folder of Ray's
# as Slurm's: a step on the machine that --nodelist names, told how many CPUs the job has there
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
    case $1 in --nodelist=*) machine=${1#*=} ;; esac
    shift
done
echo "$machine: $*" >>"$STEPS"
SLURM_CPUS_ON_NODE=1 exec ip netns exec "$machine" "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1 $2" = "show hostnames" ] && tr , '\\n' <<<"$3"
"""


def test_a_run_over_two_machines_of_one_job_that_runs_out_of_time_once(tmp_path: Path) -> None:
    recipe = pretraining(tmp_path, made_collection(), name="slurm", steps=STEPS)
    values = to_dict(recipe)
    values["machine"] |= {"engine": "zero", "workers": 2, "checkpoint_every": STEPS}
    (tmp_path / "recipe.yaml").write_text(dump(values))
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)

    def job() -> subprocess.Popen[str]:
        return subprocess.Popen(
            made[0].command("bash", "cluster/slurm.sh", "pretrain", tmp_path / "recipe.yaml"),
            env={
                "PATH": os.pathsep.join([str(stand_ins), os.environ["PATH"]]),
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "STEPS": str(tmp_path / "steps"),
                "HPSE_ENV": sys.prefix,
                "SLURM_JOB_ID": str(JOB),
                "SLURM_JOB_NODELIST": ",".join(one.namespace for one in made),
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    folder = recipe.folder()
    try:
        with machines(2) as made:
            first = job()
            until(lambda: first.poll() or (folder / METRICS_FILE).exists(), "its steps")
            first.terminate()  # as `--signal=B:TERM` does, to the script alone
            said, _ = first.communicate(timeout=PATIENCE_S)
            assert first.returncode == 1 and "stopped before its end" in said, said
            (saved,) = (folder / "checkpoints").glob("step_*")
            again = job()
            said, _ = again.communicate(timeout=PATIENCE_S)
            assert again.returncode == 0, said
    finally:
        shutil.rmtree(f"/tmp/ray-{JOB}", ignore_errors=True)
    report = json.loads((folder / "report.json").read_text())
    assert (report["steps"], report["world_size"]) == (STEPS, 2)
    log = (folder / "logs" / "worker_0.log").read_text()
    assert f"stopped at step {int(saved.name.removeprefix('step_'))};" in log
    assert not (folder / "losses.jsonl").exists(), "nobody was killed"
    steps = (tmp_path / "steps").read_text()
    assert steps.count(made[1].namespace + ":") == 2 and f"--address={made[0].address}:" in steps
