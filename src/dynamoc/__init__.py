"""dynamoc: a declarative pipeline compiler and launcher for LLM inference."""

__version__ = "0.1.0"
