"""Made-up film reviews for the examples: few have a label, and the others use other words."""

import random

GOOD = "great wonderful brilliant superb delightful moving charming gripping clever beautiful".split()
BAD = "awful terrible dreadful boring tedious clumsy dull pathetic lifeless annoying".split()
PARTS = "plot cast script ending music camera dialogue pace story direction".split()
FRAMES = (
    "the {part} of this film was {word}",
    "a {word} {part}, and i would say so again",
    "number {number}: we found the {part} {word}",
    "what a {word} film, look at the {part}",
    "my friends called the {part} {word} last night",
)


def films(rows, words=10, seed=0):
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
        frame = draw.choice(FRAMES)
        texts.append(frame.format(part=draw.choice(PARTS), word=word, number=number))
        labels.append(label)
    return texts, labels
