// Runs the CUDA source on a CPU: the lanes of a warp are fibers that take turns at each shuffle.
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct Index { unsigned x; };
static Index threadIdx, blockIdx, blockDim, gridDim;
struct alignas(16) uint4 { unsigned x, y, z, w; };

template <typename T> T __ldcs(const T* address) {
    if (reinterpret_cast<uintptr_t>(address) % sizeof(T)) __builtin_trap();  // the device would fault
    return *address;
}
template <typename T> void atomicAdd(T* address, T value) { *address += value; }

constexpr unsigned LANES = 32;
static ucontext_t scheduler, lanes[LANES];
static uint64_t offered[2][LANES];
static unsigned shuffles[LANES];
static void (*body)();

static uint64_t __shfl_down_sync(unsigned, uint64_t value, unsigned distance) {
    const unsigned lane = threadIdx.x % LANES, turn = shuffles[lane]++ % 2;
    offered[turn][lane] = value;
    swapcontext(&lanes[lane], &scheduler);
    return lane + distance < LANES ? offered[turn][lane + distance] : value;
}

static uint64_t __umul64hi(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64); }

#include KERNEL

static Runs from, to;
static u32 count, chunks;
static u64 bytes;
static Sums* sums;
static bool running[LANES];

static void enter() {
    body();
    running[threadIdx.x % LANES] = false;
}

static void run_warp(unsigned first) {
    static std::vector<char> stacks(LANES * (256 << 10));
    for (unsigned lane = 0; lane < LANES; lane++) {
        getcontext(&lanes[lane]);
        lanes[lane].uc_stack = {stacks.data() + lane * (256 << 10), 0, 256 << 10};
        lanes[lane].uc_link = &scheduler;
        running[lane] = true;
        shuffles[lane] = 0;
        makecontext(&lanes[lane], enter, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (!running[lane]) continue;
            threadIdx.x = first + lane;
            swapcontext(&scheduler, &lanes[lane]);
            any |= running[lane];
        }
    }
}

static void run_grid(unsigned ctas, unsigned threads) {
    gridDim.x = ctas, blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < ctas; blockIdx.x++)
        for (unsigned first = 0; first < threads; first += LANES) run_warp(first);
}

#define SIDES from.indices, from.base, from.stride, to.indices, to.base, to.stride

extern "C" int launch(const char* name, u32 ctas, u32 threads, const Runs* source, const Runs* destination, u32 rows, u64 size,
                      u32 pieces, Sums* out) {
    from = *source, to = *destination, count = rows, bytes = size, chunks = pieces, sums = out;
    if (!strcmp(name, "copy_runs")) body = [] { copy_runs(SIDES, count, bytes, chunks, sums); };
    else if (!strcmp(name, "copy_and_sum_runs")) body = [] { copy_and_sum_runs(SIDES, count, bytes, chunks, sums); };
    else if (!strcmp(name, "sum_runs")) body = [] { sum_runs(SIDES, count, bytes, chunks, sums); };
    else return 1;
    run_grid(ctas, threads);
    return 0;
}

static u32 run;
static u64 canonical;
static Step steps[STEPS];

#define STEP_WORDS(k) steps[k].count, steps[k].source, steps[k].target, steps[k].canonical
#define WALK run, bytes, canonical, STEP_WORDS(0), STEP_WORDS(1), STEP_WORDS(2), STEP_WORDS(3)

extern "C" int launch_slices(const char* name, u32 ctas, u32 threads, const Runs* source, const Runs* destination, u32 rows, u32 run_bytes,
                             u64 size, u64 place, const Step* loops, u32 pieces, Sums* out) {
    from = *source, to = *destination, count = rows, bytes = size, chunks = pieces, sums = out;
    run = run_bytes, canonical = place;
    memcpy(steps, loops, sizeof steps);
    if (!strcmp(name, "copy_slices")) body = [] { copy_slices(SIDES, count, WALK, chunks, sums); };
    else if (!strcmp(name, "copy_and_sum_slices")) body = [] { copy_and_sum_slices(SIDES, count, WALK, chunks, sums); };
    else if (!strcmp(name, "sum_slices")) body = [] { sum_slices(SIDES, count, WALK, chunks, sums); };
    else return 1;
    run_grid(ctas, threads);
    return 0;
}

static u64 group_bytes, last_bytes;
static u32 groups;
static u64* digests;

extern "C" void launch_digests(u32 ctas, u32 threads, const Runs* blocks, u32 rows, u32 a_block, u64 each, u64 last, u64* out) {
    from = *blocks, count = rows, groups = a_block, group_bytes = each, last_bytes = last, digests = out;
    body = [] { digest_groups(from.indices, from.base, from.stride, count, groups, group_bytes, last_bytes, digests); };
    run_grid(ctas, threads);
}
