"""inflight: large language models inside tritonserver."""

__version__ = "0.1.0"
