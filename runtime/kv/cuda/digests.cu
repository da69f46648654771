// The checksum of pages, xxh3-64 with seed 0, of groups of a block's bytes where they lie. Compiled behind
// scatter_gather.cu. The algorithm: github.com/Cyan4973/xxHash, doc/xxhash_spec.md, for inputs of more than 240 bytes.
//
// Its eight accumulators are eight lanes. One group of bytes is a chain of steps; what fills a device is many groups.

constexpr u32 LANES_A_DIGEST = 8;
constexpr u32 STRIPE = 64, STRIPES = 16;  // bytes; a block of the algorithm is STRIPES of them
constexpr u64 PRIME32_1 = 0x9E3779B1u, PRIME32_2 = 0x85EBCA77u, PRIME32_3 = 0xC2B2AE3Du;
constexpr u64 PRIME64_1 = 0x9E3779B185EBCA87ull, PRIME64_2 = 0xC2B2AE3D27D4EB4Full, PRIME64_3 = 0x165667B19E3779F9ull,
              PRIME64_4 = 0x85EBCA77C2B2AE63ull, PRIME64_5 = 0x27D4EB2F165667C5ull, PRIME_MX1 = 0x165667919E3779F9ull;

__constant__ u64 FIRST[LANES_A_DIGEST] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
__constant__ u64 SECRET[24] = {
    0xbe4ba423396cfeb8ull, 0x1cad21f72c81017cull, 0xdb979083e96dd4deull, 0x1f67b3b7a4a44072ull,
    0x78e5c0cc4ee679cbull, 0x2172ffcc7dd05a82ull, 0x8e2443f7744608b8ull, 0x4c263a81e69035e0ull,
    0xcb00c391bb52283cull, 0xa32e531b8b65d088ull, 0x4ef90da297486471ull, 0xd8acdea946ef1938ull,
    0x3f349ce33f76faa8ull, 0x1d4f0bc7c7bbdcf9ull, 0x3159b4cd4be0518aull, 0x647378d9c97e9fc8ull,
    0xc3ebd33483acc5eaull, 0xeb6313faffa081c5ull, 0x49daf0b751dd0d17ull, 0x9e68d429265516d3ull,
    0xfca1477d58be162bull, 0xce31d07ad1b8f88full, 0x280416958f3acb45ull, 0x7e404bbbcafbd7afull,
};
constexpr u32 SCRAMBLE_KEY = 128, LAST_KEY = 121, MERGE_KEY = 11;  // bytes into the secret

__device__ __forceinline__ u64 secret_at(u32 byte) {
    const u64 low = SECRET[byte / 8];
    return byte % 8 ? low >> (8 * (byte % 8)) | SECRET[byte / 8 + 1] << (64 - 8 * (byte % 8)) : low;
}

__device__ __forceinline__ void accumulate(u64& sum, u64 mine, u64 beside, u64 key) {
    const u64 keyed = mine ^ key;
    sum += beside + static_cast<u64>(static_cast<u32>(keyed)) * (keyed >> 32);
}

// This lane's accumulator after `bytes` bytes, a multiple of 8, at an address that is one too.
__device__ __forceinline__ u64 accumulated(const u64* at, u64 bytes, u32 lane) {
    u64 keys[STRIPES], sum = FIRST[lane];
#pragma unroll
    for (u32 s = 0; s < STRIPES; s++) keys[s] = SECRET[s + lane];
    const u64 scramble = secret_at(SCRAMBLE_KEY + 8 * lane);
    const u64 whole = (bytes - 1) / (STRIPE * STRIPES);
    for (u64 n = 0; n < whole; n++, at += STRIPE * STRIPES / 8) {
        u64 mine[STRIPES], beside[STRIPES];
#pragma unroll
        for (u32 s = 0; s < STRIPES; s++) mine[s] = at[8 * s + lane], beside[s] = at[8 * s + (lane ^ 1)];
#pragma unroll
        for (u32 s = 0; s < STRIPES; s++) accumulate(sum, mine[s], beside[s], keys[s]);
        sum = (sum ^ sum >> 47 ^ scramble) * PRIME32_1;
    }
    const u64 left = bytes - whole * STRIPE * STRIPES;
#pragma unroll
    for (u32 s = 0; s < STRIPES; s++)
        if ((s + 1) * STRIPE < left) accumulate(sum, at[8 * s + lane], at[8 * s + (lane ^ 1)], keys[s]);
    const u64* last = at + (left - STRIPE) / 8;
    accumulate(sum, last[lane], last[lane ^ 1], secret_at(LAST_KEY + 8 * lane));
    return sum;
}

// `out[i * groups + g]`: of group g of block i, `group_bytes` each, of the last one `last_bytes`.
extern "C" __global__ void __launch_bounds__(256)
digest_groups(const u64* blocks, u64 base, u64 stride, u32 count, u32 groups, u64 group_bytes, u64 last_bytes, u64* out) {
    const Runs runs = {blocks, base, stride};
    const u64 total = static_cast<u64>(count) * groups;
    const u32 lane = threadIdx.x % LANES_A_DIGEST, warps = blockDim.x / WARP;
    constexpr u32 A_WARP = WARP / LANES_A_DIGEST;
    u64 first = (static_cast<u64>(blockIdx.x) * warps + threadIdx.x / WARP) * A_WARP;
    for (; first < total; first += static_cast<u64>(gridDim.x) * warps * A_WARP) {
        const u64 wanted = first + threadIdx.x % WARP / LANES_A_DIGEST;
        const u64 item = wanted < total ? wanted : total - 1;  // all lanes take part in what follows
        const u32 group = static_cast<u32>(item % groups);
        const u64 bytes = group + 1 == groups ? last_bytes : group_bytes;
        const u64 start = runs[static_cast<u32>(item / groups)] + group * group_bytes;
        const u64 sum = accumulated(reinterpret_cast<const u64*>(start), bytes, lane) ^ secret_at(MERGE_KEY + 8 * lane);
        const u64 beside = __shfl_down_sync(0xffffffffu, sum, 1);
        u64 folded = __umul64hi(sum, beside) ^ sum * beside;  // of lanes 0, 2, 4, 6
        folded += __shfl_down_sync(0xffffffffu, folded, 4);
        folded += __shfl_down_sync(0xffffffffu, folded, 2);
        u64 digest = folded + bytes * PRIME64_1;
        digest ^= digest >> 37;
        digest *= PRIME_MX1;
        digest ^= digest >> 32;
        if (lane == 0 && wanted < total) out[item] = digest;
    }
}
