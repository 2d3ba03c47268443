#!/bin/sh
# The whole chain in a few minutes on a CPU, without downloads: pack, train, stop, resume, export, evaluate.
set -eu
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m training.corpus --installed-only --held-out attrs click jinja2 --work "$work"
"$python" -m training.tokenizer --work "$work"
"$python" -W ignore -m training.edits --work "$work" --limit 4000 --per-snippet 2
"$python" -m training.train --work "$work" --shape flat --seconds 90 --stop-after 45 --save-every 20
"$python" -m training.train --work "$work" --shape flat --seconds 90 --resume
"$python" -m training.export --work "$work" --to "$work/model" --name rehearsal
"$python" -m training.evaluate --work "$work" --model "$work/model" --holes 20 --bytes 30000 --edits-per-kind 1
