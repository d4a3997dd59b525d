// A stand-in for libcuda.so.1 that runs kernels on the CPU (emulator.h), for tests only; cudarc loads it unchanged, from
// LD_LIBRARY_PATH.
//
// Device memory is host memory between red zones of NaN, and NaN itself until written. Work waits in its stream until the
// host waits for it, so a result read too early, or pinned memory written too early, shows. A captured stream's work goes
// to a graph. Errors of a launch are sticky, as on a device.
//
// AURIST_EMULATED_GPU, read at cuInit, sets the scene: comma-separated `devices=N`, `driver=VERSION` (12040 for 12.4),
// `capability=MAJOR`, `memory=BYTES` a device, `lost_after=N` launches, `order=ascending|descending|random`,
// `record=DIRECTORY` (each kernel's first small launches, for the race check).
#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(void const volatile*, size_t);
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#define POISON(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define POISON(p, n) (void)0
#define UNPOISON(p, n) (void)0
#endif

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct Context* CUcontext;
typedef struct Event* CUevent;
typedef struct Module* CUmodule;
typedef struct Function* CUfunction;
typedef struct Graph* CUgraph;
typedef struct Graph* CUgraphExec;

extern "C" {
int emulator_launch(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t, void**);
const char* emulator_last_error();
void emulator_set_schedule(int mode, uint64_t seed);
int emulator_kernel_info(const char* name, unsigned* nargs, const unsigned** sizes);
}

using Work = std::function<int()>;
struct Module { std::string image; };
struct Function { std::string name; int most_shared = 48 * 1024; };
struct Graph { std::vector<Work> work; };
struct EmulatedStream {
    std::deque<Work> queue;
    Graph* capture = nullptr;
    int mode = 0;
    std::thread::id capturer;
};
struct Context { int device; };

namespace {
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, UNSUPPORTED_PTX = 222, NOT_FOUND = 500,
       ILLEGAL = 700, FAILED = 719, CAPTURE_UNSUPPORTED = 900, UNKNOWN = 999 };
constexpr size_t RED = 256;
std::recursive_mutex mutex;
struct Allocation { size_t size; int device; };
std::map<CUdeviceptr, Allocation> live;
std::map<void*, size_t> pinned;
std::set<CUstream> streams;
thread_local CUcontext current = nullptr;
Context contexts[8];
std::vector<size_t> allocated(8, 0);
size_t launches = 0;
// What tests ask for by emulated_count: allocations of device and pinned memory, waits of the host, graphs made, kernels run,
// and all that streams were given to do: kernels, products, copies, memory set.
uint64_t counts[5];
enum { ALLOCATIONS, WAITS, GRAPHS, LAUNCHES, WORK };
int sticky = OK;

struct Scene {
    int devices = 1, driver = 12080, capability = 9;
    size_t memory = 8ull << 30, lost_after = SIZE_MAX;
    std::string record;
} scene;

void read_scene() {
    const char* text = getenv("AURIST_EMULATED_GPU");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string item = rest.substr(0, comma), key = item.substr(0, item.find('=')),
                          value = item.substr(item.find('=') + 1);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        if (key == "devices") scene.devices = atoi(value.c_str());
        else if (key == "driver") scene.driver = atoi(value.c_str());
        else if (key == "capability") scene.capability = atoi(value.c_str());
        else if (key == "memory") scene.memory = strtoull(value.c_str(), nullptr, 10);
        else if (key == "lost_after") scene.lost_after = strtoull(value.c_str(), nullptr, 10);
        else if (key == "record") scene.record = value;
        else if (key == "order") emulator_set_schedule(value == "descending" ? 1 : value == "random" ? 2 : 0, 12345);
        else { fprintf(stderr, "emulated driver: AURIST_EMULATED_GPU knows no `%s`\n", key.c_str()); abort(); }
    }
}

int device() { return current ? current->device : 0; }

bool red_zones_whole(CUdeviceptr p, size_t n) {
#if defined(__SANITIZE_ADDRESS__)
    (void)p; (void)n;
    return true;                                      // they are poisoned instead, so that reads count too
#else
    for (size_t i = 0; i < RED; i++) {
        if (((uint8_t*)p)[n + i] != 0xFF || ((uint8_t*)p)[-1 - (ptrdiff_t)i] != 0xFF) return false;
    }
    return true;
#endif
}

