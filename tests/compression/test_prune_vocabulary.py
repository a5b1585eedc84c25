import numpy as np

from tests.compression.distilling import CONFIG, WORDS, tiny_teacher, tiny_tokenizer
from tradewind.compression.prune_vocabulary import EMBEDDING, slice_vocabulary, trim_vocabulary


def test_a_trimmed_vocabulary_round_trips_and_maps_one_to_one():
    tokenizer = tiny_tokenizer()
    texts = [tokenizer.encode(" ".join(WORDS[:4] * 3))]
    student, ids = trim_vocabulary(tokenizer, texts, 300)
    assert len(ids) == len(set(ids)) == student.vocab_size <= 300
    for text in (" ".join(WORDS), "día 日本 🎉 x=1"):
        assert student.decode(student.encode(text)) == text
    assert all(student.token_bytes(new) == tokenizer.token_bytes(old) for new, old in enumerate(ids))
    assert len(student.encode(" ".join(WORDS[:4] * 3))) == len(texts[0])  # the domain's words keep their tokens


def test_sliced_embedding_rows_are_the_teachers():
    teacher = tiny_teacher()
    config, sliced = slice_vocabulary(CONFIG, teacher, [5, 0, 60], tiny_tokenizer())
    assert config.vocab_size == 3
    np.testing.assert_array_equal(sliced[EMBEDDING], teacher[EMBEDDING][[5, 0, 60]])
