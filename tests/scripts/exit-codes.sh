#!/bin/sh
# What a script can rely on: each reason has a code of its own, and a failing command prints one line.
#
# usage: exit-codes.sh      (coheap in PATH)
set -u
failed=0

# expect CODE COMMAND...
expect() {
    wanted=$1
    shift
    lines=$("$@" 2>&1 >/dev/null)
    got=$?
    if [ "$got" -ne "$wanted" ]; then
        echo "$*: ended with $got, not $wanted: $lines"
        failed=1
    elif [ "$got" -ne 0 ] && [ "$(printf '%s\n' "$lines" | wc -l)" -ne 1 ]; then
        echo "$*: more than one line: $lines"
        failed=1
    fi
}

expect 0 coheap version
expect 2 coheap --no-such-flag
expect 2 coheap run index /no/such/directory
expect 3 coheap --name absent status
expect 6 coheap run trees --depth 18 -n 2 --max 8MiB
expect 0 coheap --name codes start
expect 75 coheap --name codes start
expect 2 coheap --name codes kill 200
expect 2 coheap --name codes resize 9999
expect 0 coheap --name codes stop
expect 3 coheap --name codes stop
exit "$failed"