CUresult run(CUstream stream) {
    while (!stream->queue.empty()) {
        Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (sticky == OK) sticky = work();
    }
    return sticky;
}
CUresult run_all() {
    for (CUstream stream : streams) run(stream);
    return sticky;
}

// One launch with everything its pointers reach, for race.cpp: a header line, then per argument its size, bytes, and
// where it points into device memory the allocation's contents.
void record(const std::string& name, const unsigned (&grid)[3], unsigned threads, unsigned shared,
            const std::vector<std::vector<uint8_t>>& arguments) {
    static std::map<std::string, int> seen;
    const size_t blocks = (size_t)grid[0] * grid[1] * grid[2];
    // What is optional decides what a kernel does, so launches that leave out different pointers are different.
    unsigned absent = 0;
    for (size_t i = 0; i < arguments.size(); i++) {
        const std::vector<uint8_t> zero(8, 0);
        absent |= (arguments[i] == zero) << i;
    }
    char shape[200];
    snprintf(shape, sizeof shape, "%s-%x-%u-%u-%u", name.c_str(), absent, grid[0], grid[1], grid[2]);
    const std::string kind = name + std::to_string(absent) + (blocks > 1 ? " blocks" : "");
    if (blocks * threads > 1024 || seen[shape]++ || seen[kind]++ >= (blocks > 1 ? 2 : 1)) return;
    FILE* file = fopen((scene.record + "/" + shape + ".launch").c_str(), "wb");
    if (!file) { perror("emulated driver: record"); abort(); }
    fprintf(file, "%s %u %u %u %u %u %zu\n", name.c_str(), grid[0], grid[1], grid[2], threads, shared, arguments.size());
    for (auto& argument : arguments) {
        CUdeviceptr p = 0;
        if (argument.size() == 8) memcpy(&p, argument.data(), 8);
        auto at = live.upper_bound(p);
        const bool points = p && at != live.begin() && p < std::prev(at)->first + std::prev(at)->second.size;
        const CUdeviceptr base = points ? std::prev(at)->first : 0;
        const size_t size = points ? std::prev(at)->second.size : 0;
        fprintf(file, "%zu %llu %llu %zu\n", argument.size(), (unsigned long long)base,
                (unsigned long long)(points ? p - base : 0), size);
        fwrite(argument.data(), 1, argument.size(), file);
        if (points) fwrite((void*)base, 1, size, file);
    }
    fclose(file);
}
}  // namespace

int emulated_enqueue(CUstream stream, Work work) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    if (sticky != OK) return sticky;
    if (!stream || !stream->capture) counts[WORK]++;
    if (!stream) return sticky = run_all() ? sticky : work();
    if (stream->capture) stream->capture->work.push_back(std::move(work));
    else stream->queue.push_back(std::move(work));
    return OK;
}
bool emulated_inside(uint64_t p, size_t n) {
    if (!n) return true;
    auto it = live.upper_bound(p);
    if (it == live.begin()) return false;
    --it;
    return p >= it->first && p + n <= it->first + it->second.size;
}
int emulated_complaint(const char* what) {
    fprintf(stderr, "emulated driver: %s\n", what);
    return ILLEGAL;
}

extern "C" __attribute__((visibility("default"))) uint64_t emulated_count(int of) { return counts[of]; }

