"""Measurements: one module a topic, each run by ``make bench-<name>`` and writing ``build/bench/<name>.json``."""
