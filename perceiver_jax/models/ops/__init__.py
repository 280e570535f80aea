"""Exact rewrites of the models' equations that save time or memory.

Each is behind one function, next to the plain definition that it is tested to
equal. `execution.Execution` records which ones a model uses.
"""
