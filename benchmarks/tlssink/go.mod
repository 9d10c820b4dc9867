module hyperexport/benchmarks/tlssink

go 1.22
