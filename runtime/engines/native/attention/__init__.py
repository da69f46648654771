"""Attention over the paged KV pool: one protocol, one implementation a device."""
