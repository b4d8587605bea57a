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
ranks=2
[ "$(nvidia-smi --list-gpus 2> /dev/null | wc -l)" = 1 ] && ranks=1 # one GPU holds one rank
train() { run deepspeed --num_gpus "$ranks" --log_level warning facelt/train.py --deepspeed_config jobs/demo.json --data "$data/train" "$@"; }
data="$out/data" features="$out/features"

step "People: 300 drawn ones that belong to no one, and 28 of the 40 of the ORL set, all with a long tail"
drawn=(--zoom 1.6 --size 64)
recordio synth "$data/synth" --identities 300 --images 5000 --tail zipf --min-images 4 --max-images 80 "${drawn[@]}"
recordio orl "$data/orl" --split train --size 64
recordio curate "$data/orl" "$data/orl-lt" --images 200 --reading uniform
recordio merge "$data/synth" "$data/orl-lt" "$data/train"
recordio sheet "$data/train" "$out/train.png"

step "Other images of the drawn ones, as many of each; strangers; distractors"
recordio synth "$data/test" --identities 300 --images 3000 --first-image 1000 "${drawn[@]}"
recordio synth "$data/drawn" --identities 150 --images 900 --first-identity 100000 "${drawn[@]}"
recordio orl "$data/real" --split test --size 64
recordio synth "$data/distractors" --identities 250 --images 250 --first-identity 200000 "${drawn[@]}"
tail -n +2 "$data/drawn/attributes.tsv" | cut -f1,2 > "$out/sex.tsv"

step "Train: stage plain on two ranks; from there, for as many images each: plain once more, meta, memory"
train --output "$out/start" --stage plain
train --output "$out/plain" --stage plain --start-from "$out/start"
train --output "$out/meta" --stage meta --start-from "$out/start"
train --output "$out/memory" --stage memory --start-from "$out/start"

step "Known people: who is it, by their training images? Strangers: are they told from known people?"
for m in plain meta memory; do
    run python -m facelt.evaluate --checkpoint "$out/$m" --train "$data/train" --data "$data/test" --open "$data/drawn" \
        --read classifier memory plda --many 20 --few 6 --output "$out/evaluate-$m"
done

step "Features"
sets=("$data/real" "$data/drawn" "$data/distractors")
run python -m facelt.extract --pixels 32 --data "${sets[@]}" --output "$features/pixels"
run python -m facelt.extract --checkpoint "$out/plain" --data "${sets[@]}" "$data/train" --output "$features/plain"
run python -m facelt.extract --checkpoint "$out/meta" --embedding direct meta --data "${sets[@]}" --output "$features/meta"
run python -m facelt.extract --checkpoint "$out/memory" --data "${sets[@]}" --output "$features/memory"

# The report shows the faces of the worst misses: unpacked images, and their names beside the features.
for s in real drawn distractors; do
    recordio unpack "$data/$s" "$out/images/$s"
    for f in "$features"/{pixels,plain,meta/direct,meta/meta,memory}; do
        cut -f3 "$out/images/$s/images.lst" > "$f/$s/paths.txt"
    done
done

for strangers in drawn real; do
    step "Identify $strangers strangers among 250 distractors, few because these networks saw some 40,000 images each"
    d=distractors s=$strangers groups=()
    [ "$s" = drawn ] && groups=(--subgroups "$out/sex.tsv")
    run python -m megaface_eval.run --gallery 250 \
        --method "raw pixels=$features/pixels/$s,$features/pixels/$d" \
        --method "plain=$features/plain/$s,$features/plain/$d" \
        --method "meta (direct)=$features/meta/direct/$s,$features/meta/direct/$d" \
        --method "meta (meta-embedding)=$features/meta/meta/$s,$features/meta/meta/$d" \
        --method "memory=$features/memory/$s,$features/memory/$d" \
        --train "$features/plain/train" --probes-recogniser "$features/plain/$s" --similarity-quantile 0.999 \
        --probe-images "$out/images/$s" --distractor-images "$out/images/$d" \
        ${groups[@]+"${groups[@]}"} --output "$out/report-$s"
done

step "Done. Look at $out/report-real/report.html, $out/report-drawn/report.html and $out/train.png"
echo "These figures show that every part works, on 12 real people and on drawings; they say nothing of accuracy on"
echo "photographs of the world, which needs a real training set (see README.md, \"Your own data\")."
exit
}
