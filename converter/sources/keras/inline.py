"""Calls of functions in a TensorFlow graph replaced by their bodies; loops and branches stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.quiet import quiet

__all__ = ["inlined"]

_CALLS = frozenset(["PartitionedCall", "StatefulPartitionedCall"])
_CONTROL_FLOW = frozenset(["If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"])


def inlined(graph: Any, fetches: Sequence[str]) -> Any:
    """The GraphDef of a FuncGraph without function calls, by Grappler's function optimizer.

    Functions that Keras marks for XLA (`jit_compile=True`) are inlined like the others: compiling
    is a way to run a function and no part of what it computes.

    Args:
        graph: the FuncGraph.
        fetches: names of the tensors that must survive.
    """
    graph_def = graph.as_graph_def()
    if not any(node.op in _CALLS for node in graph_def.node):
        return graph_def
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer
    from tensorflow.python.training.saver import export_meta_graph

    bodies = [function.node_def for function in graph_def.library.function]
    for node in [node for body in (graph_def.node, *bodies) for node in body]:
        if node.op in _CONTROL_FLOW:
            node.attr["_lower_using_switch_merge"].b = False
        node.attr.pop("_XlaMustCompile", None)
    for function in graph_def.library.function:
        function.attr.pop("_XlaMustCompile", None)
        function.attr.pop("api_implements", None)

    meta_graph = export_meta_graph(graph_def=graph_def, graph=graph)
    wanted = meta_graph_pb2.CollectionDef()
    wanted.node_list.value.extend(fetches)
    meta_graph.collection_def["train_op"].CopyFrom(wanted)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1  # small graphs, too
    options.optimizers.append("function")
    options.function_optimization = rewriter_config_pb2.RewriterConfig.AGGRESSIVE
    with quiet():
        return tf_optimizer.OptimizeGraph(config, meta_graph)
