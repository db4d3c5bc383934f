"""Golive's library. Imports run one way: release, operations -> evaluation -> index -> config -> platform."""
