"""Face sets in MXNet RecordIO, without mxnet."""
