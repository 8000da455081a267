#!/usr/bin/env bash
# Wait for the servers, then check what they return: exit status 0 if rollouts may begin.
# TITO_URL is the server. TITO_RL_URL (Dynamo's discovery), TITO_MODEL and TITO_WAIT (seconds, 900) may be set.
set -euo pipefail
url=${TITO_URL:?set TITO_URL to the address of the server}
options=()
[ -z "${TITO_RL_URL:-}" ] || options+=(--rl-url "$TITO_RL_URL")
tito() { python3 -m dynamo_tito "$@"; }

# Status 2: the server cannot be reached, or loads its model still. 1: something has to be changed on it.
ends=$((SECONDS + ${TITO_WAIT:-900}))
while true; do
    status=0
    tito doctor "$url" "${options[@]}" ${TITO_MODEL:+--model "$TITO_MODEL"} || status=$?
    [ "$status" -eq 2 ] && [ "$SECONDS" -lt "$ends" ] || break
    sleep 5
done
[ "$status" -eq 0 ] || exit "$status"

# Every worker must be healthy; other servers have no list of workers.
[ -z "${TITO_RL_URL:-}" ] || tito workers "$url" "${options[@]}"
