"""Model families and their configuration."""
