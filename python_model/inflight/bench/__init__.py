"""Load on a running server: what to send (load), to whom (targets), what came (run, report)."""
