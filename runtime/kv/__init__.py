"""The KV cache: layout, pool, hashing and transfer."""
