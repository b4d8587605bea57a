# Sourced by the .sbatch files: one task a GPU of every node of the job (without GPUs: the job's tasks a node, or one).
# Leaves the options of srun in `ranks`, and exports where the tasks meet and how many threads each may use.
mistake() { echo "error: $*" >&2; exit 2; }

if [[ -z ${SLURM_JOB_ID:-} ]]; then
    mistake "not in a Slurm job; submit it: sbatch $0 …"
fi
if [[ -f .venv/bin/activate ]]; then
    . .venv/bin/activate
fi

if [[ -z ${MASTER_ADDR:-} ]]; then
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export MASTER_ADDR=${hosts[0]}
fi
# Another port for each job on a node, below those that the kernel hands out.
export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}

tasks=${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}
cpus=$((${SLURM_CPUS_ON_NODE:?} / tasks))
if ((cpus == 0)); then
    mistake "$SLURM_CPUS_ON_NODE CPUs for $tasks tasks on a node; expected one for each: sbatch --cpus-per-gpu=N …"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}

# Every task sees all GPUs of its node and takes the one of its local number; a dead task ends the others.
unset SLURM_NTASKS_PER_GPU SLURM_GPUS_PER_TASK SLURM_GPU_BIND
ranks=(--nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((SLURM_JOB_NUM_NODES * tasks)) --ntasks-per-node="$tasks"
    --cpus-per-task="$cpus" --kill-on-bad-exit=1)
if [[ -n ${SLURM_GPUS_ON_NODE:-} ]]; then
    ranks+=(--gpus-per-node="$SLURM_GPUS_ON_NODE")
fi
