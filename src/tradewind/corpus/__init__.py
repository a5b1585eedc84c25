"""Installed packages -> documentation records -> questions with gold symbols, and code tasks.

Reads packages and writes JSON lines; it does not know any model. Of the tokenizer it knows only a rule of thumb
(four characters a token), so the corpus does not depend on which base is used.
"""
