"""What tests, benches and the demo share: response bodies with known contents, and slow, obvious ways to read them."""
