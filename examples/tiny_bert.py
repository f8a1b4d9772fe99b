"""A tiny BERT with random weights, made here so that the examples are quick.

In your code, `from_pretrained` of `AutoTokenizer` and `AutoModelForSequenceClassification` load a
tokenizer and a model.
"""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast


def tiny_bert(texts, labels=2):
    """A model for this number of labels, and a tokenizer that knows the words of the texts."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        num_labels=labels,
    )
    return BertForSequenceClassification(config), tokenizer


class Student(nn.Module):
    """A classifier of transformers, with or without adapters, that returns logits and features.

    The features are those of the first token in the last layer.
    """

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs):
        """Logits and features of what a tokenizer returned."""
        out = self.classifier(**inputs, output_hidden_states=True)
        return out.logits, out.hidden_states[-1][:, 0]
