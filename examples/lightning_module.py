"""PyTorch Lightning with a transfer loss, and the best checkpoint on held-out rows.

    python examples/lightning_module.py

As `plain_pytorch.py`: 50 pictures have a label and 400 have none.
"""

import sys

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

import aft
from aft.losses import AFTSoftLoss, SoftLabelLoss
from digits import Digits, Student, pictures


class Transfer(lightning.LightningModule):
    """Trains a transfer model with a batch with labels and one without in every step."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch):
        """The loss; its parts are logged too."""
        (images, labels), features = batch["labelled"]
        (extra, _), extra_features = batch["unlabelled"]
        out = self.model(images, features, labels, extra, extra_features)
        self.log_dict({name: out[name] for name in ("task_loss", "transfer_loss", "loss")})
        return out["loss"]

    def validation_step(self, batch):
        """Held-out rows have no features of the teacher, so their loss is that of the task."""
        images, labels = batch
        out = self.model(images, labels=labels)
        self.log("val_loss", out["loss"])
        self.log("val_accuracy", (out["logits"].argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        """The gates of the loss have a learning rate of their own, and no weight decay."""
        gates = {"params": self.model.transfer_loss.parameters(), "lr": 1e-2, "weight_decay": 0.0}
        return torch.optim.AdamW([{"params": self.model.student.parameters(), "lr": 2e-3}, gates])


def main(
    teacher="timm:tf_efficientnet_lite0?size=64", out="lightning", features="features", epochs=25
):
    """Train with the teacher; returns Lightning's metrics of the best checkpoint."""
    torch.manual_seed(0)
    images, labels = pictures()
    made = aft.extract(data=images[:450], teachers=teacher, features=features)
    stores = [aft.FeatureStore.at(one["folder"]) for one in made]
    ids = aft.sample_ids(images[:450])
    labelled = aft.WithFeatures(Digits(images[:50], labels[:50], moves=True), ids[:50], stores)
    others = aft.WithFeatures(Digits(images[50:450], labels[50:450], moves=True), ids[50:], stores)
    held_out = Digits(images[450:850], labels[450:850])

    known, targets = labelled.features(), torch.from_numpy(labels[:50])
    soft = SoftLabelLoss.fit(known, targets, kind="classification", num_outputs=10)
    model = aft.TransferModel(Student(), AFTSoftLoss.fit(soft, known), beta=3.0)

    loaders = {
        "labelled": DataLoader(labelled, batch_size=50, shuffle=True),
        "unlabelled": DataLoader(others, batch_size=100, shuffle=True),
    }
    best = ModelCheckpoint(dirpath=out, monitor="val_accuracy", mode="max")
    trainer = lightning.Trainer(
        max_epochs=epochs,  # of the larger loader
        callbacks=[best],
        logger=False,
        log_every_n_steps=1,
        check_val_every_n_epoch=5,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(held_out, batch_size=400)
    trainer.fit(Transfer(model), CombinedLoader(loaders, mode="max_size_cycle"), loader)
    (metrics,) = trainer.validate(Transfer(model), loader, ckpt_path="best")
    torch.save(model.student.state_dict(), f"{out}/student.pt")  # the student alone
    return metrics


if __name__ == "__main__":
    main(*sys.argv[1:])
