#!/usr/bin/env bash
# Sanitizers over the unit tests: ASan with LSan, TSan on what is lock-free, Miri on what is pure. Needs a nightly toolchain.
#
#   sanitize.sh [asan] [tsan] [miri]     all three without arguments; ends with 1 at a finding, with 0 when all that could run was clean
#
# What cannot run here is said in a line that begins with "skipped". Each test has its own time limit.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-gnu
dir=${CARGO_TARGET_DIR:-target}/sanitize
wanted=${*:-asan tsan miri}
bad=0

skip() { printf 'skipped: %s\n' "$1"; }
find_bad() { printf 'FOUND: %s\n' "$1"; bad=1; }

if ! rustc +nightly --version >/dev/null 2>&1; then
    skip "everything: there is no nightly toolchain"
    exit 0
fi
sysroot=$(rustc +nightly --print sysroot)
have_runtime() { find "$sysroot/lib/rustlib/$target/lib" -name "*rt.$1.a" | grep -q .; }
build() {
    RUSTFLAGS=$1 cargo +nightly test --locked --lib --no-run --target "$target" --target-dir "$dir" "${@:3}" >"$dir/$2.log" 2>&1 || return
    grep -o "$dir/[^)]*" "$dir/$2.log"
}
run() { # name, program, arguments
    if ! timeout -k 1 150 "${@:2}" >"$dir/$1.out" 2>&1; then
        grep -E 'ERROR: |WARNING: |SUMMARY: |panicked|FAILED' "$dir/$1.out" | sort | uniq -c | head -20
        find_bad "$1: $2 (whole report: $dir/$1.out)"
    fi
    grep -E '^test result' "$dir/$1.out"
}
mkdir -p "$dir"

if [[ $wanted == *asan* ]]; then
    if have_runtime asan; then
        echo "== ASan and LSan: shm-layout, protocol, runtime"
        programs=$(build "-Zsanitizer=address" asan -p shm-layout -p coheap-protocol -p coheap)
        [ -n "$programs" ] || find_bad "asan: the tests do not build, see $dir/asan.log"
        for program in $programs; do
            ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 \
                LSAN_OPTIONS="suppressions=$PWD/tests/scripts/lsan.supp" run "asan-$(basename "$program")" "$program" --test-threads 2
        done
    else
        skip "ASan: its runtime is not in this toolchain"
    fi
fi

if [[ $wanted == *tsan* ]]; then
    if have_runtime tsan; then
        flags="-Zsanitizer=thread"
        if [ -d "$sysroot/lib/rustlib/src/rust/library" ]; then
            echo "== TSan: lock-free modules of shm-layout and runtime, std built with it"
            set -- -Zbuild-std
        else
            echo "== TSan: lock-free modules of shm-layout and runtime"
            skip "TSan inside std: rust-src is not in this toolchain, so std is the one without it; see tests/scripts/tsan.supp"
            flags="$flags -Cunsafe-allow-abi-mismatch=sanitizer"
            set --
        fi
        programs=$(build "$flags" tsan -p shm-layout -p coheap "$@")
        [ -n "$programs" ] || find_bad "tsan: the tests do not build, see $dir/tsan.log"
        for program in $programs; do
            # `*_can_fail` take a rule out of the product on purpose: what races then is the fault that they are there to see.
            TSAN_OPTIONS="suppressions=$PWD/tests/scripts/tsan.supp halt_on_error=0" \
                run "tsan-$(basename "$program")" "$program" --test-threads 1 gc:: sched:: bits --skip can_fail
        done
        skip "TSan across processes: it sees the threads of one process; loom has the orders, and the tests here race threads"
    else
        skip "TSan: its runtime is not in this toolchain"
    fi
fi

if [[ $wanted == *miri* ]]; then
    if cargo +nightly miri --version >/dev/null 2>&1 && [ -d "$sysroot/lib/rustlib/src/rust/library" ]; then
        echo "== Miri: shm-layout and protocol"
        if ! MIRIFLAGS=-Zmiri-disable-isolation timeout 170 cargo +nightly miri test --locked --lib -p shm-layout -p coheap-protocol \
            --target-dir "$dir/miri" >"$dir/miri.out" 2>&1; then
            grep -E '^error|Undefined Behavior' -A 8 "$dir/miri.out" | head -40
            find_bad "miri (whole report: $dir/miri.out)"
        fi
        grep -E '^test result' "$dir/miri.out"
        skip "Miri on the runtime: its heap is a shared mapping, which Miri has not"
    else
        skip "Miri: the components miri and rust-src are not in the nightly toolchain"
    fi
fi
exit "$bad"
