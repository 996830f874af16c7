"""What `test` leaves behind: a table in the terminal and a result file in the run's folder."""

from lightning.pytorch import Callback


class ResultFile(Callback):
    """placeholder"""
