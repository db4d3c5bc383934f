"""The rim: everything that touches the outside (PostgreSQL, files, clock, model services, terminal)."""
