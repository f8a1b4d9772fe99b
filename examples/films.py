"""Made-up film reviews for the examples."""

import random

GOOD = ("great", "superb", "brilliant", "lovely", "moving", "charming", "gripping", "clever")
BAD = ("awful", "terrible", "dreadful", "boring", "tedious", "clumsy", "dull", "lifeless")
PARTS = ("plot", "cast", "script", "ending", "music", "camera", "dialogue", "pace", "direction")
FRAMES = (
    "the {part} of this film was {word}",
    "a {word} {part}, and i would say so again",
    "number {number}: we found the {part} {word}",
    "what a {word} film, look at the {part}",
    "my friends called the {part} {word} last night",
)


def films(rows, words=8, seed=0):
    """Texts, and whether each praises the film: 1 or 0.

    Args:
        rows: Number of reviews.
        words: Number of words of praise, and of blame, that occur in them.
        seed: Another seed gives other reviews.
    """
    draw = random.Random(seed)
    texts, labels = [], []
    for number in range(rows):
        label = number % 2
        word = draw.choice((GOOD if label else BAD)[:words])
        text = draw.choice(FRAMES).format(part=draw.choice(PARTS), word=word, number=number)
        texts.append(text)
        labels.append(label)
    return texts, labels
