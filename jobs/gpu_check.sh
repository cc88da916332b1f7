#!/usr/bin/env bash
# Everything that only a GPU can show, in at most eight minutes, as one Markdown table on standard output.
# It needs no network: photographs are made on the spot, and neither S3 nor the report is used.
#   jobs/gpu_check.sh [--site DIR] [--output DIR] [--device cuda|cpu] [--small]
# --site: folder of packages to put before those that are installed (Ray, polars, pydantic); nothing is unpacked here.
# --output: folder for the figures and logs of every step; by default a new one below /tmp.
# --device cpu --small: a rehearsal with small sizes where there is no GPU.
# PYTHON names the interpreter (python3). A step that fails is named in the table; the others go on.
set -uo pipefail
python=${PYTHON:-python3} device=cuda small='' site='' out=''
while (($#)); do
  case $1 in
    --site) site=$(cd "$2" && pwd) || exit 2; shift 2 ;;
    --output) mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --small) small=1; shift ;;
    *) echo "gpu_check: unknown argument $1; it takes --site DIR, --output DIR, --device cuda|cpu, --small" >&2; exit 2 ;;
  esac
done
out=${out:-$(mktemp -d /tmp/gpu-check-XXXXXX)}
cd "$(dirname "$0")/.."
export PYTHONPATH="${site:+$site:}$PWD" PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
: >"$out/steps.tsv"

limit_s=$((small ? 900 : 470)) # the rest of the eight minutes is for the table
step() { # name, most seconds, command: its standard output is kept as NAME.json
  local name=$1 most=$2 left=$((limit_s - SECONDS)) start=$SECONDS code=124
  shift 2
  echo "$name …" >&2
  if ((left > 5)); then
    timeout --kill-after=10 $((most < left ? most : left)) "$@" >"$out/$name.json" 2>"$out/$name.log"
    code=$?
  fi
  printf '%s\t%s\t%s\n' "$name" "$code" $((SECONDS - start)) >>"$out/steps.tsv"
}
bench() { # name, most seconds, arguments of `camrobust bench`
  local name=$1 most=$2
  shift 2
  step "$name" "$most" "$python" -m camrobust bench "$@" --device "$device" --json
}

if ((small)); then
  precisions='fp32 bf16' repeats=1 most=300 sized=(--model squeezenet1_1 --seconds 10)
else
  precisions='fp32 tf32 bf16' repeats=5 most=120 sized=(--seconds 12)
fi
# Those of interface/ need the packages of the report.
mapfile -t tests < <(grep -rl --include='test_*.py' --exclude-dir=interface 'mark\.gpu' tests)
step tests 90 "$python" -m pytest -p no:cacheprovider -q -m gpu "${tests[@]}"
for precision in $precisions; do
  maps=(--only-maps)
  [[ $precision == fp32 && ! $small ]] && maps=()
  bench "passes-$precision" "$most" passes --precision "$precision" --repeats "$repeats" "${maps[@]}"
done
bench operations "$most" passes --operations --repeats "$((repeats < 3 ? repeats : 3))"
job_precision=$([[ $device == cuda ]] && echo bf16 || echo fp32)
bench job-grid 200 job --precision "$job_precision" --segments grid "${sized[@]}"
bench job-quickshift 70 job --precision "$job_precision" --variants 15 "${sized[@]}"
bench perturbations 60 perturbations --repeats "$((repeats < 3 ? repeats : 3))"
"$python" -m camrobust.bench.gpu_table "$out"
echo "figures and logs of every step: $out" >&2
