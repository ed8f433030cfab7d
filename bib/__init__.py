"""The bibliography: title, authors, year, venue and identifiers of each work, and who cites whom."""
