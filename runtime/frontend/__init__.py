"""The HTTP side: OpenAI's API in front, the planes to router and workers behind."""
