"""A node of a pipeline: what its parts may say together."""

import pytest

from k15.recipes import Node


def test_a_licence_is_of_the_files_a_node_brings():
    node = Node.parse({"kind": "data", "files": {"questions": "q.jsonl"}, "license": "MIT"}, where="node")
    assert node.license == "MIT"
    with pytest.raises(ValueError, match="there are none; remove it"):
        Node.parse({"kind": "data", "license": "MIT"}, where="node")
