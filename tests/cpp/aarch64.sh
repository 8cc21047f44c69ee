#!/bin/sh
# The C++ tests on 64-bit Arm without one: cross-compiled, run under qemu-user.
#   apt-get install g++-aarch64-linux-gnu qemu-user-static
#   sh tests/cpp/aarch64.sh [folder for the build]
# Headers come from CMAKE_PREFIX_PATH, or from the wheels cmeel-eigen and nlohmann-json of the Python in use.
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build-aarch64}
headers=${CMAKE_PREFIX_PATH:-$(python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))")}
cmake -S "$root" -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_PREFIX_PATH="$headers" -DCMAKE_FIND_ROOT_PATH="$headers" -DCMAKE_EXE_LINKER_FLAGS=-static \
    -DBQQ_BUILD_TESTS=ON -DBQQ_WERROR=ON -DBQQ_CUDA=OFF
cmake --build "$build" --target cpp_tests --parallel "$(nproc)"
for test in "$build"/tests/cpp/test_*; do
    case $test in *.*) continue ;; esac
    qemu-aarch64-static "$test"
done
