#!/usr/bin/env bash
# From a fresh clone to a pre-trained, fine-tuned and judged BERT, on text that every Python carries. Under ten minutes on two cores, once installed.
#
#   ./launch/quickstart.sh           everything goes to runs/quickstart in the clone
#   ./launch/quickstart.sh FOLDER    to another folder; so does QUICKSTART=FOLDER
#
# Makes .venv in the clone (Python 3.11 to 3.13; PYTHON=/path/to/python chooses). Each command is shown before it runs, to be repeated with changes.
# A second call reuses what is finished, and goes on where the first one was stopped. Fails if the model has not learnt.
set -euo pipefail

began=$SECONDS
root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"

folder=${1:-${QUICKSTART:-}}
case $#$folder in
[2-9]* | 1-*) fail 'usage: launch/quickstart.sh [FOLDER]' ;;
esac
case $folder in
'' | /*) runs=${folder:-runs/quickstart} ;;
*) runs=$PWD/$folder ;; # from where the caller stands
esac

number=0
stage() {
    local seconds=$((SECONDS - began))
    number=$((number + 1))
    printf '\n=== %d of 9, %d:%02d  %s\n' $number $((seconds / 60)) $((seconds % 60)) "$1"
}

# Prints a command as it would be typed.
show() {
    local word line='$ python'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./=:,-]*) line="$line \"$word\"" ;;
        *) line="$line $word" ;;
        esac
    done
    printf '%s\n' "$line"
}

run() {
    show "$@"
    "$python" "$@"
}

# Starts a run and stops it after its first checkpoint with SIGTERM, as a machine does that is wanted for something else.
interrupted() {
    local workdir=$1 status=0
    shift
    show "$@"
    "$python" "$@" &
    child=$!
    trap 'kill -TERM $child 2>/dev/null || true' EXIT
    trap 'exit 130' INT TERM
    while kill -0 $child 2>/dev/null && ! ls "$workdir"/checkpoints/*.files >/dev/null 2>&1; do
        sleep 0.2
    done
    kill -TERM $child 2>/dev/null || true
    wait $child || status=$?
    trap - EXIT INT TERM
    return $status
}

stage 'Environment: the project and its libraries in .venv'
make_environment report
cd -- "$root"
export PYTHONUNBUFFERED=1
if [ -z "${JAX_PLATFORMS:-}" ] && ! "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("jax_plugins") or u.find_spec("libtpu")))'; then
    export JAX_PLATFORMS=cpu # no accelerator's plug-in is installed: do not look for the accelerator
fi
mkdir -p "$runs"
installed=$((SECONDS - began))
began=$SECONDS

stage 'Text: the language reference and docstrings, with a labelled task made of some of them'
if [ -e "$runs/text/complete" ]; then
    printf '%s\n' "$runs/text is there already"
else
    run launch/quickstart_corpus.py --output="$runs/text"
    touch "$runs/text/complete"
fi

stage 'Preparation: trains a WordPiece vocabulary and turns the text into tokens; whole modules are held out'
run -m t5x_lite.prepare --input="$runs/text/text/train" --validation_input="$runs/text/text/validation" --sentences=line --vocab_size=2000 \
    --output="$runs/prepared"

stage 'Pre-training: masked words and next sentences; stopped part way, then resumed by the same command'
pretrain=(-m t5x_lite.train --config=configs/bert_small_corpus.py --config.data.path="$runs/prepared" --workdir="$runs/pretrained")
if [ ! -d "$runs/pretrained/checkpoints" ]; then
    interrupted "$runs/pretrained" "${pretrain[@]}"
fi
run "${pretrain[@]}"

stage 'Evaluation on the held-out modules, beside what counts alone reach'
run -m t5x_lite.evaluate --workdir="$runs/pretrained" --config.eval.batches=0

stage 'Fine-tuning: which family of modules does a docstring come from? 500 to learn from. First with the pre-trained weights, then with random ones'
tune=(-m t5x_lite.train --config=configs/classify.py --config.init_from="$runs/pretrained" --config.data.train="$runs/text/task/train.tsv"
    --config.data.validation="$runs/text/task/dev.tsv" --config.data.seq_len=64 --config.epochs=10 --config.optim.learning_rate=1e-3 --config.eval.every_steps=40)
run "${tune[@]}" --workdir="$runs/finetuned"
run "${tune[@]}" --workdir="$runs/from_random" --config.init_weights=false

stage 'Evaluation of both on docstrings of other classes and functions'
run -m t5x_lite.evaluate --workdir="$runs/finetuned"
run -m t5x_lite.evaluate --workdir="$runs/from_random"

stage 'Prediction: masked words, and the family of a docstring of ours'
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='Return a [MASK] of all the items in the [MASK].'
run -m t5x_lite.predict --workdir="$runs/finetuned" --text='Parse the headers of a message and return the address of its sender.'

stage 'Report: curves and a table'
run -m t5x_lite.report --workdirs="$runs/pretrained,$runs/finetuned,$runs/from_random" --metrics=mlm_loss,mlm_accuracy,accuracy --output="$runs"
"$python" launch/quickstart_verdict.py "$runs"
seconds=$((SECONDS - began))
printf 'done in %d:%02d after %d s of installation. The picture is %s\n' $((seconds / 60)) $((seconds % 60)) $installed "$runs/curves.png"
