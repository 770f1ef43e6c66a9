"""Airflow provider for big-data pipelines on Amazon EMR."""

__version__ = "0.1.0"
