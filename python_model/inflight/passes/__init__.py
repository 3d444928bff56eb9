"""Graph to graph, one idea a file; then memory planning and lowering to plan rows."""
