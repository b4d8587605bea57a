#!/usr/bin/env bash
# Tables 3 and 4 of the paper in miniature, at two budgets: bash jobs/tables_small.sh FOLDER
# The same command again goes on where it stopped.
set -euo pipefail
{ # read whole before it runs, so that an edit does not reach a run under way
cd "$(dirname "$0")/.."
folder=${1:?give a folder for what is trained: bash jobs/tables_small.sh FOLDER}
export PYTHONWARNINGS=ignore PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
command -v nvidia-smi > /dev/null || export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}" # or DeepSpeed warns that it found no GPU
python -m tests.bench.tables --folder "$folder"
python -m tests.bench.tables --folder "$folder" --epochs 12 --arms plain class-aware "balanced softmax" \
    "few-shot without forgetting" released "released, trained with the memory's mean" cosine "plain, whitened" facelt "facelt, not whitened"
exit
}
