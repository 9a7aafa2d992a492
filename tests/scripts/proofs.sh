#!/usr/bin/env bash
# Everything on the page tests/README.md, by one command.
#
#   proofs.sh [--short | --long] [NAME...]     all entries without names; ends with 1 when one of them does not end as it must
#
# Entries: tests prove deaths stepkill planted storm soak fuzz faults points sanitize coverage. The short form takes about ten minutes on
# two cores; `.ci/run` runs all of it but `tests` (it has run them) and what is for the night (deaths, fuzz, faults, coverage: `--long`).
set -uo pipefail
cd "$(dirname "$0")/../.."
form=short
case ${1-} in --short | --long) form=${1#--}; shift ;; esac
names=${*:-}
long=(tests prove deaths stepkill planted storm soak fuzz faults points sanitize coverage)
short=(tests prove stepkill planted storm soak points sanitize)
[ -n "$names" ] || { [ $form = long ] && names=${long[*]} || names=${short[*]}; }
bad=()

run() { cargo run --locked --release -q -p coheap-tests "$@"; }
check() { cargo test --locked --release -q "$@"; }
# Alternatives of the two forms: pick SHORT LONG.
pick() { [ $form = long ] && echo "$2" || echo "$1"; }

tests() { check; }
prove() { run --features model --bin prove -- --$form; }
# Two deaths and one of a recoverer, in full, in every scenario that is known to have an end within these bounds.
deaths() { run --features model --bin prove -- --explore --whole --long; }
stepkill() { run --bin stepkill -- $(pick "" "--mode all"); }
planted() { check -p coheap-tests --features planted --test planted --test oracles; }
storm() {
    for seed in 11 12 13; do
        COHEAPDEBUG=gccheckmark=1 check -p coheap --test storm -- --kills "$(pick 500 10000)" --seed $seed || return
    done
}
soak() {
    run --bin soak -- --kills "$(pick 300 10000)" --daemon-kills "$(pick 6 200)" --seed 1 &&
        COHEAPDEBUG=gccheckmark=1 run --bin soak -- --kills "$(pick 100 2000)" --daemon-kills "$(pick 3 60)" --seed 2
}
fuzz() { run --bin fuzz -- --minutes "$(pick 1 60)" --seed 1; }
faults() { run --bin faults -- --minutes "$(pick 1 60)" --seed 1; }
# The programs are built again, with named points.
points() { check -p coheap-tests --features failpoints --test failpoints --test step; }
sanitize() { tests/scripts/sanitize.sh; }
coverage() { tests/scripts/coverage.sh; }

for name in $names; do
    if ! printf '%s\n' "${long[@]}" | grep -qx "$name"; then
        echo "proofs.sh: no entry \`$name\`; there are: ${long[*]}" >&2
        exit 2
    fi
done
for name in $names; do
    began=$SECONDS
    printf '\n== %s (%s form)\n' "$name" $form
    if "$name"; then ended=ok; else ended=FAILED; bad+=("$name"); fi
    printf '== %s: %s, %s s\n' "$name" $ended $((SECONDS - began))
done
[ ${#bad[@]} -eq 0 ] || { echo "did not end as they must: ${bad[*]}"; exit 1; }
echo "all as it must be"
