"""Airflow, its processes and the network to EMR in virtual time, around the real operators and the real boto3.

``world`` has the clock and what runs by it, ``network`` stands between boto3 and local EMR, ``airflow`` is the
scheduler with its workers and its triggerer, ``contenders`` builds the same DAG from two sets of operators,
``verdict`` judges what came of a run, and ``matrix`` and ``schedules`` say what goes wrong in it.
"""
