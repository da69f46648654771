// Moves a slice of every block between pools whose blocks lie differently: layouts permuted, heads cut or joined.
// Compiled behind scatter_gather.cu, whose runs, sums and lanes it uses.
//
// The lanes of a warp go through a block's fragments as if they were one run: where a lane's bytes are follows from
// the loops of the walk. So short fragments fill a warp as well as long ones, and no lane waits for another.

// One loop: how often, and how far on in bytes at the source, the target and in the canonical block.
struct Step {
    u32 count;
    u64 source;
    u64 target;
    u64 canonical;
};

constexpr u32 STEPS = 4;

struct Place {
    u64 source;
    u64 target;
    u64 canonical;
};

// A slice of any block: fragments of `run` bytes, found by the loops, innermost first.
struct Walk {
    u32 run;
    u64 bytes;
    u64 canonical;
    Step steps[STEPS];

    __device__ __forceinline__ Place operator[](u32 byte) const {
        u32 fragment = byte / run;
        const u32 within = byte - fragment * run;
        Place place = {within, within, canonical + within};
#pragma unroll
        for (u32 k = 0; k < STEPS; k++) {
            const u32 outer = fragment / steps[k].count, index = fragment - outer * steps[k].count;
            place.source += index * steps[k].source;
            place.target += index * steps[k].target;
            place.canonical += index * steps[k].canonical;
            fragment = outer;
        }
        return place;
    }

    // What lanes must divide. A lane of whole words must begin at one of the canonical block too, or sums are wrong.
    __device__ __forceinline__ u64 alignment() const {
        u64 all = run, words = canonical;
#pragma unroll
        for (u32 k = 0; k < STEPS; k++) {
            if (steps[k].count == 1) continue;
            all |= steps[k].source | steps[k].target;
            words |= steps[k].canonical;
        }
        return words % 4 ? 1 : all;
    }
};

template <typename Lane, bool COPY, bool SUM>
__device__ __forceinline__ void move_part(const Walk& walk, const Run& run, u32 start, u32 bytes, Sums& sums) {
    const u32 lanes = bytes / sizeof(Lane);
    for (u32 first = threadIdx.x % WARP; first < lanes; first += FLIGHT * WARP) {
        Lane held[FLIGHT];
        Place places[FLIGHT];
#pragma unroll
        for (u32 k = 0; k < FLIGHT; k++) {
            const u32 i = first + k * WARP;
            if (i >= lanes) continue;
            places[k] = walk[start + i * sizeof(Lane)];
            held[k] = __ldcs(reinterpret_cast<const Lane*>(run.source + places[k].source));
        }
#pragma unroll
        for (u32 k = 0; k < FLIGHT; k++) {
            if (first + k * WARP >= lanes) continue;
            if (COPY) *reinterpret_cast<Lane*>(run.destination + places[k].target) = held[k];
            if (SUM) add(sums, held[k], places[k].canonical);
        }
    }
}

template <bool COPY, bool SUM>
__device__ __forceinline__ void move_slices(const Runs& sources, const Runs& destinations, u32 count, const Walk& walk, u32 chunks, Sums* sums) {
    const u64 items = static_cast<u64>(count) * chunks, aligned = walk.alignment();
    const u32 warps = blockDim.x / WARP;
    const u64 step = static_cast<u64>(gridDim.x) * warps;
    for (u64 item = static_cast<u64>(blockIdx.x) * warps + threadIdx.x / WARP; item < items; item += step) {
        const u32 index = static_cast<u32>(item / chunks);
        const u32 start = static_cast<u32>(item % chunks) * CHUNK;
        const u32 size = static_cast<u32>(walk.bytes - start < CHUNK ? walk.bytes - start : CHUNK);
        const Run run = {sources[index], COPY ? destinations[index] : 0};
        const u64 alignment = run.source | run.destination | aligned;
        Sums mine = {0, 0};
        if (alignment % 16 == 0) move_part<uint4, COPY, SUM>(walk, run, start, size, mine);
        else if (alignment % 8 == 0) move_part<u64, COPY, SUM>(walk, run, start, size, mine);
        else if (alignment % 4 == 0) move_part<u32, COPY, SUM>(walk, run, start, size, mine);
        else move_part<u8, COPY, SUM>(walk, run, start, size, mine);
        if (SUM) {
            const u64 plain = warp_total(mine.plain), weighted = warp_total(mine.weighted);
            if (threadIdx.x % WARP == 0) {
                atomicAdd(&sums[index].plain, plain);
                atomicAdd(&sums[index].weighted, weighted);
            }
        }
    }
}

#define STEP(k) u32 count##k, u64 source##k, u64 target##k, u64 canonical##k
#define STEP_OF(k) {count##k, source##k, target##k, canonical##k}

#define SLICE_KERNEL(name, copy, sum)                                                                                \
    extern "C" __global__ void __launch_bounds__(512)                                                                \
    name(const u64* sources, u64 source_base, u64 source_stride, const u64* destinations, u64 destination_base,      \
         u64 destination_stride, u32 count, u32 run, u64 bytes, u64 canonical, STEP(0), STEP(1), STEP(2), STEP(3),   \
         u32 chunks, Sums* sums) {                                                                                   \
        const Runs from = {sources, source_base, source_stride};                                                     \
        const Runs to = {destinations, destination_base, destination_stride};                                        \
        const Walk walk = {run, bytes, canonical, {STEP_OF(0), STEP_OF(1), STEP_OF(2), STEP_OF(3)}};                 \
        move_slices<copy, sum>(from, to, count, walk, chunks, sums);                                                 \
    }

SLICE_KERNEL(copy_slices, true, false)
SLICE_KERNEL(copy_and_sum_slices, true, true)
SLICE_KERNEL(sum_slices, false, true)
