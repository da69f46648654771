"""What both ends of a KV transfer compute about blocks, whatever moves them."""
