"""The text side of serving and the model repository; nothing here imports Triton."""
