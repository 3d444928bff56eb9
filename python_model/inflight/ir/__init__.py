"""The compiler's graph: typed values and nodes, what each op means, no execution engine."""
