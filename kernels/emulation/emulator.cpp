// Runtime of emulator.h: the fiber scheduler. Compile once, without -include.
// For TSan: compile this file with -DEMULATOR_TSAN and WITHOUT -fsanitize=thread (its own state is
// not synchronised from TSan's point of view), the kernels with -fsanitize=thread.
#include "emulator.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef assert
#include <cstdarg>
#include <deque>
#include <mutex>
#include <string>
#include <vector>
#include <sys/mman.h>
#if defined(EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);   // flag 1: no happens-before edge
void __tsan_acquire(void* a);
void __tsan_release(void* a);
// The shared-memory section is declared to TSan as a "java heap", because that interface can
// forget a range's history: block k+1's shared memory is not block k's.
void __tsan_java_init(unsigned long heap_begin, unsigned long heap_size);
void __tsan_java_alloc(unsigned long ptr, unsigned long size);
void __tsan_java_free(unsigned long ptr, unsigned long size);
}
#endif
#if defined(EMULATOR_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake, const void** bottom_old, size_t* size_old);
void __asan_unpoison_memory_region(void const volatile* addr, size_t size);
}
#endif

// void emulator_switch(void** save_sp, void* load_sp)
#if defined(__x86_64__)
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch,.-emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,%function
emulator_switch:
    sub sp, sp, #176
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #176
    ret
.size emulator_switch,.-emulator_switch
)");
#else
#error "emulator: write emulator_switch for this processor"
#endif
extern "C" void emulator_switch(void** save_sp, void* load_sp);

// Bounds of the section that holds every static __shared__ variable of the program.
extern "C" char __start_emulated_shared[] __attribute__((weak));
extern "C" char __stop_emulated_shared[] __attribute__((weak));

