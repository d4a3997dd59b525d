#!/bin/sh
# Builds the emulated GPU, libcuda.so and libcublasLt.so, from kernels/*.cu: build.sh DIRECTORY [plain|address]
# Needs g++, objcopy and python3. `address` adds AddressSanitizer and UndefinedBehaviorSanitizer.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kernels=$(dirname "$here")
mkdir -p "$1"
cd "$1"
flags="-std=c++17 -O2 -g -fPIC -I$here -I$kernels"
[ "${2:-plain}" = plain ] || flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
g++ $flags -Wall -c "$here/emulator.cpp" -o emulator.o &
g++ $flags -Wall -c "$here/driver.cpp" -o driver.o &
# The products are most of the work; they are not what is tested.
g++ $flags -O3 -march=native -ffast-math -Wall -c "$here/cublaslt.cpp" -o cublaslt.o &
python3 "$here/units.py" .
objects="emulator.o driver.o"
for unit in *.unit.cpp; do
    g++ $flags -include "$here/emulator.h" -w -c "$unit" -o "$unit.o"
    # Static shared memory: see emulator.h.
    [ "${2:-plain}" != plain ] || objcopy --rename-section .bss=emulated_shared,alloc,load,data,contents "$unit.o"
    objects="$objects $unit.o"
done
wait
g++ $flags -shared -Wl,-soname,libcuda.so $objects -o libcuda.so
g++ $flags -shared -Wl,-soname,libcublasLt.so cublaslt.o -L. -l:libcuda.so -o libcublasLt.so
