#!/usr/bin/env bash
# Builds the fuzz targets by clang and runs all of them at once:  tests/fuzz/run.sh [--install] [SECONDS]
# --install: where there is no clang with libFuzzer, and this is root on Debian, take it from there. Without one, says so
# and ends well. New inputs go to build/fuzz/found/, what breaks a promise to build/fuzz/crash-*.
set -euo pipefail
cd "$(dirname "$0")/../.."
install=no seconds=60
for word in "$@"; do
    if [ "$word" = --install ]; then install=yes; else seconds=$word; fi
done
works() { echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
    "$1" -x c++ -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null; }
find_clang() { for name in clang++ clang++-{22..14}; do if works "$name"; then echo "$name"; return; fi; done; }
compiler=$(find_clang)
if [ -z "$compiler" ] && [ "$install" = yes ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq
    version=$(apt-cache depends clang | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p')
    apt-get install -y -qq --no-install-recommends clang "libclang-rt-$version-dev" > /dev/null ||
        echo "fuzzing: clang could not be installed"
    compiler=$(find_clang)
fi
if [ -z "$compiler" ]; then
    echo "fuzzing: skipped, no clang with libFuzzer (Debian: clang, libclang-rt-dev)"
    exit 0
fi
targets=(readers file capi codec ann) pids=()
cmake --preset fuzz "-DCMAKE_CXX_COMPILER=$compiler" "-DCMAKE_C_COMPILER=${compiler/++/}" > /dev/null
cmake --build --preset fuzz --parallel "$(nproc)" > build/fuzz/build.log || { cat build/fuzz/build.log; exit 1; }
for target in "${targets[@]}"; do
    mkdir -p "build/fuzz/found/$target"
    UBSAN_OPTIONS=print_stacktrace=1 "build/fuzz/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -max_len=1500 -timeout=60 \
        -artifact_prefix="build/fuzz/crash-$target-" -print_final_stats=1 "build/fuzz/found/$target" \
        "tests/fuzz/corpus/$target" tests/golden > "build/fuzz/$target.log" 2>&1 &
    pids[${#pids[@]}]=$!
done
status=0
for i in "${!targets[@]}"; do
    wait "${pids[$i]}" || { status=1; tail -50 "build/fuzz/${targets[$i]}.log"; }
    echo "fuzz_${targets[$i]}: $(sed -n 's/stat::number_of_executed_units: //p' "build/fuzz/${targets[$i]}.log") inputs"
done
exit $status
