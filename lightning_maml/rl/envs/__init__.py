"""The paper's environments (Sec. 5.3), each a batch of episodes as pure functions."""
