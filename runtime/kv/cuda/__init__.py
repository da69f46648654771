"""KV blocks in device memory: pools that peers map, and the kernels that move and sum runs of bytes."""
