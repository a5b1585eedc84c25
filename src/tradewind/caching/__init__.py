"""Question 2, caching: answers, embeddings, what is computed on the way; what each saves and what it risks."""
