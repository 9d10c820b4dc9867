module hyperexport/benchmarks/server

go 1.22
