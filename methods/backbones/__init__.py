"""Backbones: the networks that exits are put on, with what a method needs inside of them. Nothing else lives here."""
