// Runs CUDA C++ kernels on the CPU, for tests only.
//
// Force-included before a .cu file, which is then compiled as C++17 (see build.sh beside this file). Every CUDA thread
// of a block is a fiber on one OS thread; blocks run one after another. A fiber runs until it meets __syncthreads,
// __syncwarp, a shuffle or a vote, so every missing barrier is a real reordering here, and the order in which fibers are
// resumed can be ascending, descending or seeded-random (emulator_set_schedule).
//
// What a launch reports as an error instead of computing a plausible number:
//   * a barrier or warp operation that not every named thread reaches (deadlock), that threads reach at different source
//     lines, or after another thread has already exited
//   * a shuffle whose mask names absent lanes, or that reads a lane outside the mask
//   * kernel-side assert()
// Shared memory is filled with NaN (0xFF) before each block, so reading an unwritten word shows. With
// -fsanitize=address: accesses out of bounds. With -fsanitize=thread: data races between CUDA threads (fibers are told to
// the sanitizer; only barriers, warp operations and atomics order them).
//
// What it cannot show: occupancy, bank conflicts, coalescing, fast-math rounding, memory-model effects between blocks.
#pragma once
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define EMULATED 1

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define EMULATOR_TSAN 1
#endif
#endif

// ---------------------------------------------------------------- vector types
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---------------------------------------------------------------- runtime interface (emulator.cpp)
namespace emulator {
extern uint3 cur_tid, cur_bid;
extern dim3 cur_bdim, cur_gdim;
extern unsigned cur_lin;                     // linear thread index in the block
void* dyn_shared();
void block_barrier(const char* file, int line);
int block_reduce(int pred, int op, const char* file, int line);   // op 0 count, 1 and, 2 or
// Exchange 8 bytes per lane among the lanes of `mask`; returns the table of 32 slots.
const uint64_t* warp_exchange(unsigned mask, uint64_t v, const char* file, int line);
[[noreturn]] void fail(const char* fmt, ...);

using Thunk = void (*)(void** args);
struct Reg { const char* name; Thunk thunk; unsigned nargs; const unsigned* sizes; Reg* next; };
extern Reg* registry;
struct Registrar { Registrar(Reg* r) { r->next = registry; registry = r; } };

template <class... A> struct Sig {
    static constexpr unsigned n = sizeof...(A);
    static const unsigned* sizes() { static const unsigned s[] = {(unsigned)sizeof(A)..., 0}; return s; }
    template <void (*K)(A...), size_t... I> static void call(void** a, std::index_sequence<I...>) {
        K(*(std::remove_reference_t<A>*)a[I]...);
    }
    template <void (*K)(A...)> static void thunk(void** a) { call<K>(a, std::index_sequence_for<A...>{}); }
};
template <class F> struct SigOf;
template <class... A> struct SigOf<void (*)(A...)> : Sig<A...> {};
}  // namespace emulator

// Make a kernel launchable by name: EMULATED_KERNEL(layernorm_bwd_dx)
#define EMULATED_KERNEL_AS(NAME, ID, ...)                                                        \
    static emulator::Reg emulator_reg_##ID = {NAME, &emulator::SigOf<decltype(&__VA_ARGS__)>::thunk<&__VA_ARGS__>, \
        emulator::SigOf<decltype(&__VA_ARGS__)>::n, emulator::SigOf<decltype(&__VA_ARGS__)>::sizes(), nullptr}; \
    static emulator::Registrar emulator_registrar_##ID(&emulator_reg_##ID);
#define EMULATED_KERNEL(K) EMULATED_KERNEL_AS(#K, K, K)

extern "C" {
// Same shape as cuLaunchKernel. 0 on success; else see emulator_last_error().
int emulator_launch(const char* name, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                 unsigned bz, size_t shared_bytes, void** args);
const char* emulator_last_error();
// 0 ascending, 1 descending, 2 random with `seed` (re-shuffled at each barrier)
void emulator_set_schedule(int mode, uint64_t seed);
int emulator_kernel_info(const char* name, unsigned* nargs, const unsigned** sizes);
}

// ---------------------------------------------------------------- qualifiers
// System headers use __attribute__((__noinline__)): they must all come before these.
#define __global__
#define __device__
#define __host__
#define __managed__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
// The object file's .bss holds these variables and nothing that matters; renamed to the section
// emulated_shared with objcopy, it is filled with NaN before each block. (A section attribute would be
// shorter, but GCC silently ignores it on statics of templates.) So: wrap the .cu in an unnamed
// namespace, which keeps template statics out of COMDAT sections, and keep __constant__ initialised.
#define __shared__ static
// Dynamic shared memory. In the kernel's own header, for real CUDA:
//     #define DYNAMIC_SHARED(T, name) extern __shared__ T name[]
#define DYNAMIC_SHARED(T, name) T* const name = (T*)emulator::dyn_shared()

#define threadIdx (emulator::cur_tid)
#define blockIdx (emulator::cur_bid)
#define blockDim (emulator::cur_bdim)
#define gridDim (emulator::cur_gdim)
static constexpr int warpSize = 32;

