module hyperexport/benchmarks/s3sink

go 1.22
