"""The driver calls, a file for each of the driver manual's chapters."""
