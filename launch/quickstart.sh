#!/usr/bin/env bash
# From a fresh clone to a model that is pre-trained, used and judged, on text that every Python carries. Under ten minutes on two cores, once installed.
#
#   ./launch/quickstart.sh           BERT: masked words and next sentences, then fine-tuned to classify
#   ./launch/quickstart.sh gpt       GPT: causal language modelling, then text generated
#   ./launch/quickstart.sh t5        T5: span corruption, then fine-tuned to classify by writing
#   ./launch/quickstart.sh gpt FOLDER    everything goes to FOLDER (or QUICKSTART=FOLDER) instead of runs/quickstart_gpt in the clone
#
# Makes .venv in the clone (Python 3.11 to 3.13; PYTHON=/path/to/python chooses). Each command is shown before it runs, to be repeated with changes.
# A second call reuses what is finished, and goes on where the first one was stopped. Fails if the model has not learnt.
set -euo pipefail

began=$SECONDS
root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"

kind=bert
case ${1:-} in
bert | gpt | t5)
    kind=$1
    shift
    ;;
esac
folder=${1:-${QUICKSTART:-}}
case $#$folder in
[2-9]* | 1-*) fail 'usage: launch/quickstart.sh [bert | gpt | t5] [FOLDER]' ;;
esac
case $folder in
'') runs=runs/quickstart ;;
/*) runs=$folder ;;
*) runs=$PWD/$folder ;; # from where the caller stands
esac
[ -n "$folder" ] || [ $kind = bert ] || runs=${runs}_$kind

number=0
stage() {
    local seconds=$((SECONDS - began))
    number=$((number + 1))
    printf '\n=== %d of %d, %d:%02d  %s\n' $number $stages $((seconds / 60)) $((seconds % 60)) "$1"
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

# Pre-trains in $runs/pretrained: stopped part way, then resumed by the same command.
pretrain() {
    local command=(-m t5x_lite.train "$@" --config.data.path="$runs/prepared" --workdir="$runs/pretrained")
    if [ ! -d "$runs/pretrained/checkpoints" ]; then
        interrupted "$runs/pretrained" "${command[@]}"
    fi
    run "${command[@]}"
}

# Turns the text into tokens with a new tokenizer of this kind; whole modules are held out.
prepare() {
    run -m t5x_lite.prepare --input="$runs/text/text/train" --validation_input="$runs/text/text/validation" --sentences=line --tokenizer="$1" \
        --vocab_size=2000 --output="$runs/prepared"
}

case $kind in
bert) stages=9 ;;
gpt) stages=7 ;;
t5) stages=9 ;;
esac

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

. "$root/launch/quickstart_$kind.sh"

"$python" launch/quickstart_verdict.py $kind "$runs"
seconds=$((SECONDS - began))
printf 'done in %d:%02d after %d s of installation. The picture is %s\n' $((seconds / 60)) $((seconds % 60)) $installed "$runs/curves.png"
