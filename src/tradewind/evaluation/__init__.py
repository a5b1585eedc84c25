"""What a variant is worth: answers and probabilities on the test set, divergence from its parent, speed and memory.

Everything runs through the engine contract, that is, in the runtime that serves. It trains nothing and knows no DVC.
"""
