"""The quality gate: suites of expectations, their running on Spark, and what they found.

``suite`` and ``result`` are plain Python; ``runner`` needs Great Expectations and Spark, and imports them
when it runs. All of it is valid on Python 3.9, since it runs on a cluster as well.
"""
