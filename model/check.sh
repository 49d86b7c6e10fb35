#!/bin/sh
# Checks the model: types, the story of every rule, then random searches in which certain states must
# be reached. SAMPLES=5000 SEED=$RANDOM model/check.sh searches longer. Needs Node only.
set -eu
cd "$(dirname "$0")"
quint=node_modules/.bin/quint
samples=${SAMPLES:-30}
seed=${SEED:-1}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$quint" typecheck runs.qnt
"$quint" test --backend=typescript rules_test.qnt
"$quint" test --backend=typescript recovery_test.qnt

# search INIT STEPS INVARIANT WITNESS...: the invariant holds, every witness was seen. `step` names the
# moves, where they are not those of world.qnt.
search() {
    init=$1 steps=$2 invariant=$3
    shift 3
    printf '\n%s: %s of %s steps, %s\n' "$init" "$samples" "$steps" "$invariant"
    if ! "$quint" run runs.qnt --backend=typescript --init="$init" --step="${step:-step}" \
        --invariant="$invariant" \
        --max-samples="$samples" --max-steps="$steps" --seed="$seed" --verbosity=1 \
        --witnesses "$@" >"$log" 2>&1; then
        cat "$log"
        exit 1
    fi
    grep -v '^Use ' "$log"
    if grep -q 'was witnessed in 0 ' "$log"; then
        printf 'the search did not reach what it must reach\n' >&2
        exit 1
    fi
}

search liar 30 safety committed committedAfterNullification committedTwiceInATerm
search weighted 30 safety committed committedAfterNullification
search crashes 30 safety committed rebooted
search rollback 30 safety committed rebooted abstained
search epochs 40 safety secondEpoch
search aboveThird 30 accountability committed disagreement
step=stepOverEras search recoveries 100 safety recovered committedInNewEra secondRecovery stoppedBeside wipedCameBack
