"""Pure decisions: what to transfer, what to delete, which snapshots to touch, each with its reason in words.

Values in, a plan out. A dry run shows the plan and a real run carries out that same value, so nothing in this room may
ever open a file or a connection, ask the time, or act.
"""
