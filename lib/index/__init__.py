"""The index: documents, chunking, near-duplicates, embedding, shadow tables, hybrid retrieval."""
