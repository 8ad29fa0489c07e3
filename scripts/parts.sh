# shellcheck shell=bash
# Sourced by the other scripts: names the parts of a run, times them, and stops with one sentence.

parts_names=()
parts_seconds=()

# stop SENTENCE...: ends the run with one sentence on standard error.
stop() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# part NAME COMMAND...: runs the command in view, then says how long it took.
part() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n==> %s\n' "$name"
    "$@" || status=$?
    parts_names+=("$name")
    parts_seconds+=($((SECONDS - start)))
    if ((status != 0)); then
        printf '<== %s: failed after %d s\n' "$name" $((SECONDS - start))
        return "$status"
    fi
    printf '<== %s: %d s\n' "$name" $((SECONDS - start))
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
