# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus that the bundled tiny model is trained on.

Short English stories, questions with answers, and small sums, put together from
word lists by a seeded generator: the same seed gives the same bytes on every
machine. `train` text is made afresh at training time; calibration.txt and
heldout.txt come from other seeds and are committed.

    python3 make_corpus.py --seed 2 --documents 220 > calibration.txt
    python3 make_corpus.py --seed 3 --documents 220 > heldout.txt
"""

import argparse
import random
import sys

NAMES = ["Anna", "Ben", "Clara", "David", "Ella", "Finn", "Grace", "Hugo",
         "Iris", "Jack", "Kate", "Leo", "Mia", "Noah", "Olive", "Paul"]
ANIMALS = ["cat", "dog", "bird", "fox", "horse", "rabbit", "duck", "goat"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown"]
THINGS = ["ball", "book", "boat", "hat", "lamp", "box", "kite", "cup", "key"]
PLACES = ["garden", "forest", "kitchen", "river", "market", "school", "barn",
          "beach"]
FEELINGS = ["happy", "sad", "tired", "proud", "hungry", "afraid", "glad"]
WEATHER = ["sunny", "rainy", "windy", "cold", "warm", "cloudy"]
FOODS = ["bread", "soup", "cake", "apples", "cheese", "pears", "honey"]


def story(rng):
    """One story of a child, an animal and a thing."""
    name, friend = rng.sample(NAMES, 2)
    animal = rng.choice(ANIMALS)
    colour, other_colour = rng.sample(COLOURS, 2)
    thing = rng.choice(THINGS)
    place, next_place = rng.sample(PLACES, 2)
    feeling = rng.choice(FEELINGS)
    food = rng.choice(FOODS)
    lines = [f"One {rng.choice(WEATHER)} day {name} went to the {place}.",
             f"There {name} saw a {colour} {animal}."]
    if rng.random() < 0.5:
        lines.append(f"The {animal} was {feeling} because it had lost a "
                     f"{other_colour} {thing}.")
        lines.append(f"{name} asked {friend} to help.")
        lines.append(f"They looked in the {next_place} and found the "
                     f"{other_colour} {thing} under a tree.")
        lines.append(f"The {colour} {animal} was happy and they all ate "
                     f"{food}.")
    else:
        lines.append(f"The {animal} liked to eat {food}, so {name} gave it "
                     f"some {food}.")
        lines.append(f"Then {friend} came with a {other_colour} {thing}.")
        lines.append(f"{name} and {friend} played with the {thing} in the "
                     f"{next_place}.")
        lines.append(f"In the evening {name} was {feeling} and went home.")
    return " ".join(lines)


def question(rng):
    """A short text, then a question whose answer stands in it."""
    name = rng.choice(NAMES)
    thing = rng.choice(THINGS)
    colour = rng.choice(COLOURS)
    place = rng.choice(PLACES)
    food = rng.choice(FOODS)
    text = f"{name} has a {colour} {thing} in the {place} and likes {food}."
    asked = rng.choice([
        (f"What colour is the {thing}?", f"The {thing} is {colour}."),
        (f"Where is the {thing}?", f"The {thing} is in the {place}."),
        (f"Who has the {thing}?", f"{name} has the {thing}."),
        (f"What does {name} like?", f"{name} likes {food}."),
    ])
    return f"{text}\nQuestion: {asked[0]}\nAnswer: {asked[1]}"


def sums(rng):
    """A few small sums in a row."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        if rng.random() < 0.7:
            lines.append(f"{a} plus {b} is {a + b}.")
        else:
            lines.append(f"{a + b} minus {b} is {a}.")
    return " ".join(lines)


def documents(seed, count):
    """`count` documents, in a fixed order for one seed."""
    rng = random.Random(seed)
    kinds = [story, story, story, question, sums]
    return [rng.choice(kinds)(rng) for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--documents", type=int, required=True)
    args = parser.parse_args()
    sys.stdout.write("\n\n".join(documents(args.seed, args.documents)) + "\n")


if __name__ == "__main__":
    main()
