// What the stand-in libraries share: the emulated driver's work queues.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

typedef struct EmulatedStream* CUstream;

// Adds work to a stream, or to the graph that the stream is being captured into. It runs when the host waits.
extern "C++" int emulated_enqueue(CUstream stream, std::function<int()> work);
// Whether [address, address + bytes) lies in one live device allocation.
extern "C++" bool emulated_inside(uint64_t address, size_t bytes);
// Says what is wrong on standard error, and gives CUDA_ERROR_ILLEGAL_ADDRESS.
extern "C++" int emulated_complaint(const char* what);
