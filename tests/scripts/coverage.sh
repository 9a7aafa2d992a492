#!/usr/bin/env bash
# Lines covered by the tests, per crate: everything `cargo test` runs, child processes included.
#
#   coverage.sh [PACKAGE...]     all packages without arguments
#
# Processes here are killed by SIGKILL all the time and write no profile at their end; `%c` keeps the counters in a mapping of the
# file, so what they did counts up to their death. Needs llvm-profdata and llvm-cov of rustc's LLVM: from cargo-llvm-cov's component
# (llvm-tools), from Debian's llvm-N, or from the directory that LLVM_BIN names.
set -euo pipefail
cd "$(dirname "$0")/../.."
major=$(rustc --version --verbose | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tools=
for at in "${LLVM_BIN:-}" "$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin" "/usr/lib/llvm-$major/bin"; do
    if [ -z "$tools" ] && [ -n "$at" ] && [ -x "$at/llvm-cov" ] && [ -x "$at/llvm-profdata" ]; then tools=$at; fi
done
if [ -z "$tools" ]; then
    echo "skipped: no llvm-cov for LLVM $major; try: rustup component add llvm-tools, or apt-get install llvm-$major"
    exit 0
fi
dir=${CARGO_TARGET_DIR:-$PWD/target}/coverage
rm -rf "$dir/profiles"
mkdir -p "$dir/profiles"
packages=()
for package in "$@"; do packages+=(-p "$package"); done
[ ${#packages[@]} -gt 0 ] || packages=(--workspace)
# Relocatable counters: continuous mode maps them out of the file. `%m` is the program, so its processes share one file.
export RUSTFLAGS="-Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation"
export CARGO_TARGET_DIR=$dir LLVM_PROFILE_FILE=$dir/profiles/%m%c.profraw
failed=0
cargo test --locked "${packages[@]}" --lib --bins --tests --no-fail-fast >"$dir/tests.log" 2>&1 || failed=$?
grep -E '^test result: F|FAILED' "$dir/tests.log" || true
"$tools/llvm-profdata" merge -sparse --failure-mode=all "$dir"/profiles/*.profraw -o "$dir/all.profdata"
objects=()
while read -r program; do objects+=(-object "$program"); done < <(
    sed -n 's/.*(\([^()]*\/deps\/[^()]*\)).*/\1/p' "$dir/tests.log" | sort -u
    find "$dir/debug" -maxdepth 1 -type f -perm -u+x ! -name '*.so'
)
"$tools/llvm-cov" export -summary-only "${objects[@]}" -instr-profile "$dir/all.profdata" \
    -ignore-filename-regex '(\.cargo|rustc|/tests/|/bench/|/target/|/build/)' 2>"$dir/cov.log" >"$dir/summary.json"
# A table per crate: a file belongs to the directory below the workspace that it is in.
python3 - "$PWD" "$dir/summary.json" <<'PY'
import collections, json, sys
root, path = sys.argv[1:]
crates = collections.defaultdict(lambda: [0, 0, 0, 0])
for file in json.load(open(path))["data"][0]["files"]:
    if file["filename"].startswith(root + "/"):
        crate = file["filename"][len(root) + 1:].split("/")[0]
        for row in (crates[crate], crates["all"]):
            for i, kind in ((0, "lines"), (2, "functions")):
                row[i] += file["summary"][kind]["covered"]
                row[i + 1] += file["summary"][kind]["count"]
print(f"{'crate':<12} {'lines':>8} {'covered':>8} {'':>6}   {'functions':>9} {'covered':>8}")
for crate, (l, ln, f, fn) in sorted(crates.items(), key=lambda c: (c[0] == "all", c[0])):
    print(f"{crate:<12} {ln:>8} {l:>8} {100 * l / max(ln, 1):>5.1f}%   {fn:>9} {f:>8}")
PY
exit "$failed"
