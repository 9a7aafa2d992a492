#!/bin/sh
# Workers are killed 20 times a second and the daemon twice a second: the answer stays the same.
#
# usage: storm.sh DIR      (coheap in PATH)
set -eu
hash() {
    coheap run index "$@" --json | sed 's/.*"result_hash":"\([0-9a-f]*\)".*/\1/'
}
calm=$(hash "$1" -n 4)
storm=$(hash "$1" -n 4 --kill-storm 50ms --restart-daemon 500ms --seed 1)
echo "undisturbed $calm, in a storm $storm"
[ -n "$calm" ] && [ "$calm" = "$storm" ]
