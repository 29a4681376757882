#!/usr/bin/env bash
# Training on Slurm, one node or several: one task for each GPU, and no launcher in between.
#
#   mkdir -p logs
#   sbatch launch/slurm.sh --config configs/dcgan_lsun.yaml --name run42
#   sbatch --nodes 4 --gres gpu:4 --ntasks-per-node 4 launch/slurm.sh --config configs/dcgan_lsun.yaml --name run42
#
# What stands after the script goes to gantk/train.py. Two minutes before the time is up Slurm signals the trainers, which
# write a checkpoint and end with code 75; the job is then put back into the queue and goes on where it was.
#
# Change what your cluster wants: partition, account, time, and how the environment is made (below).
#SBATCH --job-name=gantk
#SBATCH --nodes=2
#SBATCH --gres=gpu:8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.out
##SBATCH --partition=gpu
##SBATCH --account=my-project
set -euo pipefail

# Slurm runs a copy of this script: the project is where `sbatch` was called, unless $GANTK_HOME says otherwise.
cd "${GANTK_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}"
if [[ ! -f gantk/train.py ]]; then
    echo "slurm.sh: there is no gantk/train.py in $PWD: call sbatch from the project's folder, or set GANTK_HOME" >&2
    exit 2
fi
# Change: module load cuda, conda activate, ...
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
if ! command -v "$PYTHON" >/dev/null; then
    echo "slurm.sh: there is no $PYTHON: run \`make install\`, or set PYTHON to the interpreter to use" >&2
    exit 2
fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export PYTHON MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

# Each task takes the place of its shell (exec), so that Slurm's signals reach the trainer and its exit code reaches Slurm.
# --wait: when one process has ended, the others have two minutes to end as well (to save, to upload), then they are killed.
code=0
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
    exec "$PYTHON" gantk/train.py "$@"
' gantk "$@" || code=$?

if [[ $code -eq 75 ]]; then
    # Not after `scancel`: the trainer was asked to stop then as well, and nobody wants the job back.
    if [[ $(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
        echo "slurm.sh: preempted, and back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
elif [[ $code -ne 0 ]]; then
    echo "slurm.sh: exit code $code; status.json in the run's folder says why" >&2
fi
exit "$code"
