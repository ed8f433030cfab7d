"""The curated catalogue: what eelit says of each work, typed, validated and searchable."""
