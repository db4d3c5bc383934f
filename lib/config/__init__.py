"""Configs: layers and where each value came from, JSON Schemas, hard caps, locked configs."""
