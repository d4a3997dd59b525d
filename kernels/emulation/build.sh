#!/bin/sh
# Builds the emulated GPU from kernels/*.cu: build.sh DIRECTORY [plain|address|thread] [KERNELS]
#
#   plain    libcuda.so and libcublasLt.so
#   address  the same with AddressSanitizer and UndefinedBehaviorSanitizer
#   thread   race, which replays recorded launches under ThreadSanitizer
#
# KERNELS is another directory of kernels (mutants.py). Needs g++, objcopy and python3. A unit is compiled again when its
# source is newer.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kind=${2:-plain}
kernels=$(cd "${3:-$here/..}" && pwd)
mkdir -p "$1"
cd "$1"
flags="-std=c++17 -O2 -g1 -fPIC -w -I$here -I$kernels"
unit_flags=""
runtime_flags=""
case $kind in
plain) ;;
address) flags="$flags -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" ;;
thread) unit_flags="-O1 -fsanitize=thread" runtime_flags="-DEMULATOR_TSAN" ;;
*) echo "build.sh: plain, address or thread" >&2; exit 2 ;;
esac

python3 "$here/units.py" "$kernels" .
objects=""
# compile SOURCE OBJECT FLAGS...: when the object is older than anything it may include.
compile() {
    source=$1 object=$2
    shift 2
    objects="$objects $object"
    [ -e "$object" ] && [ -z "$(find "$source" "$here"/*.h "$kernels/common.cuh" "$kernels/${object%.unit.o}.cu" \
        -newer "$object" 2>/dev/null)" ] && return
    g++ $flags "$@" -c "$source" -o "$object"
}
compile "$here/emulator.cpp" emulator.o $runtime_flags
for unit in *.unit.cpp; do
    object=${unit%.cpp}.o
    before=$(stat -c %Y "$object" 2>/dev/null || true)
    compile "$unit" "$object" $unit_flags -include "$here/emulator.h"
    # Static shared memory: see emulator.h.
    [ "$kind" = address ] || [ "$before" = "$(stat -c %Y "$object")" ] ||
        objcopy --rename-section .bss=emulated_shared,alloc,load,data,contents "$object"
done
if [ "$kind" = thread ]; then
    g++ $flags -fsanitize=thread $objects "$here/race.cpp" -o race
    exit
fi
compile "$here/driver.cpp" driver.o
g++ $flags -shared -Wl,-soname,libcuda.so $objects -o libcuda.so
objects=""
# The products are most of the work, and not what is tested.
compile "$here/cublaslt.cpp" cublaslt.o -O3 -ffast-math
g++ $flags -shared -Wl,-soname,libcublasLt.so $objects -L. -l:libcuda.so -o libcublasLt.so
