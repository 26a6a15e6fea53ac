#!/usr/bin/env bash
# What must hold before a change is taken: format, lints, and every test, the whole system on real servers included.
#
# Needs Rust and, for the real Kafka and MongoDB-wire servers of the tests, Java with its compiler (17 or newer) and
# Maven; curl for the tour of the README, Python with pip for the schema of Compose, and libfaketime for clocks that
# jump. What is missing is installed with apt-get where that is there. Nothing is skipped silently.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

results=()
failed=0
started=$SECONDS

say() { printf '\n== %s\n' "$*"; }

stop() {
    say "cannot go on: $*"
    summary
    exit 1
}

summary() {
    say "summary ($((SECONDS - started)) s)"
    ((${#results[@]} == 0)) || printf '%s\n' "${results[@]}"
    if ((failed > 0)); then
        printf 'FAILED: %d of %d steps\n' "$failed" "${#results[@]}"
    else
        printf 'passed: %d steps\n' "${#results[@]}"
    fi
}

# step <name> <command...>: runs it, notes how it ended and how long it took.
step() {
    local name=$1 from=$SECONDS
    shift
    say "$name: $*"
    if "$@"; then
        results+=("  ok      $name ($((SECONDS - from)) s)")
    else
        results+=("  FAILED  $name ($((SECONDS - from)) s): $*")
        failed=$((failed + 1))
        return 1
    fi
}

java_is_enough() {
    local home=${JAVA_HOME:+$JAVA_HOME/bin/}
    command -v "${home}javac" >/dev/null || return 1
    local version
    version=$("${home}java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    ((${version:-0} >= 17))
}

# Debian packages that are needed and not there.
missing_packages() {
    command -v gcc >/dev/null || echo gcc
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    command -v perl >/dev/null || echo perl
    command -v pkg-config >/dev/null || echo pkg-config
    java_is_enough || echo default-jdk-headless
    command -v mvn >/dev/null || echo maven
    command -v curl >/dev/null || echo curl
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || echo libfaketime
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
}

install_what_is_missing() {
    local packages as_root=()
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]} == 0)) && return
    command -v apt-get >/dev/null ||
        stop "missing: ${packages[*]} (Debian's names), and there is no apt-get to install them with"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || stop "missing: ${packages[*]}; run as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing ${packages[*]}"
    "${as_root[@]}" apt-get update -qq || stop "apt-get update failed"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates "${packages[@]}" >/dev/null || stop "apt-get install ${packages[*]} failed"
    java_is_enough || stop "Java is older than 17; install a newer one and set JAVA_HOME"
}

command -v cargo >/dev/null || stop "cargo is not installed: https://rustup.rs"
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || {
        command -v rustup >/dev/null || stop "cargo $component is not installed"
        rustup component add "${component/fmt/rustfmt}" || stop "cannot install cargo $component"
    }
done
install_what_is_missing

step format cargo fmt --all --check
# Everything at once: the whole-system tests look for the binary beside themselves, and building it alone would build
# its dependencies twice, with other features.
step build cargo build --locked --workspace --all-targets || stop "it does not build"
step lints cargo clippy --locked --workspace --all-targets -- -D warnings
step tests cargo test --locked --workspace --no-fail-fast
if command -v npm >/dev/null; then
    step "foreign clients" cargo test --locked --workspace --features posthaste-tests/foreign --test it foreign::
else
    results+=("  not run foreign clients: npm is not installed (apt-get install npm)")
fi
if cargo deny --version >/dev/null 2>&1; then
    step dependencies cargo deny check
else
    results+=("  not run dependencies: cargo-deny is not installed (cargo install cargo-deny)")
fi

summary
((failed == 0))
