#!/usr/bin/env bash
# Measure a run in N shards, each a Ray job with a driver of its own, and then draw one report of all of them:
#   jobs/shards.sh N CONFIG OUTPUT [ARGUMENT OF camrobust run ...]
# RAY_API_SERVER_ADDRESS holds the address of the cluster's dashboard (http://127.0.0.1:8265), or several addresses with
# spaces between them: the shards take turns, so that each can have a cluster of its own. After a shard has failed, give
# the same command again: what is complete says so at once, and the rest goes on.
set -uo pipefail
if (($# < 3)) || [[ ! $1 =~ ^[1-9][0-9]{0,2}$ ]]; then
  echo "shards.sh: wants a number of shards from 1 to 999, a configuration and an output, got: $*" >&2
  exit 2
fi
shards=$1 config=$2 output=$3
shift 3
read -ra addresses <<<"${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"

submit() { # address, command: waits for the job, and fails if it does
  ray job submit --address "$1" --working-dir . -- "${@:2}"
}

interrupted() { # exit code: end what waits for the jobs, each with its own process group
  for pid in $(jobs -pr); do
    kill -- "-$pid" 2>/dev/null
  done
  echo "shards.sh: interrupted; the submitted jobs go on in the cluster (ray job list; ray job stop ends one)" >&2
  exit "$1"
}
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

set -m # a process group for each job
pids=()
for ((shard = 1; shard <= shards; shard++)); do
  {
    submit "${addresses[(shard - 1) % ${#addresses[@]}]}" \
      python jobs/evaluate.py "$config" --output "$output" --shard "$shard/$shards" "$@" 2>&1 |
      sed -u "s|^|$shard/$shards: |"
  } </dev/null &
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
  wait "$pid" || failed=$((failed + 1))
done
if ((failed)); then
  echo "shards.sh: $failed of $shards jobs failed; see their lines above, and give the same command again to go on" >&2
  exit 1
fi
submit "${addresses[0]}" python jobs/aggregate.py "$output" </dev/null &
wait $!
