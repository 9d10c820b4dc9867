"""Where exports live. One small interface (``base``), a folder (``local``) and a bucket (``s3``)."""
