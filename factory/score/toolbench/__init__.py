"""ToolBench: retrieval by codes, and requests solved with virtual APIs."""