// ---------------------------------------------------------------- barriers and warp ops
#define __syncthreads() emulator::block_barrier(__FILE__, __LINE__)
#define __syncthreads_count(p) emulator::block_reduce((p) != 0, 0, __FILE__, __LINE__)
#define __syncthreads_and(p) emulator::block_reduce((p) != 0, 1, __FILE__, __LINE__)
#define __syncthreads_or(p) emulator::block_reduce((p) != 0, 2, __FILE__, __LINE__)
#define __syncwarp(...) emulator::syncwarp_(__FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_sync(...) emulator::shfl_(__FILE__, __LINE__, 0, __VA_ARGS__)
#define __shfl_up_sync(...) emulator::shfl_(__FILE__, __LINE__, 1, __VA_ARGS__)
#define __shfl_down_sync(...) emulator::shfl_(__FILE__, __LINE__, 2, __VA_ARGS__)
#define __shfl_xor_sync(...) emulator::shfl_(__FILE__, __LINE__, 3, __VA_ARGS__)
#define __ballot_sync(m, p) emulator::ballot_(m, (p) != 0, __FILE__, __LINE__)
#define __any_sync(m, p) (__ballot_sync(m, p) != 0)
#define __all_sync(m, p) (__ballot_sync(m, p) == (unsigned)(m))
#define __reduce_add_sync(m, v) emulator::redux_(m, v, 0, __FILE__, __LINE__)
#define __reduce_min_sync(m, v) emulator::redux_(m, v, 1, __FILE__, __LINE__)
#define __reduce_max_sync(m, v) emulator::redux_(m, v, 2, __FILE__, __LINE__)
#define __activemask() (emulator::fail("__activemask() is not defined in emulator; pass a mask"), 0u)

namespace emulator {
static inline unsigned lane() { return cur_lin & 31; }
static inline void syncwarp_(const char* f, int l, unsigned mask = 0xffffffffu) { warp_exchange(mask, 0, f, l); }
template <class T>
static inline T shfl_(const char* f, int l, int kind, unsigned mask, T v, int arg, int width = 32) {
    static_assert(sizeof(T) <= 8, "shuffle of more than 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    const uint64_t* slot = warp_exchange(mask, bits, f, l);
    const int ln = (int)lane(), base = ln & ~(width - 1);
    int src;
    switch (kind) {
        case 0: src = base + (arg & (width - 1)); break;
        case 1: src = ln - arg; if (src < base) src = ln; break;
        case 2: src = ln + arg; if (src >= base + width) src = ln; break;
        default: src = ln ^ arg; if (src >= base + width) src = ln; break;
    }
    if (!(mask >> src & 1)) fail("%s:%d: shuffle reads lane %d, which is outside the mask %08x", f, l, src, mask);
    T r;
    memcpy(&r, &slot[src], sizeof r);
    return r;
}
static inline unsigned ballot_(unsigned mask, int p, const char* f, int l) {
    const uint64_t* slot = warp_exchange(mask, (uint64_t)p, f, l);
    unsigned r = 0;
    for (int i = 0; i < 32; i++) if ((mask >> i & 1) && slot[i]) r |= 1u << i;
    return r;
}
template <class T> static inline T redux_(unsigned mask, T v, int op, const char* f, int l) {
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, "__reduce_*_sync takes 32-bit integers");
    const uint64_t* slot = warp_exchange(mask, (uint64_t)(uint32_t)v, f, l);
    bool first = true; T r = 0;
    for (int i = 0; i < 32; i++) if (mask >> i & 1) {
        T x = (T)(uint32_t)slot[i];
        r = first ? x : op == 0 ? (T)(r + x) : op == 1 ? (x < r ? x : r) : (x > r ? x : r);
        first = false;
    }
    return r;
}
template <class T, class F> static inline T rmw(T* p, F f) {          // one atomic read-modify-write
    using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    U o = __atomic_load_n((U*)p, __ATOMIC_RELAXED), n;
    T ov, nv;
    do { memcpy(&ov, &o, sizeof o); nv = f(ov); memcpy(&n, &nv, sizeof n); }
    while (!__atomic_compare_exchange_n((U*)p, &o, n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return ov;
}
}  // namespace emulator

template <class T> static inline T atomicAdd(T* p, std::common_type_t<T> v) { return emulator::rmw(p, [=](T o) { return (T)(o + v); }); }
template <class T> static inline T atomicSub(T* p, std::common_type_t<T> v) { return emulator::rmw(p, [=](T o) { return (T)(o - v); }); }
template <class T> static inline T atomicMax(T* p, std::common_type_t<T> v) { return emulator::rmw(p, [=](T o) { return o > v ? o : v; }); }
template <class T> static inline T atomicMin(T* p, std::common_type_t<T> v) { return emulator::rmw(p, [=](T o) { return o < v ? o : v; }); }
template <class T> static inline T atomicExch(T* p, std::common_type_t<T> v) { return emulator::rmw(p, [=](T) { return v; }); }
template <class T> static inline T atomicCAS(T* p, std::common_type_t<T> c, std::common_type_t<T> v) { return emulator::rmw(p, [=](T o) { return o == c ? v : o; }); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---------------------------------------------------------------- intrinsics
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline float __uint_as_float(unsigned i) { float f; memcpy(&f, &i, 4); return f; }
static inline double __longlong_as_double(long long i) { double d; memcpy(&d, &i, 8); return d; }
static inline int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
static inline unsigned __float_as_uint(float f) { unsigned i; memcpy(&i, &f, 4); return i; }
// glibc declares functions of these names, hence macros
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.f / sqrtf(x); }
static inline float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752440f); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) { unsigned r = 0; for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i); return r; }
static inline int __mul24(int a, int b) { return a * b; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline long long clock64() { return 0; }

#undef assert
#define assert(e) ((e) ? (void)0 : emulator::fail("%s:%d: assertion failed: %s", __FILE__, __LINE__, #e))
