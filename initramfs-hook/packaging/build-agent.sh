#!/bin/sh
# Builds the static agent into target/agent/bootroom-attach.
set -eu
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-gnu
# A target directory and a --target of its own: the flags must not reach build scripts and proc macros.
RUSTFLAGS='-C target-feature=+crt-static' \
	cargo build --quiet --package bootroom-attach --profile agent --target $target --target-dir target/agent-build
mkdir -p target/agent
cp "target/agent-build/$target/agent/bootroom-attach" target/agent/.new
mv target/agent/.new target/agent/bootroom-attach
