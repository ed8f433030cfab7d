"""A package of somebody else that brings two methods."""
