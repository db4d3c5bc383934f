"""Evaluation: cases, reader, judges, RAGChecker metrics, significance, the gate."""
