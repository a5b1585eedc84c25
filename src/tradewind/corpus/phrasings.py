"""How questions are phrased: several wordings per kind; some are held out for the test set.

`{s}` is the symbol as written in the question, `{p}` a parameter, `{e}` an exception, `{r}` a returned name, `{w}` some
words of a summary, `{c}` a condition, `{d}` a task ("compute the inverse of a matrix").
"""

import hashlib

TRAIN: dict[str, tuple[str, ...]] = {
    "summary": (
        "What does {s} do?",
        "What is {s}?",
        "In one sentence, what is {s} for?",
        "Describe {s}.",
        "Tell me what {s} does.",
    ),
    "default": (
        "What is the default of {p} in {s}?",
        "What is the default value of the parameter {p} of {s}?",
        "In {s}, what value does {p} take if I do not pass it?",
        "Default for {p} in {s}?",
    ),
    "parameter": (
        "What is the parameter {p} of {s} for?",
        "What does {p} do in {s}?",
        "In {s}, what does {p} mean?",
        "Explain {p} in {s}.",
        "What is {p} in {s}?",
    ),
    "type": (
        "What type should {p} be in {s}?",
        "Which type does the parameter {p} of {s} have?",
        "What kind of value does {s} accept for {p}?",
        "Type of {p} in {s}?",
    ),
    "returns": (
        "What does {s} return?",
        "What is the return value of {s}?",
        "What do I get back from {s}?",
        "Describe what {s} returns.",
    ),
    "returned": (
        "What is {r}, returned by {s}?",
        "What does the returned {r} of {s} hold?",
        "{s} returns {r}: what is it?",
    ),
    "raises": (
        "When does {s} raise {e}?",
        "Under which condition is {e} raised by {s}?",
        "Why would {s} raise {e}?",
        "What causes {e} in {s}?",
    ),
    "exception": (
        "What does {s} raise in this case: {c}",
        "Which exception comes from {s} here: {c}",
        "Name the error of {s} for this case: {c}",
    ),
    "which": (
        "Which of these is about: {w}?",
        "Which one do I need for: {w}?",
        "Name the one that fits: {w}.",
        "Which of them would you use for: {w}?",
    ),
    "how": (
        "How do I use {s}? Show one line.",
        "Show an example line that uses {s}.",
        "How do I call {s} in code?",
        "Give me a line of code with {s}.",
    ),
    "how_task": (
        "How do I {d}? Show one line.",
        "Which line of code would {d}?",
        "Code to {d}?",
    ),
    "follow_default": ("And its default?", "What is its default?", "And what does it default to?"),
    "follow_type": ("And its type?", "What type is it?", "And of which type should it be?"),
    "follow_purpose": ("And what is it for?", "What does it do?", "And its meaning?"),
    "follow_parameter": ("And {p}?", "And what about {p}?", "What about {p}?"),
    "follow_returns": ("And what does it return?", "What does it return?", "And its return value?"),
    "follow_raises": ("When does it raise {e}?", "And when does it raise {e}?"),
    "follow_summary": ("What does it do?", "And what does it do?", "What is it for?"),
    "follow_how": ("Show one line that uses it.", "And how do I call it?"),
    "no_returns": ("What does {s} return?", "What is the return value of {s}?", "What do I get back from {s}?"),
    "no_raises": (
        "When does {s} raise {e}?",
        "What does {s} raise, and when?",
        "Why would {s} raise {e}?",
        "What causes {e} in {s}?",
    ),
    "no_example": (
        "Show an example line that uses {s}.",
        "How do I use {s}? Show one line.",
        "How do I call {s} in code?",
    ),
    "no_fact": (
        "Since which version is {s} available?",
        "Is {s} thread-safe?",
        "Who wrote {s}?",
        "How much memory does {s} need?",
        "What is the time complexity of {s}?",
        "Is {s} deprecated?",
    ),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
    "summary": ("Briefly, what can I do with {s}?", "What is the purpose of {s}?"),
    "default": ("Which value has {p} by default in {s}?", "If {p} is left out, what does {s} use?"),
    "parameter": ("What role does {p} play in {s}?", "What should I know about the {p} argument of {s}?"),
    "type": ("What should I pass as {p} to {s}: which type?", "Of which type is the argument {p} of {s}?"),
    "returns": ("What comes out of {s}?", "What is the result of {s}?"),
    "returned": ("Among the results of {s}, what is {r}?",),
    "raises": ("In what situation does {s} fail with {e}?", "I got {e} from {s}. Why?"),
    "exception": ("Which error should I expect from {s} in this case: {c}",),
    "which": ("Which of the above does this: {w}?", "I am looking for this: {w}. Which one is it?"),
    "how": ("Can you show {s} in use, in one line?", "What would a call of {s} look like?"),
    "how_task": ("I want to {d}. What is the line?",),
    "no_fact": ("When was {s} added?", "How fast is {s}?", "Does {s} run on a GPU?"),
}


def pick(group: str, key: str, held_out: bool = False) -> str:
    """One wording of a group, chosen by the hash of `key`; from the held-out ones where asked and there are any."""
    choices = HELD_OUT.get(group, TRAIN[group]) if held_out else TRAIN[group]
    return choices[chance(group, key) % len(choices)]


def chance(*key: object) -> int:
    """A number fixed by `key`: the corpus' only source of choice, so that two runs agree."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()[:8])
