#!/bin/sh
# The whole chain in a few minutes on a CPU, without downloads: pack, carry, train, stop, resume, export, evaluate.
set -eu
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m training.corpus --installed-only --held-out attrs click jinja2 --work "$work/here"
"$python" -m training.tokenizer --work "$work/here"
"$python" -m training.shards pack --work "$work/here" --megabytes 8
for bundle in "$work"/here/bundles/*; do
    "$python" -m training.shards unpack "$bundle" --work "$work/there"
done
"$python" -W ignore -m training.edits --work "$work/there" --limit 4000 --per-snippet 2
"$python" -m training.train --work "$work/there" --config flat --seconds 90 --stop-after 45 --save-every 20
"$python" -m training.train --work "$work/there" --config flat --seconds 90 --resume
"$python" -m training.export --work "$work/there" --to "$work/model" --name rehearsal --format int8
"$python" -m training.shards split "$work/model/model.safetensors" --to "$work/parts" --megabytes 1
"$python" -m training.shards join "$work/parts/model.safetensors.00" --to "$work/model/model.safetensors"
"$python" -m training.attribution --work "$work/there" --to "$work/model/copies.bin"
"$python" -m training.evaluate --work "$work/there" --model "$work/model" --infill-cases 20 --bytes 30000 --edits-per-kind 1
