"""Few-shot tasks as Lightning datamodules; see episodic.py for what they have in common."""

from datamodules.sinusoid import Sinusoid

__all__ = ["Sinusoid"]
