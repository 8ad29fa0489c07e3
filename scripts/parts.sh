# shellcheck shell=bash
# Sourced by the other scripts: names the parts of a run, times them, and stops with one sentence.

parts_names=()
parts_seconds=()

# stop SENTENCE...: ends the run with one sentence on standard error.
stop() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# timed NAME COMMAND...: runs the command in view, says how long it took, and sets `status`.
# Call it plainly, not behind `if` or `||`: there a function goes on after its own failures.
timed() {
    local name=$1 start=$SECONDS
    shift
    printf '\n==> %s\n' "$name"
    set +e
    (set -e && "$@")
    status=$?
    set -e
    parts_names+=("$name")
    parts_seconds+=($((SECONDS - start)))
    printf '<== %s: %s%d s\n' "$name" "$([[ $status == 0 ]] || echo 'failed after ')" $((SECONDS - start))
}

# part NAME COMMAND...: as timed, and the run ends where the command fails.
part() {
    timed "$@"
    ((status == 0)) || exit "$status"
}

# report_parts: one line for each part that ran, and the total.
report_parts() {
    local i total=0
    printf '\n%s\n' "How long each part of ${0##*/} took:"
    for ((i = 0; i < ${#parts_names[@]}; i++)); do
        printf '  %5d s  %s\n' "${parts_seconds[i]}" "${parts_names[i]}"
        total=$((total + parts_seconds[i]))
    done
    printf '  %5d s  in all\n' "$total"
}
