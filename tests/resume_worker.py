"""One rank of a run that tests stop and resume: ``resume_worker.py STORE OUTPUT OVERRIDES...``."""

import sys

import torch

from support import SMALL, command

if __name__ == "__main__":
    torch.set_num_threads(1)
    command("train", f"store={sys.argv[1]}", f"output={sys.argv[2]}", *SMALL, *sys.argv[3:])