namespace emulator {
uint3 cur_tid, cur_bid;
dim3 cur_bdim, cur_gdim;
unsigned cur_lin;
Reg* registry;

namespace {
#if defined(EMULATOR_TSAN)
constexpr size_t STACK = 64 << 10;                   // TSan clears the shadow of each new stack
#else
constexpr size_t STACK = 256 << 10;
#endif
enum State : uint8_t { READY, AT_BARRIER, AT_WARP, DONE };
struct Fiber {
    void* sp = nullptr;
    char* stack = nullptr;
    uint3 tid;
    State state;
    bool started;
    const char* file; int line;      // where it waits
#if defined(EMULATOR_TSAN)
    void* tsan = nullptr;
#endif
#if defined(EMULATOR_ASAN)
    void* fake = nullptr;
#endif
};
struct WarpSync { unsigned mask = 0, arrived = 0, gen = 0; const char* file = nullptr; int line = 0; uint64_t slot[2][32]; char* tag; };

std::mutex mu;
std::string last_error;
std::vector<Fiber> fibers;
struct WarpTable { unsigned n = 0; WarpSync e[33]; };   // one entry for each mask in use
WarpTable warps[32];                                 // static: a fiber never allocates
std::vector<char> dynshared_store;
char* dynshared;
size_t dynshared_bytes;
unsigned nthreads, ndone, nbarrier;
const char* bar_file; int bar_line;
int red_acc[2][2]; unsigned red_gen;
void* main_sp;
Fiber* running;
bool failed;
Thunk thunk; void** args;
int sched_mode; uint64_t sched_seed, rng;
#if defined(EMULATOR_TSAN)
// Barriers are fresh addresses in each block: an address that two blocks share would order them.
char tag_pool[1 << 19]; size_t tag_next; char* bar_tag;
char* new_tag() { tag_next = (tag_next + 8) % sizeof tag_pool; return tag_pool + tag_next; }
void* main_tsan;
std::deque<void*> old_tsan;
char launch_tag;
char* shm_lo; size_t shm_len;                       // the section, rounded out to 8 bytes
#endif
#if defined(EMULATOR_ASAN)
void* main_fake; const void* main_bottom; size_t main_size;
#endif

uint64_t next_rng() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }

inline void enter(Fiber& f) {                       // scheduler -> fiber
    cur_tid = f.tid;
    cur_lin = (unsigned)(&f - fibers.data());
    running = &f;
#if defined(EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(&main_fake, f.stack, STACK);
#endif
#if defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(f.tsan, 1);
#endif
    emulator_switch(&main_sp, f.sp);
#if defined(EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
}
inline void leave(bool dying = false) {             // fiber -> scheduler
    Fiber& f = *running;
#if defined(EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(dying ? nullptr : &f.fake, main_bottom, main_size);
#endif
#if defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(main_tsan, 1);
#endif
    emulator_switch(&f.sp, main_sp);
#if defined(EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(f.fake, &main_bottom, &main_size);
#endif
    (void)dying;
}
extern "C" void emulator_fiber_main() {
#if defined(EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
#endif
    thunk(args);
#if defined(EMULATOR_TSAN)
    __tsan_release(&launch_tag);                     // seen by the host after the launch, not by later blocks
#endif
    running->state = DONE;
    ndone++;
    leave(true);
    __builtin_trap();
}
void prepare(Fiber& f) {
#if defined(EMULATOR_TSAN)
    if (f.stack) { munmap(f.stack - 4096, STACK + 4096); f.stack = nullptr; }   // forget the last block's locals
#endif
    if (!f.stack) {
        char* p = (char*)mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) { perror("emulator: mmap"); abort(); }
        mprotect(p, 4096, PROT_NONE);               // overflow faults instead of corrupting
        f.stack = p + 4096;
    }
#if defined(EMULATOR_ASAN)
    __asan_unpoison_memory_region(f.stack, STACK);
    f.fake = nullptr;
#endif
    uintptr_t top = ((uintptr_t)f.stack + STACK) & ~(uintptr_t)15;
#if defined(__x86_64__)
    void** s = (void**)top;
    *--s = nullptr;                                  // alignment / fake return address
    *--s = (void*)&emulator_fiber_main;
    for (int i = 0; i < 6; i++) *--s = nullptr;
    f.sp = s;
#else
    char* s = (char*)(top - 176);
    memset(s, 0, 176);
    ((void**)s)[11] = (void*)&emulator_fiber_main;      // x30
    f.sp = s;
#endif
#if defined(EMULATOR_TSAN)
    // TSan would reuse a destroyed fiber's identity for a later block and then miss races between
    // the two, so keep the last few thousand alive (it takes about 8,000 at a time).
    if (f.tsan) old_tsan.push_back(f.tsan);
    if (old_tsan.size() > 4096) { __tsan_destroy_fiber(old_tsan.front()); old_tsan.pop_front(); }
    f.tsan = __tsan_create_fiber(0);
#endif
    f.state = READY;
    f.started = true;
}
// Not memset: TSan intercepts that even here.
__attribute__((noinline, optimize("no-tree-loop-distribute-patterns"))) void fill(char* p, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char*)p)[i] = (char)0xff;
}
#if defined(EMULATOR_TSAN)
// pages of their own: unmapping them makes TSan forget the last block's accesses
char* alloc_dyn() { return (char*)mmap(nullptr, dynshared_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
void free_dyn() { munmap(dynshared, dynshared_bytes); }
#else
// exactly the size asked for, so that ASan sees an overrun
char* alloc_dyn() { void* p = nullptr; return posix_memalign(&p, 128, dynshared_bytes) ? nullptr : (char*)p; }
void free_dyn() { free(dynshared); }
#endif
void release_barrier() {
    red_gen++;
    nbarrier = 0;
    for (auto& f : fibers) if (f.state == AT_BARRIER) f.state = READY;
}
void run_block() {
    ndone = nbarrier = 0;
    red_gen = 0;
    red_acc[0][0] = red_acc[1][0] = 0; red_acc[0][1] = red_acc[1][1] = 0;
    for (unsigned i = 0; i < (nthreads + 31) / 32; i++) warps[i].n = 0;
#if defined(EMULATOR_TSAN)
    bar_tag = new_tag();
    if (shm_len) { __tsan_java_free((unsigned long)shm_lo, shm_len); __tsan_java_alloc((unsigned long)shm_lo, shm_len); }
    if (dynshared_bytes) { free_dyn(); dynshared = alloc_dyn(); }
#endif
    if (__start_emulated_shared) fill(__start_emulated_shared, (size_t)(__stop_emulated_shared - __start_emulated_shared));
    if (dynshared_bytes) fill(dynshared, dynshared_bytes);
    std::vector<unsigned> order(nthreads);
    for (unsigned i = 0; i < nthreads; i++) order[i] = sched_mode == 1 ? nthreads - 1 - i : i;
    for (unsigned i = 0; i < nthreads; i++) prepare(fibers[i]);
    while (ndone < nthreads && !failed) {
        if (sched_mode == 2) for (unsigned i = nthreads; i > 1; i--) std::swap(order[i - 1], order[next_rng() % i]);
        bool ran = false;
        for (unsigned i = 0; i < nthreads && !failed; i++) {
            Fiber& f = fibers[order[i]];
            if (f.state == READY) { ran = true; enter(f); }
        }
        if (!failed && !ran) {
            std::string m = "deadlock: not every thread reaches the same barrier or warp operation;";
            int shown = 0;
            for (unsigned i = 0; i < nthreads && shown < 6; i++) {
                Fiber& f = fibers[i];
                if (i && f.state == fibers[i - 1].state && f.line == fibers[i - 1].line) continue;
                char b[256];
                snprintf(b, sizeof b, " thread %u %s", i, f.state == DONE ? "has exited" : "waits at ");
                m += b;
                if (f.state != DONE) { snprintf(b, sizeof b, "%s:%d", f.file, f.line); m += b; }
                m += ";";
                shown++;
            }
            last_error = m;
            failed = true;
        }
    }
}
}  // namespace

void fail(const char* fmt, ...) {
    char b[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    char w[160];
    snprintf(w, sizeof w, " [block (%u,%u,%u) thread (%u,%u,%u)]", cur_bid.x, cur_bid.y, cur_bid.z, cur_tid.x, cur_tid.y, cur_tid.z);
    last_error = std::string(b) + w;
    failed = true;
    leave(true);
    __builtin_trap();
}
void* dyn_shared() {
    if (!dynshared_bytes) fail("kernel uses dynamic shared memory, but the launch gave none");
    return dynshared;
}
static void barrier_wait(const char* file, int line) {
    if (ndone) fail("%s:%d: barrier reached after %u thread(s) of the block have exited", file, line, ndone);
    if (nbarrier == 0) { bar_file = file; bar_line = line; }
    else if (bar_line != line || strcmp(bar_file, file)) fail("%s:%d: divergent barrier: other threads wait at %s:%d", file, line, bar_file, bar_line);
#if defined(EMULATOR_TSAN)
    __tsan_release(bar_tag);
#endif
    if (++nbarrier == nthreads) release_barrier();
    else {
        running->state = AT_BARRIER;
        running->file = file; running->line = line;
        leave();
    }
#if defined(EMULATOR_TSAN)
    __tsan_acquire(bar_tag);
#endif
}
void block_barrier(const char* file, int line) { barrier_wait(file, line); }
int block_reduce(int pred, int op, const char* file, int line) {
    const unsigned g = red_gen & 1;
    if (nbarrier == 0) red_acc[g][0] = 0;
    red_acc[g][0] += pred;
    barrier_wait(file, line);
    const int n = red_acc[g][0];
    return op == 0 ? n : op == 1 ? n == (int)nthreads : n > 0;
}
const uint64_t* warp_exchange(unsigned mask, uint64_t v, const char* file, int line) {
    const unsigned w = cur_lin >> 5, ln = cur_lin & 31;
    const unsigned present = nthreads - (w << 5) >= 32 ? 0xffffffffu : (1u << (nthreads & 31)) - 1;
    if (!(mask >> ln & 1)) fail("%s:%d: lane %u calls a warp operation whose mask %08x does not name it", file, line, ln, mask);
    if (mask & ~present) fail("%s:%d: mask %08x names lanes that this warp does not have (%08x)", file, line, mask, present);
    auto& tab = warps[w];
    WarpSync* s = nullptr;
    for (unsigned i = 0; i < tab.n; i++) if (tab.e[i].mask == mask) s = &tab.e[i];
    if (!s) {
        if (tab.n == 33) fail("%s:%d: more than 33 different masks in one warp", file, line);
        s = &tab.e[tab.n++];
        s->mask = mask;
        s->arrived = s->gen = 0;
#if defined(EMULATOR_TSAN)
        s->tag = new_tag();
#endif
    }
    if (!s->arrived) { s->file = file; s->line = line; }
    else if (s->line != line || strcmp(s->file, file)) fail("%s:%d: divergent warp operation: other lanes wait at %s:%d", file, line, s->file, s->line);
    const unsigned g = s->gen & 1;
#if defined(EMULATOR_TSAN)
    __tsan_release(s->tag);
#endif
    s->slot[g][ln] = v;
    s->arrived |= 1u << ln;
    if (s->arrived == mask) {
        s->arrived = 0;
        s->gen++;
        for (unsigned i = 0; i < 32; i++) if (mask >> i & 1) {
            Fiber& f = fibers[(w << 5) + i];
            if (f.state == AT_WARP) f.state = READY;
        }
    } else {
        running->state = AT_WARP;
        running->file = file; running->line = line;
        leave();
    }
#if defined(EMULATOR_TSAN)
    __tsan_acquire(s->tag);
#endif
    return s->slot[g];
}
}  // namespace emulator

using namespace emulator;
static Reg* find(const char* name) {
    for (Reg* r = registry; r; r = r->next) if (!strcmp(r->name, name)) return r;
    return nullptr;
}
extern "C" const char* emulator_last_error() { return last_error.c_str(); }
extern "C" void emulator_set_schedule(int mode, uint64_t seed) {
    std::lock_guard<std::mutex> g(mu);
    sched_mode = mode;
    sched_seed = seed;
}
extern "C" int emulator_kernel_info(const char* name, unsigned* nargs, const unsigned** sizes) {
    Reg* r = find(name);
    if (!r) return 1;
    *nargs = r->nargs;
    *sizes = r->sizes;
    return 0;
}
extern "C" int emulator_launch(const char* name, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, size_t shared_bytes, void** a) {
    std::lock_guard<std::mutex> g(mu);
    last_error.clear();
    Reg* r = find(name);
    if (!r) { last_error = std::string("no such kernel: ") + name; return 500; }   // CUDA_ERROR_NOT_FOUND
    if (!gx || !gy || !gz || !bx || !by || !bz || (uint64_t)bx * by * bz > 1024 || bx > 1024 || by > 1024 || bz > 64 ||
        gx > 0x7fffffffu || gy > 65535 || gz > 65535) {
        last_error = "launch: grid or block size outside CUDA's limits";
        return 1;                                                                  // CUDA_ERROR_INVALID_VALUE
    }
    if (shared_bytes > 227 * 1024) { last_error = "launch: more than 227 KiB of dynamic shared memory"; return 1; }
    nthreads = bx * by * bz;
    if (fibers.size() < nthreads) fibers.resize(nthreads);
    dynshared_bytes = shared_bytes;
    dynshared = shared_bytes ? alloc_dyn() : nullptr;
    cur_bdim = dim3(bx, by, bz);
    cur_gdim = dim3(gx, gy, gz);
    thunk = r->thunk;
    args = a;
    rng = sched_seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    failed = false;
#if defined(EMULATOR_TSAN)
    main_tsan = __tsan_get_current_fiber();
    if (!shm_len && __start_emulated_shared) {
        shm_lo = (char*)((uintptr_t)__start_emulated_shared & ~(uintptr_t)7);
        shm_len = (((uintptr_t)__stop_emulated_shared + 7) & ~(uintptr_t)7) - (uintptr_t)shm_lo;
        if (shm_len) { __tsan_java_init((unsigned long)shm_lo, shm_len); __tsan_java_alloc((unsigned long)shm_lo, shm_len); }
    }
#endif
    for (unsigned i = 0; i < nthreads; i++) fibers[i].tid = {i % bx, i / bx % by, i / (bx * by)};
    const uint64_t nb = (uint64_t)gx * gy * gz;
    for (uint64_t k = 0; k < nb && !failed; k++) {
        const uint64_t b = sched_mode == 1 ? nb - 1 - k : k;
        cur_bid = {(unsigned)(b % gx), (unsigned)(b / gx % gy), (unsigned)(b / ((uint64_t)gx * gy))};
        run_block();
    }
    if (shared_bytes) free_dyn();
#if defined(EMULATOR_TSAN)
    __tsan_acquire(&launch_tag);
    for (void* t : old_tsan) __tsan_destroy_fiber(t);
    old_tsan.clear();
#endif
    return failed ? 719 : 0;                                                       // CUDA_ERROR_LAUNCH_FAILED
}
