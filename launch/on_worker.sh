#!/usr/bin/env bash
# What tpu_vm.sh has a worker do, in the code that it copied there.
#
#   on_worker.sh install [EXTRAS]                            Python, if there is none, and the project with the extra `tpu`, or those named, in .venv
#   on_worker.sh train NAME python -m t5x_lite.train FLAGS   starts the line, or attaches to it where it is running; ends with its exit status
#   on_worker.sh stop NAME                                   asks it to save and stop
#
# The training is no child of the connection: one that breaks leaves it running. It writes to ~/t5x_lite/runs/NAME/log; worker 0 shows that as it comes, the
# others its end if something went wrong, as all workers of another slice do (QUIET=1).
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"

is_running() {
    [ -s "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null
}

# Starts a command in a session of its own; its exit status goes to $run/status.
start() {
    rm -f "$run/status" "$run/stopping"
    printf '%s\n' "$line" >"$run/command"
    printf '=== %s %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$line" >>"$run/log"
    # The trap: SIGTERM is for the training, and this shell must live to write down how that ended.
    setsid bash -c 'trap : TERM; run=$0; status=0; "$@" || status=$?; printf "%s\n" $status >"$run/status"' "$run" "$@" \
        </dev/null >>"$run/log" 2>&1 &
    printf '%s\n' $! >"$run/pid"
}

case ${1:-} in
install)
    if ! (find_python) >/dev/null 2>&1; then
        sudo apt-get -q -o DPkg::Lock::Timeout=600 update
        sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 install python3.11 python3.11-venv
    fi
    make_environment "${2:-tpu}"
    ;;
train)
    run=$HOME/t5x_lite/runs/$2
    shift 3 # the name, and the word python
    python=$root/.venv/bin/python
    printf -v line '%q ' "$python" "$@"
    mkdir -p "$run"
    touch "$run/log"
    shown_from=+$(($(wc -l <"$run/log") + 1))
    if is_running; then
        [ "$(cat "$run/command")" = "$line" ] || fail "another command runs here under this name: $(cat "$run/command"); stop it (--stop) or give another --name"
        printf 'attached to process %s of %s\n' "$(cat "$run/pid")" "$(hostname)"
        shown_from=20
    else
        export T5X_LITE_CLUSTER=auto T5X_LITE_STOPPED=75 PYTHONUNBUFFERED=1 PYTHONPATH=$root
        cd -- "$root" # where --config=configs/FILE.py is
        start "$python" "$@"
    fi
    pid=$(cat "$run/pid")
    case ${QUIET:-0}$(hostname) in
    1* | *-w-[1-9]*) tail --pid="$pid" -f /dev/null ;;
    *) tail --pid="$pid" -n "$shown_from" -f "$run/log" ;;
    esac
    status=$(cat "$run/status" 2>/dev/null || echo 75) # killed with the machine: nobody wrote it down
    if [ "$status" = 75 ] && [ -e "$run/stopping" ]; then
        status=0 # as --stop asked
    elif [ "$status" != 0 ]; then
        printf '%s: ended with status %s; the end of its log:\n' "$(hostname)" "$status" >&2
        tail -n 15 "$run/log" >&2
    fi
    exit "$status"
    ;;
stop)
    run=$HOME/t5x_lite/runs/$2
    is_running || { printf '%s: nothing is running\n' "$(hostname)"; exit 0; }
    touch "$run/stopping"
    kill -TERM -- "-$(cat "$run/pid")"
    tail --pid="$(cat "$run/pid")" -f /dev/null
    tail -n 2 "$run/log"
    ;;
*) fail 'usage: on_worker.sh install [EXTRAS] | train NAME python -m t5x_lite.train FLAGS | stop NAME' ;;
esac
