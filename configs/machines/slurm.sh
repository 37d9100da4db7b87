#!/bin/bash
# One study by an array of SLURM tasks, each of them a worker; any number of them may run at a time.
#
#   sbatch --array=0-3 configs/machines/slurm.sh my.yaml
#
# my.yaml names a PostgreSQL server (storage) and an MLflow server (tracking.uri) that every node reaches.
#SBATCH --job-name=prompt-optimizer
#SBATCH --array=0-3
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=INT@120
set -euo pipefail
config=${1:?give the configuration: sbatch slurm.sh my.yaml}
folder=${RUNS_FOLDER:-$PWD/runs-of-workers}/${SLURM_ARRAY_TASK_ID:-0}
mkdir -p "$folder"
exec srun ${OPTIMIZER:-optimizer} worker "$config" --runs-dir "$folder" --quiet
