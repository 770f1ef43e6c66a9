"""The programs that run as EMR steps, one a module, each with ``main(argv)``."""
