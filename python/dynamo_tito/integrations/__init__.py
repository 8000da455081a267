"""Adapters for the frameworks that train with token-in/token-out servers: one module for each."""
