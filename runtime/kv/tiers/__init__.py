"""The KV tiers below the device: host memory, local disk, object store."""
