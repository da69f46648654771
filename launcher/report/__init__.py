"""Reports: what campaigns and runs came to, as one offline page and as tables."""
