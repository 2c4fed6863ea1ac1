"""What runs in the peers' own environments; nothing of ours is imported there."""
