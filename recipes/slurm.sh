#!/usr/bin/env bash
# Two machines of four GPUs under SLURM: `sbatch recipes/slurm.sh`. srun starts one task on each machine, and align takes
# from SLURM which one it is and where they meet. All of them need the same folder, `runs/` included.
# Five minutes before its time is up the job is told (TERM): it saves a checkpoint, and submitted again it goes on.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --signal=TERM@300
srun .venv/bin/align run sft dpo --recipe recipes/my.yaml --processes auto
