"""What all tests share."""

import os

import torch

# The tensors here are tiny: threads cost more than they bring, and stall on a busy machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
# Tests say so where they want W&B; none may ask for a login, or log to anybody's account.
os.environ["WANDB_MODE"] = "disabled"
