"""Model families: each describes its graph with the shared decoder and names its tensors."""
