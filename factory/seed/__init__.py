"""The embedded round-0 model: a small Llama trained from scratch on the home world.

examples   training examples of the five kinds
tokenizer  byte-level BPE with one token for each piece of boilerplate
training   plan, optimisers, the phases, and the checkpoint folder
card       README.md of the checkpoint

The first phase teaches documents from requests, documents from descriptions, and calls from tools
and requests (algorithms §1.2). The second gives the tool pool its codes and adds the two kinds
that teach them (algorithms §8). The third has many invented words, which can only be copied. One
random stream and a fixed number of steps: the same command makes the same weights on the same
machine. Every prompt goes through the templates in prompts/.
"""

from factory.seed.training import SeedPlan, train_seed

__all__ = ["SeedPlan", "train_seed"]
