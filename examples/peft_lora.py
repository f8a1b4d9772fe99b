"""A student with LoRA adapters of PEFT: only they and the head learn, from labels and a teacher.

    python examples/peft_lora.py TEACHER

TEACHER is any teacher of texts. `python -m aft.demo_data minilm minilm` writes one to the folder
`minilm`; it is called st:minilm. `adapter` in the output folder holds the adapters, and `student`
the model with the adapters merged into its weights, which transformers loads without PEFT.
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader

import aft
from aft.losses import AFTSoftLoss, SoftLabelLoss
from films import films
from tiny_bert import Student, tiny_bert


def main(teacher="st:minilm", out="lora", features="features", steps=100):
    """Train the adapters; returns the accuracy on held-out reviews before and after merging."""
    torch.manual_seed(0)
    texts, labels = films(200)
    held_out, truth = films(200, seed=2)
    made = aft.extract(data=texts, teachers=teacher, features=features)
    stores = [aft.FeatureStore.at(one["folder"]) for one in made]
    labelled = aft.WithFeatures(
        list(zip(texts, labels, strict=True)), aft.sample_ids(texts), stores
    )

    base, tokenizer = tiny_bert(texts)
    adapters = LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value", "dense"]
    )
    classifier = get_peft_model(base, adapters)
    classifier.print_trainable_parameters()

    known = labelled.features()
    soft = SoftLabelLoss.fit(known, torch.tensor(labels), kind="classification", num_outputs=2)
    loss = AFTSoftLoss.fit(soft, known)
    model = aft.TransferModel(Student(classifier), loss)
    learned = [one for one in model.student.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": learned, "lr": 5e-3},
            {"params": loss.parameters(), "lr": 1e-2, "weight_decay": 0.0},
        ]
    )

    def tokenize(some):
        return dict(tokenizer(list(some), padding=True, return_tensors="pt"))

    loader = DataLoader(labelled, batch_size=40, shuffle=True)
    for _ in range(steps // len(loader)):
        for (some, answers), teacher_features in loader:
            out_of_batch = model(tokenize(some), teacher_features, answers)
            optimizer.zero_grad()
            out_of_batch["loss"].backward()
            optimizer.step()

    @torch.no_grad()
    def accuracy(network):
        right = network.eval()(**tokenize(held_out)).logits.argmax(1) == torch.tensor(truth)
        return right.float().mean().item()

    scores = {"adapters": accuracy(classifier)}
    classifier.save_pretrained(f"{out}/adapter")
    merged = classifier.merge_and_unload()
    merged.save_pretrained(f"{out}/student")
    tokenizer.save_pretrained(f"{out}/student")
    scores["merged"] = accuracy(merged)
    print(scores)
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
