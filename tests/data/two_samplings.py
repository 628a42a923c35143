"""Two ranks that found different neighbors: ``two_samplings.py STORE`` prints the plan of this rank's epoch."""

import hashlib
import os
import sys

import numpy as np
import pytorch_lightning as pl
import torch

from scfm.data.module import CellData
from scfm.store.token_store import TokenStore
from scfm.types import Needs, Sampling


class Nothing(pl.LightningModule):
    """Learns nothing, and says which cells were planned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, step):
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_start(self):
        found = self.trainer.datamodule.order(self.trainer.datamodule.split.train, multiple=2, shuffle=True).epoch(3)
        print("plan", hashlib.sha256(found.rows.tobytes() + found.edges.tobytes()).hexdigest(), flush=True)


if __name__ == "__main__":
    data = CellData(TokenStore.open(sys.argv[1]), tokens_per_batch=512, group=None)
    rng = np.random.default_rng(int(os.environ["RANK"]))
    table = rng.integers(0, len(data.store), (len(data.store), 5))
    data = data.planned(Needs(sampling=Sampling(neighbors=table, share=0.5, companions=2)))
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=1, logger=False, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Nothing(), data)
