"""A package of somebody else that brings a method, and three that fail in ways of their own."""
