"""Reinforcement learning (Sec. 5.3, Algorithm 3)."""
