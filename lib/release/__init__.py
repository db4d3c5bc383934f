"""A release's life: lock, manifest, health, backup, checklist, promotion, traffic, restore, report."""
