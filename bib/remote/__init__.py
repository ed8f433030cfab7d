"""Services that know bibliographic facts: what they say of a work, and whom it cites. Nothing else asks a network."""
