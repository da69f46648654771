"""The worker process: one engine, its line to the router, its requests, and the KV path between workers."""
