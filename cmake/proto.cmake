# Rules for protobuf: our own wires from proto/, the Modal wire from the pinned client's descriptors.
