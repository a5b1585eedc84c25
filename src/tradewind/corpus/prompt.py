"""The one place where a passage and a question become chat messages.

Training, evaluation, serving and the notebooks all build their prompts here, so that what is asked is what was trained.
It knows neither tokenizer nor chat template: messages are role and content only.
"""

from collections.abc import Sequence

Message = dict[str, str]

SYSTEM = "Answer from the documentation given, briefly."
REFUSAL = "The documentation does not say."


def user_message(passage: str, question: str) -> str:
    """The user's turn: the passage, an empty line, the question; the question alone where the passage is empty."""
    return f"{passage}\n\n{question}" if passage else question


def conversation(passage: str, turns: Sequence[tuple[str, str]]) -> list[Message]:
    """Messages of one conversation about one passage: system, then user and assistant alternating.

    `turns` are (question, answer) pairs. The passage stands in the first user message only. An empty last answer leaves
    the conversation open: it then ends with the user's question, ready for a model to answer.
    """
    messages = [{"role": "system", "content": SYSTEM}]
    for number, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": user_message(passage if number == 0 else "", question)})
        if answer:
            messages.append({"role": "assistant", "content": answer})
    return messages
