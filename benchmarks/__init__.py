"""Ratios against peers, measured in the same run on the same machine: only ratios travel to another one."""
