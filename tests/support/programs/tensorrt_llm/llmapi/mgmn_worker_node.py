import told  # noqa: F401
