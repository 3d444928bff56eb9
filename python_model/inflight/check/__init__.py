"""Looks at a model repository or an engine before a server does: what will hold, what will not."""
