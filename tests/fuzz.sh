#!/bin/sh
# Runs every fuzz target of the workspace, one after the other, and prints a table of what was run.
#
#   tests/fuzz.sh                          all targets, 10,000,000 runs each
#   RUNS=100000 tests/fuzz.sh overlay      those of one crate, fewer runs
#   tests/fuzz.sh server/nbd/requests      one target
#
# SANITIZER=none is several times as fast, and misses little: nearly all of this code is safe Rust.
# TIME=SECONDS ends each target after that long, whatever it has run by then.
#
# Needs a nightly Rust and `cargo install cargo-fuzz`. A finding ends it with 1 and stays in FUZZ/artifacts; the corpus
# stays in FUZZ/corpus, for the next time. Both are kept out of git.
set -eu
cd "$(dirname "$0")/.."
RUNS=${RUNS:-10000000}
SANITIZER=${SANITIZER:-address}

targets() {
    for fuzz in server/fuzz server/nbd/fuzz server/mirror/fuzz overlay/fuzz pxe/fuzz; do
        for target in "$fuzz"/fuzz_targets/*.rs; do
            echo "${fuzz%/fuzz}/$(basename "$target" .rs)"
        done
    done
}

# Longest input in bytes: what a peer may send at once, or more than one piece of a file.
longest() {
    case $1 in
        overlay/*) echo 8192 ;;
        *) echo 2048 ;;
    esac
}

run() {
    crate=${1%/*} target=${1##*/}
    log=$crate/fuzz/artifacts/$target.log
    mkdir -p "$crate/fuzz/artifacts"
    mkdir -p "$crate/fuzz/corpus/$target"
    seeds=
    [ ! -d "$crate/fuzz/seeds/$target" ] || seeds=seeds/$target
    # shellcheck disable=SC2086 # without seeds there is no argument
    (cd "$crate/fuzz" && cargo +nightly fuzz run -O -s "$SANITIZER" --target-dir "target/$SANITIZER" "$target" "corpus/$target" $seeds -- \
        -runs="$RUNS" -max_total_time="${TIME:-0}" -max_len="$(longest "$1")" -print_final_stats=1) > "$log" 2>&1 ||
        { tail -n 40 "$log" >&2; echo "$1: FOUND SOMETHING, see $log" >&2; return 1; }
    covered=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\).*/\1 edges, \2 features/p' "$log" | tail -n 1)
    done=$(sed -n 's/^Done \(.*\)$/\1/p' "$log" | tail -n 1)
    printf '%-28s %s; %s\n' "$1" "$done" "$covered"
}

chosen=$(targets)
[ $# -eq 0 ] || chosen=$(for wanted; do targets | grep -E "^$wanted(/|\$)"; done)
for each in $chosen; do run "$each"; done
