"""Small devices: an answer on one core under a memory cap, and a page that answers in the browser with no server.

Both run the variants of the main pipeline with ONNX Runtime; neither imports JAX or transformers where it answers.
"""
