"""What is wrong with a body is said in JSON's words, and named as the client wrote it."""

import json

import pytest

from tradewind.serving.body import parse
from tradewind.serving.errors import ApiError
from tradewind.serving.wire import ChatRequest

BASE = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"messages": []}, "messages", "Array should have at least 1 item, not 0"),
        ({"messages": "x"}, "messages", "Input should be an array"),
        ({"messages": [3]}, "messages[0]", "Input should be an object"),
        ({"metadata": {f"{place}": "x" for place in range(17)}}, "metadata", "Object should have at most 16 items"),
        ({"metadata": []}, "metadata", "Input should be an object"),
        ({"aggregate": {"models": ["a"]}}, "aggregate.models", "Array should have at least 2 items, not 1"),
        ({"structured_outputs": {"json": 3}}, "structured_outputs.json", "Input should be an object"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object", "Input should be true"),
        ({"response_format": "x"}, "response_format", "Input should be an object"),
    ],
)
def test_a_wrong_value_in_words_of_json(more: dict[str, object], param: str, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(json.dumps(BASE | more).encode(), ChatRequest)
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)
    assert refused.value.message.startswith(f"Invalid value for {param}: {said}")
