"""Model folders: how other formats become one."""
