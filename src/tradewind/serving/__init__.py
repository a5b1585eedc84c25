"""The OpenAI-compatible API over the scheduler: wire types, routes, errors, streaming, and the process that serves
them.
"""
