"""Words about a run: values in, text out. This room never asks a server or a store, and never decides anything."""
