"""A graph as JSON, GraphML (Gephi, networkx), DOT (Graphviz) or Mermaid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from eelit.bib.graph import Edge, Graph


def to_json(graph: Graph) -> str:
    """Return nodes, edges and the note on completeness as one JSON document."""
    data = {
        "note": graph.note(),
        "nodes": [asdict(node) for node in graph.nodes.values()],
        "edges": [asdict(edge) for edge in graph.edges],
    }
    return json.dumps(data, ensure_ascii=False, indent=2)


def to_graphml(graph: Graph) -> str:
    """Return GraphML with all attributes of nodes and edges."""
    import networkx

    return "\n".join(networkx.generate_graphml(graph.to_networkx()))


def to_dot(graph: Graph) -> str:
    """Return DOT: citations solid, comparisons dotted, relations coloured, unverified edges dashed and grey."""
    lines = ["digraph eelit {", "  rankdir = LR;", "  node [shape = box];", f"  // {graph.note()}"]
    for node in graph.nodes.values():
        lines.append(f'  {node.key} [label = "{_quoted(node.name)}\\n{node.year}", tooltip = "{_quoted(node.title)}"];')
    lines += [f"  {edge.source} -> {edge.target} [{_dot_style(edge)}];" for edge in graph.edges]
    return "\n".join([*lines, "}"])


def _dot_style(edge: Edge) -> str:
    if not edge.verified:
        return f'label = "{edge.verb} (unverified)", style = dashed, color = gray'
    if edge.group == "citation":
        return "style = solid"
    style = "dotted" if edge.group == "comparison" else "solid"
    return f'label = "{edge.verb}", style = {style}, color = steelblue'


def to_mermaid(graph: Graph) -> str:
    """Return a Mermaid flow chart; unverified edges and comparisons are dotted."""
    lines = ["flowchart LR", f"  %% {graph.note()}"]
    lines += [f'  {node.key}["{_quoted(node.name)} {node.year}"]' for node in graph.nodes.values()]
    for edge in graph.edges:
        label = "" if edge.group == "citation" else f"|{edge.verb}{'' if edge.verified else ' (unverified)'}|"
        arrow = "-->" if edge.verified and edge.group != "comparison" else "-.->"
        lines.append(f"  {edge.source} {arrow}{label} {edge.target}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return text.replace('"', "'").replace("\\", "")


FORMATS: dict[str, Callable[[Graph], str]] = {
    "json": to_json,
    "graphml": to_graphml,
    "dot": to_dot,
    "mermaid": to_mermaid,
}
