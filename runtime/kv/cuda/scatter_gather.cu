// Moves runs of equal length between any addresses the device reaches: its own memory, a peer's, pinned host memory.
//
// A warp takes one chunk of one run at a time, so no barrier is needed and a run of any length fills the machine.
// Each lane holds FLIGHT loads before it stores the first: what hides the latency of a link is loads in flight.

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned char u8;

constexpr u32 WARP = 32;
constexpr u32 FLIGHT = 8;
constexpr u32 CHUNK = WARP * FLIGHT * 16;  // bytes: one step of a warp with the widest lanes

struct Run {
    u64 source;
    u64 destination;
};

// Where runs begin: run i at `base + stride * indices[i]`; with base 0 and stride 1 the indices are addresses.
struct Runs {
    const u64* indices;
    u64 base;
    u64 stride;
    __device__ __forceinline__ u64 operator[](u32 i) const { return base + stride * indices[i]; }
};

// Sums over the little-endian 32-bit words of a run: sum(w[i]) and sum((i + 1) * w[i]), both modulo 2^64.
struct Sums {
    u64 plain;
    u64 weighted;
};

__device__ __forceinline__ void add_word(Sums& sums, u32 word, u32 index) {
    sums.plain += word;
    sums.weighted += static_cast<u64>(word) * (index + 1ULL);
}

// `offset`: bytes from the start of the run. A lane narrower than a word adds the part of the word that it holds.
__device__ __forceinline__ void add(Sums& sums, const uint4& lane, u64 offset) {
    const u32 index = static_cast<u32>(offset >> 2);
    add_word(sums, lane.x, index);
    add_word(sums, lane.y, index + 1);
    add_word(sums, lane.z, index + 2);
    add_word(sums, lane.w, index + 3);
}

__device__ __forceinline__ void add(Sums& sums, u64 lane, u64 offset) {
    const u32 index = static_cast<u32>(offset >> 2);
    add_word(sums, static_cast<u32>(lane), index);
    add_word(sums, static_cast<u32>(lane >> 32), index + 1);
}

__device__ __forceinline__ void add(Sums& sums, u32 lane, u64 offset) {
    add_word(sums, lane, static_cast<u32>(offset >> 2));
}

__device__ __forceinline__ void add(Sums& sums, u8 lane, u64 offset) {
    add_word(sums, static_cast<u32>(lane) << (8 * (offset & 3)), static_cast<u32>(offset >> 2));
}

template <typename Lane, bool COPY, bool SUM>
__device__ __forceinline__ void move_chunk(const Run& run, u64 start, u32 bytes, Sums& sums) {
    const Lane* from = reinterpret_cast<const Lane*>(run.source + start);
    Lane* to = reinterpret_cast<Lane*>(run.destination + start);
    const u32 lanes = bytes / sizeof(Lane);
    u32 i = threadIdx.x % WARP;
    for (; i + (FLIGHT - 1) * WARP < lanes; i += FLIGHT * WARP) {
        Lane held[FLIGHT];
#pragma unroll
        for (u32 k = 0; k < FLIGHT; k++) held[k] = __ldcs(from + i + k * WARP);
#pragma unroll
        for (u32 k = 0; k < FLIGHT; k++) {
            if (COPY) to[i + k * WARP] = held[k];
            if (SUM) add(sums, held[k], start + (i + k * WARP) * sizeof(Lane));
        }
    }
    for (; i < lanes; i += WARP) {
        const Lane held = __ldcs(from + i);
        if (COPY) to[i] = held;
        if (SUM) add(sums, held, start + i * sizeof(Lane));
    }
}

__device__ __forceinline__ u64 warp_total(u64 value) {
    for (u32 distance = WARP / 2; distance; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
    return value;
}

// `bytes` a run, cut into `chunks` chunks of CHUNK bytes (the last one may be shorter); `sums` holds one Sums a run.
template <bool COPY, bool SUM>
__device__ __forceinline__ void move_runs(const Runs& sources, const Runs& destinations, u32 count, u64 bytes, u32 chunks, Sums* sums) {
    const u64 items = static_cast<u64>(count) * chunks;
    const u32 warps = blockDim.x / WARP;
    const u64 step = static_cast<u64>(gridDim.x) * warps;
    for (u64 item = static_cast<u64>(blockIdx.x) * warps + threadIdx.x / WARP; item < items; item += step) {
        const u32 index = static_cast<u32>(item / chunks);
        const u64 start = (item % chunks) * CHUNK;
        const u32 size = static_cast<u32>(bytes - start < CHUNK ? bytes - start : CHUNK);
        const Run run = {sources[index], COPY ? destinations[index] : 0};
        const u64 alignment = run.source | run.destination | bytes;
        Sums mine = {0, 0};
        if (alignment % 16 == 0) move_chunk<uint4, COPY, SUM>(run, start, size, mine);
        else if (alignment % 8 == 0) move_chunk<u64, COPY, SUM>(run, start, size, mine);
        else if (alignment % 4 == 0) move_chunk<u32, COPY, SUM>(run, start, size, mine);
        else move_chunk<u8, COPY, SUM>(run, start, size, mine);
        if (SUM) {
            const u64 plain = warp_total(mine.plain), weighted = warp_total(mine.weighted);
            if (threadIdx.x % WARP == 0) {
                atomicAdd(&sums[index].plain, plain);
                atomicAdd(&sums[index].weighted, weighted);
            }
        }
    }
}

// The three kernels take the same arguments: the fields of both sides' Runs, and what move_runs wants beside them.
#define KERNEL(name, copy, sum)                                                                                      \
    extern "C" __global__ void __launch_bounds__(512)                                                                \
    name(const u64* sources, u64 source_base, u64 source_stride, const u64* destinations, u64 destination_base,      \
         u64 destination_stride, u32 count, u64 bytes, u32 chunks, Sums* sums) {                                     \
        const Runs from = {sources, source_base, source_stride};                                                     \
        const Runs to = {destinations, destination_base, destination_stride};                                        \
        move_runs<copy, sum>(from, to, count, bytes, chunks, sums);                                                  \
    }

KERNEL(copy_runs, true, false)
KERNEL(copy_and_sum_runs, true, true)
KERNEL(sum_runs, false, true)
