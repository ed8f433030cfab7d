"""A package of somebody else that brings a method, and four that fail in ways of their own."""
