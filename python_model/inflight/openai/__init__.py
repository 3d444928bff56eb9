"""The OpenAI endpoint: HTTP in front of a tritonserver's gRPC. See docs/openai.md.

protocol (what clients send) -> translate (to requests of `tensorrt_llm`) -> engine_client (gRPC)
-> choice (ids to text) -> chat, completions (what clients get); app joins them.
"""
