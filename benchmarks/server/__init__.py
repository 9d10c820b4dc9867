"""The server of the benchmarks: in Go where Go is, else in Python."""