#define API extern "C" __attribute__((visibility("default"))) CUresult
#define LOCK std::lock_guard<std::recursive_mutex> guard(mutex)
API cuInit(unsigned) {
    LOCK;
    static bool done = false;
    if (!done) read_scene();
    done = true;
    return scene.devices ? OK : NO_DEVICE;
}
API cuDriverGetVersion(int* v) { *v = scene.driver; return OK; }
API cuDeviceGetCount(int* n) { *n = scene.devices; return OK; }
API cuDeviceGet(CUdevice* d, int i) { if (i < 0 || i >= scene.devices) return BAD_DEVICE; *d = i; return OK; }
API cuDeviceGetName(char* s, int n, CUdevice d) { snprintf(s, n, "emulated GPU %d", d); return OK; }
API cuDeviceTotalMem_v2(size_t* n, CUdevice) { *n = scene.memory; return OK; }
API cuDeviceGetAttribute(int* v, int a, CUdevice) {
    switch (a) {
        case 1: *v = 1024; break;                     // threads a block
        case 8: *v = 48 * 1024; break;                // shared memory a block
        case 10: *v = 32; break;                      // warp size
        case 16: *v = 8; break;                       // multiprocessors
        case 75: *v = scene.capability; break;        // compute capability, major
        case 97: *v = 99 * 1024; break;               // opt-in shared memory a block, of the least of the architectures
        default: *v = 0;                              // 115, memory pools: none, so plain cuMemAlloc is used
    }
    return OK;
}
API cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice d) { contexts[d].device = d; *c = &contexts[d]; return OK; }
API cuDevicePrimaryCtxRelease_v2(CUdevice) { return OK; }
API cuCtxSetCurrent(CUcontext c) { current = c; return OK; }
API cuCtxGetCurrent(CUcontext* c) { *c = current; return OK; }
API cuCtxSynchronize() { LOCK; counts[WAITS]++; return run_all(); }
API cuCtxGetDevice(CUdevice* d) { *d = device(); return OK; }
API cuStreamCreate(CUstream* s, unsigned) { LOCK; *s = new EmulatedStream; streams.insert(*s); return OK; }
API cuStreamDestroy_v2(CUstream s) { LOCK; run(s); streams.erase(s); delete s; return OK; }
API cuStreamSynchronize(CUstream s) {
    LOCK;
    counts[WAITS]++;
    if (!s) return run_all();
    return s->capture ? CAPTURE_UNSUPPORTED : run(s);
}
API cuStreamWaitEvent(CUstream, CUevent, unsigned) { LOCK; return run_all(); }
API cuStreamIsCapturing(CUstream s, int* c) { *c = s && s->capture ? 1 : 0; return OK; }
API cuStreamBeginCapture_v2(CUstream s, int mode) {
    LOCK;
    if (!s || s->capture) return CAPTURE_UNSUPPORTED;
    s->capture = new Graph;
    s->mode = mode;
    s->capturer = std::this_thread::get_id();
    return OK;
}
API cuStreamEndCapture(CUstream s, CUgraph* g) { LOCK; *g = s->capture; s->capture = nullptr; return OK; }
API cuGraphInstantiateWithFlags(CUgraphExec* e, CUgraph g, unsigned long long) { LOCK; counts[GRAPHS]++; *e = new Graph(*g); return OK; }
API cuGraphLaunch(CUgraphExec e, CUstream s) {
    LOCK;
    for (auto& work : e->work) if (int error = emulated_enqueue(s, work)) return error;
    return OK;
}
API cuGraphDestroy(CUgraph g) { LOCK; delete g; return OK; }
API cuGraphExecDestroy(CUgraphExec e) { LOCK; delete e; return OK; }
API cuEventCreate(CUevent* e, unsigned) { *e = (CUevent)malloc(1); return OK; }
API cuEventDestroy_v2(CUevent e) { free(e); return OK; }
API cuEventRecord(CUevent, CUstream) { return OK; }
API cuEventSynchronize(CUevent) { LOCK; return run_all(); }
API cuEventQuery(CUevent) { LOCK; return run_all(); }
API cuEventElapsedTime_v2(float* ms, CUevent, CUevent) { *ms = 0; return OK; }
API cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
    LOCK;
    if (sticky != OK) return sticky;
    if (!n) return INVALID;
    counts[ALLOCATIONS]++;
    // Not while a capture is under way: of any thread's (mode 0, global) or of this one's (1, thread-local).
    for (CUstream stream : streams) {
        const bool forbids = stream->mode == 0 || (stream->mode == 1 && stream->capturer == std::this_thread::get_id());
        if (stream->capture && forbids) return CAPTURE_UNSUPPORTED;
    }
    if (n > scene.memory - allocated[device()]) return OUT_OF_MEMORY;
    uint8_t* b = (uint8_t*)aligned_alloc(256, (n + 2 * RED + 255) & ~(size_t)255);
    if (!b) return OUT_OF_MEMORY;
    memset(b, 0xFF, n + 2 * RED);
    POISON(b, RED);
    POISON(b + RED + n, RED);
    *p = (CUdeviceptr)(b + RED);
    live[*p] = {n, device()};
    allocated[device()] += n;
    return OK;
}
API cuMemFree_v2(CUdeviceptr p) {
    LOCK;
    run_all();
    auto it = live.find(p);
    if (it == live.end()) return emulated_complaint("free of a pointer that is not live");
    if (!red_zones_whole(p, it->second.size)) { emulated_complaint("write outside an allocation"); abort(); }
    UNPOISON((uint8_t*)p - RED, RED);
    UNPOISON((uint8_t*)p + it->second.size, RED);
    allocated[it->second.device] -= it->second.size;
    free((uint8_t*)p - RED);
    live.erase(it);
    return OK;
}
API cuMemAllocAsync(CUdeviceptr* p, size_t n, CUstream) { return cuMemAlloc_v2(p, n); }
API cuMemFreeAsync(CUdeviceptr p, CUstream) { return cuMemFree_v2(p); }
API cuMemGetInfo_v2(size_t* f, size_t* t) { LOCK; *t = scene.memory; *f = *t - allocated[device()]; return OK; }
API cuMemHostAlloc(void** p, size_t n, unsigned) { LOCK; counts[ALLOCATIONS]++; *p = malloc(n); memset(*p, 0xFF, n); pinned[*p] = n; return OK; }
API cuMemFreeHost(void* p) { LOCK; run_all(); pinned.erase(p); free(p); return OK; }
static bool is_pinned(const void* p) {
    auto it = pinned.upper_bound((void*)p);
    return it != pinned.begin() && (char*)p < (char*)std::prev(it)->first + std::prev(it)->second;
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void* h, size_t n, CUstream s) {
    LOCK;
    if (!emulated_inside(d, n)) return emulated_complaint("a copy to outside an allocation");
    if (is_pinned(h)) return emulated_enqueue(s, [=] { memcpy((void*)d, h, n); return OK; });
    // Pageable memory is staged before the call returns.
    std::string staged((const char*)h, n);
    return emulated_enqueue(s, [=] { memcpy((void*)d, staged.data(), n); return OK; });
}
API cuMemcpyHtoD_v2(CUdeviceptr d, const void* h, size_t n) { return cuMemcpyHtoDAsync_v2(d, h, n, nullptr); }
API cuMemcpyDtoHAsync_v2(void* h, CUdeviceptr d, size_t n, CUstream s) {
    LOCK;
    if (!emulated_inside(d, n)) return emulated_complaint("a copy from outside an allocation");
    if (!is_pinned(h)) counts[WAITS]++;
    return emulated_enqueue(s, [=] { memcpy(h, (void*)d, n); return OK; });
}
API cuMemcpyDtoH_v2(void* h, CUdeviceptr d, size_t n) { return cuMemcpyDtoHAsync_v2(h, d, n, nullptr); }
API cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr f, size_t n, CUstream s) {
    LOCK;
    if (!emulated_inside(d, n) || !emulated_inside(f, n)) return emulated_complaint("a copy outside an allocation");
    return emulated_enqueue(s, [=] { memmove((void*)d, (void*)f, n); return OK; });
}
API cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, CUstream s) {
    LOCK;
    if (!emulated_inside(d, n)) return emulated_complaint("memset outside an allocation");
    return emulated_enqueue(s, [=] { memset((void*)d, v, n); return OK; });
}
API cuMemsetD2D32Async(CUdeviceptr d, size_t pitch, unsigned v, size_t width, size_t height, CUstream s) {
    LOCK;
    if (!width || !height || pitch < 4 * width || pitch % 4) return INVALID;
    if (!emulated_inside(d, (height - 1) * pitch + 4 * width)) return emulated_complaint("memset outside an allocation");
    return emulated_enqueue(s, [=] {
        for (size_t row = 0; row < height; row++) std::fill_n((uint32_t*)(d + row * pitch), width, v);
        return OK;
    });
}
API cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) { return cuMemsetD8Async(d, v, n, nullptr); }
API cuModuleLoadData(CUmodule* m, const void* image) {
    LOCK;
    if (sticky != OK) return sticky;
    // PTX as text: what its version asks of the driver, and which kernels it has.
    const std::string text = (const char*)image;
    const size_t at = text.find(".version ");
    int major = 0, minor = 0;
    if (at == std::string::npos || sscanf(text.c_str() + at, ".version %d.%d", &major, &minor) != 2) return INVALID;
    // PTX ISA 8.k came with CUDA 12.k.
    if (major > 8 || 12000 + 10 * minor > scene.driver) return UNSUPPORTED_PTX;
    *m = new Module{text};
    return OK;
}
API cuModuleUnload(CUmodule m) { delete m; return OK; }
API cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name) {
    LOCK;
    unsigned n;
    const unsigned* sizes;
    if (emulator_kernel_info(name, &n, &sizes)) { fprintf(stderr, "emulated driver: no kernel %s was compiled\n", name); return NOT_FOUND; }
    const std::string entry = std::string(".entry ") + name + "(";
    const size_t at = m->image.find(entry);
    if (at == std::string::npos) return NOT_FOUND;
    // The PTX's parameter list and the C++ signature must agree.
    const std::string list = m->image.substr(at + entry.size(), m->image.find(')', at) - at - entry.size());
    unsigned k = 0;
    for (size_t p = 0; (p = list.find(".param", p)) != std::string::npos; p++, k++) {
        const bool wide = list.compare(p + 7, 4, ".u64") == 0 || list.compare(p + 7, 4, ".f64") == 0;
        if (k < n && sizes[k] <= 8 && (sizes[k] == 8) != wide) { fprintf(stderr, "emulated driver: %s: parameter %u differs from the PTX\n", name, k); return INVALID; }
    }
    if (k != n) { fprintf(stderr, "emulated driver: %s has %u parameters, its PTX %u\n", name, n, k); return INVALID; }
    *f = new Function{name};
    return OK;
}
API cuFuncSetAttribute(CUfunction f, int attribute, int v) {
    if (attribute == 8) { if (v > 99 * 1024) return INVALID; f->most_shared = v; }
    return OK;
}
API cuFuncGetAttribute(int* v, int, CUfunction) { *v = 0; return OK; }
API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, CUstream s, void** parameters, void** extra) {
    LOCK;
    if (sticky != OK) return sticky;
    if (extra || !parameters || by != 1 || bz != 1) return INVALID;
    if ((int)shared > f->most_shared) { fprintf(stderr, "emulated driver: %s: %u bytes of dynamic shared memory without opting in above 48 KiB\n", f->name.c_str(), shared); return INVALID; }
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffffu || !bx || bx > 1024) { fprintf(stderr, "emulated driver: %s: grid (%u, %u, %u), block %u\n", f->name.c_str(), gx, gy, gz, bx); return INVALID; }
    unsigned n;
    const unsigned* sizes;
    emulator_kernel_info(f->name.c_str(), &n, &sizes);
    std::vector<std::vector<uint8_t>> arguments(n);
    for (unsigned i = 0; i < n; i++) arguments[i].assign((uint8_t*)parameters[i], (uint8_t*)parameters[i] + sizes[i]);
    const std::string name = f->name;
    return emulated_enqueue(s, [=]() mutable -> int {
        if (launches++ >= scene.lost_after) return UNKNOWN;
        counts[LAUNCHES]++;
        const unsigned grid[3] = {gx, gy, gz};
        if (!scene.record.empty()) record(name, grid, bx, shared, arguments);
        std::vector<void*> pointers;
        for (auto& argument : arguments) pointers.push_back(argument.data());
        const int error = emulator_launch(name.c_str(), gx, gy, gz, bx, 1, 1, shared, pointers.data());
        if (error) { fprintf(stderr, "emulated driver: %s: %s\n", name.c_str(), emulator_last_error()); return error; }
        for (auto& [p, allocation] : live) {
            if (!red_zones_whole(p, allocation.size)) return emulated_complaint((name + " wrote outside an allocation").c_str());
        }
        return OK;
    });
}
API cuGetErrorName(CUresult r, const char** s) {
    static thread_local char text[40];
    snprintf(text, sizeof text, "CUDA_ERROR_%d", r);
    *s = r == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : r == UNKNOWN ? "CUDA_ERROR_UNKNOWN" : text;
    return OK;
}
API cuGetErrorString(CUresult r, const char** s) { *s = r == FAILED ? emulator_last_error() : "see the emulated driver's message"; return OK; }
