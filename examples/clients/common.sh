# shellcheck shell=bash
# What the `run` of every client needs: where things are, how protos are compiled, and a server.
# The caller has set `set -euo pipefail`.
clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$clients/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
# shellcheck disable=SC2034 # the callers build there
tools=$root/.tools/clients
service_config=$clients/service_config.json

# need COMMAND WHAT: ends with a sentence when the command is not on the PATH.
need() {
    command -v "$1" >/dev/null && return
    printf '%s is needed: install %s.\n' "$1" "$2" >&2
    exit 3
}

# compile_protos OPTION...: compiles all of contigmm.v1 with the protoc that scripts/setup installs.
compile_protos() {
    "$python" -m grpc_tools.protoc "-I$root/protos" "$@" "$root"/protos/contigmm/v1/*.proto
}

# talk ADDRESS COMMAND...: runs the client, with a server's address and the service config as its last
# arguments; an empty address means a server of its own, which ends with it.
talk() {
    local address=$1
    shift
    if [[ -z $address ]]; then
        exec 3< <(exec "$python" -m contigmm_server.main --listen 127.0.0.1:0)
        # shellcheck disable=SC2064 # the id is that of now
        trap "kill $! 2>/dev/null || true" EXIT
        if ! read -r _ _ address <&3; then
            echo "The server did not start: run scripts/setup." >&2
            exit 1
        fi
    fi
    "$@" "$address" "$service_config"
}
