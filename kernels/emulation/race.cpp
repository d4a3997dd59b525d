// The race check: replays the launches that the emulated driver recorded, under ThreadSanitizer. Built by race.sh: the
// kernels with -fsanitize=thread, the emulator without.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

extern "C" int emulator_launch(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t, void**);
extern "C" const char* emulator_last_error();

static int replay(const char* path) {
    FILE* file = fopen(path, "rb");
    char line[512], name[128];
    unsigned x, y, z, threads, shared;
    size_t count;
    if (!file || !fgets(line, sizeof line, file) ||
        sscanf(line, "%127s %u %u %u %u %u %zu", name, &x, &y, &z, &threads, &shared, &count) != 7) {
        fprintf(stderr, "%s: not a recorded launch\n", path);
        return 1;
    }
    std::map<unsigned long long, char*> allocations;
    std::vector<std::vector<char>> arguments(count);
    std::vector<void*> pointers;
    for (auto& argument : arguments) {
        size_t size, bytes;
        unsigned long long base, offset;
        if (!fgets(line, sizeof line, file) || sscanf(line, "%zu %llu %llu %zu", &size, &base, &offset, &bytes) != 4) return 1;
        argument.resize(size);
        if (fread(argument.data(), 1, size, file) != size) return 1;
        if (base) {
            std::vector<char> content(bytes);
            if (fread(content.data(), 1, bytes, file) != bytes) return 1;
            char*& to = allocations[base];
            if (!to) {
                to = (char*)aligned_alloc(256, (bytes + 255) & ~(size_t)255);
                memcpy(to, content.data(), bytes);
            }
            char* moved = to + offset;
            memcpy(argument.data(), &moved, 8);
        }
        pointers.push_back(argument.data());
    }
    fclose(file);
    const int error = emulator_launch(name, x, y, z, threads, 1, 1, shared, pointers.data());
    if (error) fprintf(stderr, "%s: %s\n", path, emulator_last_error());
    for (auto& allocation : allocations) free(allocation.second);
    return error;
}

int main(int argc, char** argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) failed |= replay(argv[i]);
    printf("%d launches replayed\n", argc - 1);
    return failed ? 1 : 0;
}
