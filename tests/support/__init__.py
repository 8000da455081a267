"""Shared by tests, benches and the demo: response bodies with known contents, and slow, simple readers of them."""
