#!/bin/sh
# A daemon that stays, workers that come and go, a run in its heap, and nothing left at the end.
#
# usage: start-spawn-run-stop.sh DIR      (coheap in PATH)
set -eu
coheap --name shop start --wait -n 1 --max 1GiB
trap 'coheap --name shop stop --mode immediate >/dev/null 2>&1 || true' EXIT

coheap --name shop spawn 2
until [ "$(coheap --name shop ps --json | grep -c '"p":[0-9]')" -eq 3 ]; do sleep 0.05; done
coheap --name shop status

# Twice the same: the heap outlives a run, the answer does not depend on what is in it.
first=$(coheap --name shop run index "$1" --json | sed 's/.*"result_hash":"\([0-9a-f]*\)".*/\1/')
second=$(coheap --name shop run index "$1" --json | sed 's/.*"result_hash":"\([0-9a-f]*\)".*/\1/')
[ -n "$first" ] && [ "$first" = "$second" ]

coheap --name shop gc --wait
coheap --name shop verify
coheap --name shop resize 1
coheap --name shop stop
trap - EXIT
