"""The Hugging Face `Trainer` with a transfer loss: `aft.TransferModel` is the trainer's model.

    python examples/huggingface_trainer.py TEACHER

TEACHER is any teacher of texts. `python -m aft.demo_data minilm minilm` writes one to the folder
`minilm`; it is called st:minilm. 40 reviews have a label and 300 have none. The held-out reviews
need no teacher.
"""

import sys

import datasets
import torch
from transformers import Trainer, TrainingArguments, set_seed

import aft
from aft.losses import AFTSoftLoss, SoftLabelLoss
from films import films
from tiny_bert import Student, tiny_bert


class Collator:
    """Makes the arguments of `aft.TransferModel`: those of the tokenizer become `inputs`.

    Batches with teacher features, those of training, get twice as many rows without labels.
    """

    def __init__(self, tokenizer, unlabelled):
        self.tokenizer = tokenizer
        self.unlabelled = unlabelled

    def tokenize(self, items):
        tokens = self.tokenizer([one["text"] for one in items], padding=True, return_tensors="pt")
        return dict(tokens)

    def __call__(self, items):
        batch = {
            "inputs": self.tokenize(items),
            "labels": torch.tensor([one["labels"] for one in items]),
        }
        if "teacher_features" in items[0]:
            rows = torch.randint(len(self.unlabelled), (2 * len(items),)).tolist()
            extra = self.unlabelled.__getitems__(rows)
            batch["teacher_features"] = torch.stack([one["teacher_features"] for one in items])
            batch["extra_inputs"] = self.tokenize(extra)
            batch["extra_features"] = torch.stack([one["teacher_features"] for one in extra])
        return batch


def compute_metrics(evaluation):
    """The first of the model's outputs are the logits."""
    logits, labels = evaluation.predictions[0], evaluation.label_ids
    return {"accuracy": float((logits.argmax(axis=1) == labels).mean())}


def main(teacher="st:minilm", out="trainer", features="features", steps=100):
    """Train with the teacher; returns the trainer's metrics on the held-out reviews."""
    set_seed(0)
    texts, labels = films(40, words=4)  # the labelled reviews have few words of praise
    more, _ = films(300, seed=1)
    held_out, truth = films(200, seed=2)

    made = aft.extract(data=[*texts, *more], teachers=teacher, features=features)
    stores = [aft.FeatureStore.at(one["folder"]) for one in made]
    labelled = datasets.Dataset.from_dict({"text": texts, "labels": labels})
    labelled = aft.WithFeatures(labelled, aft.sample_ids(texts), stores)
    unlabelled = datasets.Dataset.from_dict({"text": more})
    unlabelled = aft.WithFeatures(unlabelled, aft.sample_ids(more), stores)
    test = datasets.Dataset.from_dict({"text": held_out, "labels": truth})

    classifier, tokenizer = tiny_bert([*texts, *more])
    known, targets = labelled.features(), torch.tensor(labels)
    soft = SoftLabelLoss.fit(known, targets, kind="classification", num_outputs=2)
    model = aft.TransferModel(Student(classifier), AFTSoftLoss.fit(soft, known), beta=3.0)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=20,
            per_device_eval_batch_size=100,
            learning_rate=1e-3,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=steps // 4,
            save_steps=steps // 4,
            logging_steps=steps // 4,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            save_total_limit=1,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            remove_unused_columns=False,  # the collator reads the texts
            report_to="none",
        ),
        train_dataset=labelled,
        eval_dataset=test,
        data_collator=Collator(tokenizer, unlabelled),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    metrics = trainer.evaluate()
    print({name: round(value, 3) for name, value in metrics.items()})
    classifier.save_pretrained(f"{out}/student")  # the student alone, without the loss
    tokenizer.save_pretrained(f"{out}/student")
    return metrics


if __name__ == "__main__":
    main(*sys.argv[1:])
