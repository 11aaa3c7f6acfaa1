#!/usr/bin/env bash
# A Ray cluster over the machines of one Slurm job, and one command on it:
#
#   sbatch --nodes=2 cluster/slurm.sh pretrain configs/pretrain/completion.yaml machine.workers=8
#
# Run it from the checkout's root, which all machines see, after `bash cluster/local.sh setup` there
# (HPSE_ENV names another environment's folder). The first machine is Ray's head and works too.
# A job that ran out of time or lost a machine: the same command goes on from the run folder.
# Put in your site's partition, account and GPUs here or on sbatch's command line.
#SBATCH --job-name=hpse
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
#SBATCH --signal=B:TERM@120  # two minutes before its time is over: the run saves and ends
set -euo pipefail

[ $# -gt 0 ] || { sed -n '4s/^#  *//p' "$0" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm.sh: give it to sbatch; see its first lines" >&2; exit 2; }

environment="${HPSE_ENV:-${SLURM_SUBMIT_DIR:-$PWD}/.venv}"
[ -x "$environment/bin/ray" ] || {
    echo "slurm.sh: no Ray in $environment; run bash cluster/local.sh setup, or set HPSE_ENV" >&2
    exit 1
}
export PATH="$environment/bin:$PATH"

# This job's own token, in the environment of its processes only: nobody else on the machines can
# read it, or use the cluster.
RAY_AUTH_TOKEN="$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${machines[0]}"
# for subshells: what is killed there is srun itself
on() { exec srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}"; }

# an address that the others reach: never the loopback that /etc/hosts may give
address="$(on "$head" bash -c "hostname -I | tr ' ' '\n' | grep -m1 -v '^127\.\|:'")"
export RAY_ADDRESS="$address:$((20000 + SLURM_JOB_ID % 10000))"

# what Slurm gave this job of a machine, asked there: machines may differ
# shellcheck disable=SC2016
start='ulimit -n 65536 2>/dev/null || true
    exec ray start --block --disable-usage-stats --num-cpus="${SLURM_CPUS_ON_NODE:-$(nproc)}" \
        ${SLURM_GPUS_ON_NODE:+--num-gpus="$SLURM_GPUS_ON_NODE"} "$@"'

started=()
# shellcheck disable=SC2317  # the trap calls it
finish() { kill "${started[@]}" 2>/dev/null || true; wait; }
trap finish EXIT
trap 'exit 143' TERM  # while Ray starts

on "$head" bash -c "$start" ray --head --node-ip-address="$address" --port="${RAY_ADDRESS##*:}" \
    --dashboard-host=127.0.0.1 --temp-dir="/tmp/ray-$SLURM_JOB_ID" &
started+=($!)
tries=0
until ray health-check --address "$RAY_ADDRESS" 2>/dev/null; do
    kill -0 "${started[0]}" 2>/dev/null || { echo "slurm.sh: Ray did not start on $head" >&2; exit 1; }
    [ $((tries += 1)) -lt 60 ] || { echo "slurm.sh: no Ray on $head after two minutes" >&2; exit 1; }
    sleep 1
done
for machine in "${machines[@]:1}"; do
    on "$machine" bash -c "$start" ray --address="$RAY_ADDRESS" &
    started+=($!)
done

# in the background, so that the end of Ray's head, or of the job's time, is noticed meanwhile
python -m "pipelines.$1" "${@:2}" &
run=$!
# its workers are told, save and end; Ray is there until they have
trap 'kill "$run" 2>/dev/null; told=1' TERM
started+=("$run")
code=0
wait -n "$run" "${started[0]}" || code=$?
while [ -n "${told:-}" ] && kill -0 "$run" 2>/dev/null; do code=0; wait "$run" || code=$?; done
[ -z "${told:-}" ] || exit "$code"
if kill -0 "${started[0]}" 2>/dev/null; then exit "$code"; fi
echo "slurm.sh: Ray ended on $head; the same command goes on from the run folder" >&2
exit 1
