#!/usr/bin/env bash
# The whole way on a laptop: data, training, features, tables. Run by `make demo`, or: bash jobs/demo.sh FOLDER
set -euo pipefail
{ # read whole before it runs, so that an edit does not reach a run under way
cd "$(dirname "$0")/.."
out=${1:-demo}
if [ -e "$out" ] && [ ! -e "$out/.demo" ]; then
    echo "error: $out exists and is not a demo folder; give another one: bash jobs/demo.sh FOLDER" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out/data"
touch "$out/.demo"
export PYTHONWARNINGS=ignore
command -v nvidia-smi > /dev/null || export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}" # or DeepSpeed warns that it found no GPU

step() { printf '\n== %3d s  %s\n' "$SECONDS" "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
recordio() { run python -m recordio_tools "$@"; }
train() { run deepspeed --num_gpus 2 --log_level warning facelt/train.py --deepspeed_config jobs/demo.json "$@"; }
data="$out/data" features="$out/features"

step "People: drawn ones that belong to no one, and 28 of the 40 of the ORL set, all with a long tail"
recordio synth "$data/synth" --identities 150 --images 1500 --tail zipf --min-images 4 --max-images 60 --zoom 1.6
recordio orl "$data/orl" --split train
recordio curate "$data/orl" "$data/orl-lt" --images 200 --reading uniform
recordio merge "$data/synth" "$data/orl-lt" "$data/train"
recordio sheet "$data/train" "$out/train.png"

step "Strangers: the other 12 of ORL, drawn people never trained on, and 10,000 drawn distractors"
recordio orl "$data/real" --split test
recordio synth "$data/drawn" --identities 60 --images 480 --first-identity 100000 --zoom 1.6
recordio synth "$data/distractors" --identities 5000 --images 10000 --first-identity 200000 --zoom 1.6
tail -n +2 "$data/drawn/attributes.tsv" | cut -f1,2 > "$out/sex.tsv"

step "Train: stage plain, then stage meta, in one command on two ranks"
train --data "$data/train" --output "$out/meta"

step "Train: stage plain again instead of meta, from the same start, for the same number of images"
train --data "$data/train" --output "$out/plain" --stage plain --start-from "$out/meta"

step "Features"
sets=("$data/real" "$data/drawn" "$data/distractors")
run python -m facelt.extract --pixels 32 --data "${sets[@]}" --output "$features/pixels"
run python -m facelt.extract --checkpoint "$out/plain" --data "${sets[@]}" "$data/train" --output "$features/plain"
run python -m facelt.extract --checkpoint "$out/meta" --embedding direct meta --data "${sets[@]}" --output "$features/meta"

# The report shows the faces of the worst misses: unpacked images, and their names beside the features.
for s in real drawn distractors; do
    recordio unpack "$data/$s" "$out/images/$s"
    for f in "$features"/{pixels,plain,meta/direct,meta/meta}; do
        cut -f3 "$out/images/$s/images.lst" > "$f/$s/paths.txt"
    done
done

for strangers in drawn real; do
    step "Identify $strangers strangers among 10,000 distractors"
    d=distractors s=$strangers groups=()
    [ "$s" = drawn ] && groups=(--subgroups "$out/sex.tsv")
    run python -m megaface_eval.run --gallery 10K --impostors all \
        --method "raw pixels=$features/pixels/$s,$features/pixels/$d" \
        --method "plain=$features/plain/$s,$features/plain/$d" \
        --method "meta (direct)=$features/meta/direct/$s,$features/meta/direct/$d" \
        --method "meta (meta-embedding)=$features/meta/meta/$s,$features/meta/meta/$d" \
        --train "$features/plain/train" --probes-recogniser "$features/plain/$s" --similarity-quantile 0.999 \
        --probe-images "$out/images/$s" --distractor-images "$out/images/$d" \
        ${groups[@]+"${groups[@]}"} --output "$out/report-$s"
done

step "Done. Look at $out/report-real/report.html, $out/report-drawn/report.html and $out/train.png"
echo "These figures show that every part works, on 12 real people and on drawings; they say nothing of accuracy on"
echo "photographs of the world, which needs a real training set (see README.md, \"Your own data\")."
exit
}
