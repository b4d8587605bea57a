"""Face sets in MXNet RecordIO, without mxnet: read, written, checked and made; it knows neither sibling package."""
