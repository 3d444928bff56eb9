"""HuggingFace checkpoints: lazy reading of safetensors, names of tensors to names of weights."""
