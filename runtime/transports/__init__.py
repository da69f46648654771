"""The ways KV blocks move from one worker's pool into another's."""
